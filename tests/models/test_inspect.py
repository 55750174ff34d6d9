"""``model-builder inspect``: a user's model and frames, and the verdict on them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cachenet.models.cli import app
from cachenet.models.data import sample
from cachenet.models.export.classifier import PRESETS
from cachenet.models.report import contact_sheet, inspection
from tests.models.onnx_kinds import Made
from tests.models.test_classifier import write

pytestmark = pytest.mark.slow

FULL = Path(__file__).parents[2] / "models" / "zoo" / "cifar10" / "full" / "1" / "model.onnx"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred test images of CIFAR-10, in a directory for each class."""
    directory, split = tmp_path_factory.mktemp("classes"), sample.load()
    for number in range(0, 1000, 10):
        folder = directory / sample.LABELS[split.labels[number]]
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{number:03}.png"), split.images[number][:, :, ::-1])
    return directory


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work directory of the shipped full model's outputs for the pictures."""
    return tmp_path_factory.mktemp("work")


def test_the_accuracy_is_measured_with_a_directory_for_each_label(by_class: Path, work: Path) -> None:
    done = run("--full", FULL, "--data", by_class, "--work", work, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["frames"] == 100
    assert found["accuracy"] > 0.85
    assert abs(sum(found["labels"].values()) - 1) < 1e-9
    table = run("--full", FULL, "--data", by_class, "--work", work)
    assert "accuracy" in table.stdout


def test_wrong_preprocessing_lowers_the_accuracy(by_class: Path, tmp_path: Path) -> None:
    wrong = json.dumps({"side": 32, "mean": [1000.0, 0.0, 0.0], "std": [10.0, 10.0, 10.0]})
    done = run("--full", FULL, "--data", by_class, "--work", tmp_path, "--json", "--preprocessing", wrong)
    assert json.loads(done.stdout)["accuracy"] < 0.4


def test_frames_without_labels_have_no_accuracy(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    cv2.imwrite(str(tmp_path / "data" / "a.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "data" / "b.png").write_bytes(b"broken")
    done = run("--full", FULL, "--data", tmp_path / "data", "--work", tmp_path / "work", "--json")
    found = json.loads(done.stdout)
    assert "accuracy" not in found
    assert (found["frames"], found["skipped"]) == (1, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preprocessing", "photo"], "is no preprocessing; give imagenet"),
        (["--labels", "none.txt"], "--labels none.txt is not there"),
        ([], "--preprocessing (imagenet"),
    ],
)
def test_invalid_input_is_one_line(tmp_path: Path, by_class: Path, flags: list[str], message: str) -> None:
    full = write(tmp_path / "m.onnx") if not flags else FULL
    done = run("--full", full, "--data", by_class, "--work", tmp_path / "work", *flags)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_a_directory_without_pictures_is_refused(tmp_path: Path) -> None:
    done = run("--full", FULL, "--data", tmp_path)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "holds no pictures" in done.stderr


def inspected(full: Path, data: Path, work: Path, *flags: str) -> dict[str, Any]:
    done = run("--full", full, "--data", data, "--work", work, "--json", *flags)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_answers_are_compared_with_those_of_onnx_runtime(
    by_class: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inspected(FULL, by_class, work)
    assert found["as ONNX Runtime"]["same label"] == 1
    assert found["as ONNX Runtime"]["largest difference"] < 1e-3
    assert found["verdict"][0].startswith("It fits: confidence ")
    original = inspection.OnnxRun.__call__

    def others(self: inspection.OnnxRun, outputs: Any, batch: Any) -> Any:
        """Other outputs of the original file."""
        made = original(self, outputs, batch)
        return [np.roll(one, 1, axis=1) for one in made] if outputs is None else made

    monkeypatch.setattr(inspection.OnnxRun, "__call__", others)
    found = inspected(FULL, by_class, work)
    assert found["as ONNX Runtime"]["same label"] < 0.1
    assert any("ONNX Runtime alone gives another label" in line for line in found["verdict"])


def test_the_verdict_on_low_confidence_has_other_preprocessing(by_class: Path, tmp_path: Path) -> None:
    """Pixels are scaled to nearly zero, so the network has no confidence."""
    made = Made()
    path = made.save(tmp_path / "m.onnx", made.node("Softmax", [made.trunk()], "out"), shape=("n", 3, "h", "w"))
    tiny = json.dumps({"side": 16, "mean": [0, 0, 0], "std": [2e5] * 3})
    found = inspected(path, by_class, tmp_path / "work", "--preprocessing", tiny)
    [low] = [line for line in found["verdict"] if line.startswith("Confidence is low")]
    assert f"{found['confidence']:.0%} on average, where chance is 25.0%" in low
    tried = {name: int(confidence) for name, confidence in re.findall(r"([a-z-]+) \((\d+)%\)", low)}
    assert set(tried) == set(PRESETS)
    assert tried["raw"] > tried["unit"], "the largest scale gives the most confidence"


def test_the_verdict_names_a_label_of_nearly_all_frames(by_class: Path, tmp_path: Path, work: Path) -> None:
    found = inspected(FULL, by_class / "ship", tmp_path)
    [label, *_] = found["labels"]
    assert (label, found["labels"][label] >= 0.9) == ("ship", True)
    assert any(line.startswith("'ship' is the answer to ") for line in found["verdict"])
    assert not any("is the answer to" in line for line in inspected(FULL, by_class, work)["verdict"])


def test_the_verdict_names_independent_labels(by_class: Path, tmp_path: Path) -> None:
    made = Made()
    path = made.save(tmp_path / "m.onnx", made.node("Sigmoid", [made.trunk()], "out"), shape=("n", 3, "h", "w"))
    found = inspected(path, by_class, tmp_path / "work", "--preprocessing", "unit,16x16")
    assert found["output"] == "a probability for each label by itself (sigmoid)"
    assert any("judges each label by itself" in line and "have several labels" in line for line in found["verdict"])


def test_ten_evenly_spaced_frames_are_drawn_with_their_labels(
    by_class: Path, tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[contact_sheet.Panel] = []

    def sheet(title: str, panels: list[contact_sheet.Panel], draw: Any = contact_sheet.sheet) -> bytes:
        drawn.extend(panels)
        assert "32x32 rgb" in title
        return bytes(draw(title, panels))

    monkeypatch.setattr(contact_sheet, "sheet", sheet)
    found = run("--full", FULL, "--data", by_class, "--work", work, "--draw", tmp_path / "out.png")
    assert found.exit_code == 0, found.output
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert picture is not None and min(picture.shape[:2]) > 600
    assert len(drawn) == 10
    shown = [next(by_class.glob(f"*/{panel.title}")) for panel in drawn]
    assert {sorted(by_class.glob("*/*")).index(path) for path in shown} >= {0, 99}
    right = [panel.labels[0][0] == path.parent.name for panel, path in zip(drawn, shown, strict=True)]
    assert sum(right) >= 8
    assert all(one >= other for panel in drawn for (_, one), (_, other) in pairwise(panel.labels))


def test_labels_of_a_model_are_shown_as_plain_text(by_class: Path, tmp_path: Path) -> None:
    names = {0: "[red]a[/red]", 1: "\x1b[2Jb", 2: "$c_d$", 3: "d\n"}
    made = Made()
    path = made.save(tmp_path / "m.onnx", made.trunk(), shape=("n", 3, 16, 16), metadata={"names": repr(names)})
    for show in ([], ["--draw", tmp_path / "out.png"]):
        done = run("--full", path, "--data", by_class, "--work", tmp_path, "--preprocessing", "unit", *show)
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.output


def test_a_directory_as_the_drawing_is_refused(by_class: Path, tmp_path: Path) -> None:
    done = run("--full", FULL, "--data", by_class, "--work", tmp_path / "work", "--draw", tmp_path)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "work").exists()
