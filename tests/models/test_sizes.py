"""A general model of another size is added to a bundle, which is otherwise unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cachenet.models.cli import app
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import Session
from tests.hampered import hampered_bundle, pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(hampered_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("frames"), 0, 300)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["add-size", *map(str, arguments), "--quick"])


def test_a_smaller_general_model_is_added_and_nothing_else_changes(
    bundle: Bundle, frames: Path, tmp_path: Path
) -> None:
    arguments = (bundle.directory, "--data", frames, "--work", tmp_path / "work")
    done = run(*arguments, "--share", 0.005, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    before, bundle_after = bundle.manifest, Bundle(tmp_path / "out")
    after = bundle_after.manifest
    assert {name: after.models[name].sha256 for name in before.models} == {
        name: model.sha256 for name, model in before.models.items()
    }
    [name] = set(after.models) - set(before.models)
    own = after.models[name]
    assert after.generals() == [name]
    assert own.macs <= 0.005 * before.models["full"].macs < before.models["base"].macs
    assert own.temperature != 1.0 or any(own.coverage)
    scores = Session(bundle_after.path(name), "cpu").run(np.zeros((1, 3, 32, 32), np.float32))
    assert scores.shape == (1, len(after.labels))
    assert "to prove" in after.provenance["proven"]

    again = run(tmp_path / "out", *arguments[1:], "--share", 0.005, "--out", tmp_path / "twice")
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1), again.output
    assert f"has {name} already; name another --share" in again.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"work", "out"}
