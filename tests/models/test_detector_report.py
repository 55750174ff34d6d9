"""``model-builder report`` on detectors: hits, misses and false objects by size, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cachenet.models.cli import app
from cachenet.models.report.detector_report import measures, outcome
from cachenet.shared.cascade.detect.detections import checked
from tests.detectors import detector_bundle
from tests.models import squares


def test_hits_misses_and_false_objects_are_those_of_the_full_model() -> None:
    reference = checked([[0.1, 0.1, 0.3, 0.5], [0.6, 0.1, 0.8, 0.9]], [0, 0], [0.9, 0.8], 2)
    found = checked([[0.1, 0.1, 0.3, 0.52], [0.6, 0.1, 0.8, 0.9]], [0, 1], [0.7, 0.6], 2)
    one = outcome(found, reference)
    assert one.hits.tolist() == [reference.boxes[0].tolist()]
    assert one.misses.tolist() == [reference.boxes[1].tolist()]  # another label
    assert one.false.tolist() == [found.boxes[1].tolist()]


def test_every_object_is_counted_once_by_size() -> None:
    rng = np.random.default_rng(0)

    def some() -> object:
        low = rng.uniform(0, 0.5, (6, 2))
        return checked(np.c_[low, low + rng.uniform(0.05, 0.5, (6, 2))], [0] * 6, rng.uniform(0.1, 1, 6), 1)

    outcomes = [outcome(some(), some()) for _ in range(20)]  # type: ignore[arg-type]
    found = measures(outcomes, [0.2, 0.35])
    for part in ("hits", "misses", "false"):
        assert sum(own[part] for own in found["sizes"].values()) == sum(len(getattr(one, part)) for one in outcomes)
    assert min(found["precision"], found["recall"]) <= found["f1"] <= max(found["precision"], found["recall"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector_bundle(tmp_path_factory.mktemp("bundle"))


def test_the_command_prints_json_and_writes_a_page(bundle: Path, tmp_path: Path) -> None:
    video = squares.video(tmp_path / "squares.avi", 40)
    command = ["report", bundle, "--data", video, "--html", tmp_path / "page.html", "--json", "--threads", 1]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert (results["frames"], results["device"]) == (40, "near")
    assert 0 <= results["models"]["base"]["f1"] <= 1
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Where it errs" in page and page.count("data:image/png") >= 1


def test_without_footage_the_command_says_what_is_missing(bundle: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(bundle)])
    assert done.exit_code == 2
    assert "needs footage; give --data" in done.output
