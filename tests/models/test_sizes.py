"""The command ``add-size``: a general model of another size joins a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cachenet.models.cli import app
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import Session

pytestmark = pytest.mark.slow


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["add-size", *map(str, arguments), "--quick"])


def test_a_smaller_general_model_joins_and_the_other_models_stay(
    hampered: Bundle, sample_frames: Path, tmp_path: Path
) -> None:
    flags = ("--data", sample_frames, "--work", tmp_path / "work")
    done = run(hampered.directory, *flags, "--share", 0.005, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    before, made = hampered.manifest, Bundle(tmp_path / "out")
    after = made.manifest
    assert {name: after.models[name].sha256 for name in before.models} == {
        name: model.sha256 for name, model in before.models.items()
    }
    [name] = set(after.models) - set(before.models)
    own = after.models[name]
    assert after.general_models() == [name]
    assert own.macs <= 0.005 * before.models["full"].macs < before.models["base"].macs
    assert own.temperature != 1.0 or any(own.coverage)
    logits = Session(made.path(name), "cpu").run(np.zeros((1, 3, 32, 32), np.float32))
    assert logits.shape == (1, len(after.labels))
    assert "to prove" in after.provenance["proven"]

    again = run(tmp_path / "out", *flags, "--share", 0.005, "--out", tmp_path / "twice")
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1), again.output
    assert f"has {name} already; name another --share" in again.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"work", "out"}
