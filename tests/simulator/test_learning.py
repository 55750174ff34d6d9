"""A place is learned: the figures are those of the lines, and the picture shows them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from cachenet.edge_agent.outputs.report import Line
from cachenet.models.data import sample
from cachenet.models.data.cifar10 import Split
from cachenet.shared.bundle.manifest import Bundle
from cachenet.simulator.cli import app
from cachenet.simulator.report import picture
from cachenet.simulator.world import learning
from cachenet.simulator.world.learning import Times

pytestmark = pytest.mark.slow

TIMES = Times(missed=2.0, begun=10.0, ended=20.0, used=22.0)


def line(number: int, level: str, model: str, ms: float, right: bool = True) -> Line:
    return Line(number, float(number), "cat" if right else "dog", 0.9, 0.1, level, model, ms, truth="cat")


def lines() -> list[Line]:
    """A second apart: half of the frames are answered locally before the training, and nine of ten with the update."""
    before = [
        line(n, *(("base", "base", 1.0) if n % 2 else ("cloud", "full", 40.0)), right=n % 4 > 0) for n in range(10)
    ]
    during = [line(n, "cloud", "full", 44.0) for n in range(10, 20)]
    between = [line(n, "base", "base", 1.0) for n in range(20, 22)]
    after = [
        line(n, *(("submodels", "update-001-cat", 1.0) if n % 10 else ("cloud", "full", 40.0))) for n in range(22, 42)
    ]
    return before + during + between + after


def test_before_and_after_are_told_apart_by_the_times() -> None:
    outcome = learning.measure(lines(), TIMES, 10)
    assert outcome.local == (0.5, 0.9)
    assert outcome.accuracy == (pytest.approx(0.7), 1.0)
    assert outcome.cloud_ms == (40.0, 44.0)
    assert outcome.used_after_s == 20.0
    assert outcome.trained_in_s == 10.0
    assert outcome.update == "update-001-cat"
    assert "20 s after" in learning.sentence(outcome)


def test_what_is_trained_with_is_not_what_it_is_judged_by() -> None:
    both = sample.load()
    numbered = Split(both.images, np.arange(len(both)))
    one, other = learning.halves(numbered)
    assert not set(one.labels) & set(other.labels)
    assert sorted([*one.labels, *other.labels]) == list(range(len(both)))


def test_an_update_is_judged_on_the_same_streams_without_and_with_it() -> None:
    """On other streams of the place; an update that knows nothing new adds nothing."""
    zoo = Bundle(Path(__file__).parents[2] / "models" / "zoo" / "cifar10")
    names = {"full": "full", "base": "base", "update-1": "base"}
    models = {new: zoo.manifest.models[old] for new, old in names.items()}
    models["update-1"] = msgspec.structs.replace(models["update-1"], role="submodel", classes=(3, 5))
    bundle = Bundle(zoo.directory)
    bundle.manifest = msgspec.structs.replace(zoo.manifest, models=models)
    found = learning.replayed(bundle, 3, sample.load(), first_seed=1, count=1)
    assert (found.streams, found.frames) == (1, 1000)
    assert found.local[0] > 0.3 and abs(found.local[1] - found.local[0]) < 0.05
    assert max(found.disagreement) < 0.03


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "learning.png"
    picture.learning(path, lines(), TIMES, learning.measure(lines(), TIMES, 10), ["cat"])
    assert path.stat().st_size > 10_000


def test_a_scene_that_the_bundle_was_made_for_is_refused() -> None:
    result = CliRunner().invoke(app, ["live", "--specialise", "--scene", "0"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "those are 3, 5, 10, 11" in result.stderr
