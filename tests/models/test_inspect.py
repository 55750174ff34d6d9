"""``model-builder inspect``: a stranger's model and frames, and what is said where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from models import sample
from models.cli import app
from tests.models.test_classifier import write

FULL = Path(__file__).parents[2] / "models" / "zoo" / "cifar10" / "full" / "1" / "model.onnx"


def run(*given: str | Path) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, given)])


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred test images of CIFAR-10, in a directory for each class."""
    directory, split = tmp_path_factory.mktemp("classes"), sample.load()
    for number in range(0, 1000, 10):
        folder = directory / sample.LABELS[split.labels[number]]
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{number:03}.png"), split.images[number][:, :, ::-1])
    return directory


def test_the_shipped_full_model_is_seen_to_be_right_about_pictures_by_class(by_class: Path, tmp_path: Path) -> None:
    done = run("--full", FULL, "--data", by_class, "--work", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    seen = json.loads(done.stdout)
    assert seen["frames"] == 100
    assert seen["accuracy"] > 0.85
    assert abs(sum(seen["labels"].values()) - 1) < 1e-9
    table = run("--full", FULL, "--data", by_class, "--work", tmp_path)
    assert "accuracy" in table.stdout


def test_pictures_that_are_prepared_wrongly_show(by_class: Path, tmp_path: Path) -> None:
    wrong = json.dumps({"side": 32, "mean": [1000.0, 0.0, 0.0], "std": [10.0, 10.0, 10.0]})
    done = run("--full", FULL, "--data", by_class, "--work", tmp_path, "--json", "--preprocessing", wrong)
    assert json.loads(done.stdout)["accuracy"] < 0.4


def test_frames_without_labels_are_inspected_as_well(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    cv2.imwrite(str(tmp_path / "data" / "a.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "data" / "b.png").write_bytes(b"broken")
    done = run("--full", FULL, "--data", tmp_path / "data", "--work", tmp_path / "work", "--json")
    seen = json.loads(done.stdout)
    assert "accuracy" not in seen
    assert (seen["frames"], seen["skipped"]) == (1, 1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--preprocessing", "photo"], "is no preprocessing; give imagenet"),
        (["--labels", "none.txt"], "none.txt: No such file"),
        (["--embedding", "nowhere"], "no tensor 'nowhere'"),
        ([], "--preprocessing (imagenet"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(tmp_path: Path, by_class: Path, given: list[str], told: str) -> None:
    full = write(tmp_path / "m.onnx") if not given else FULL
    done = run("--full", full, "--data", by_class, "--work", tmp_path / "work", *given)
    assert done.exit_code == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_a_directory_without_pictures_is_refused(tmp_path: Path) -> None:
    done = run("--full", FULL, "--data", tmp_path)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "holds no pictures" in done.stderr
