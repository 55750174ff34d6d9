"""Builds of detectors: from any detector and footage to a bundle; resumable, and never half written."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from cachenet.models.cli import app
from cachenet.models.data.frames import FramesError, find
from cachenet.models.detect import agreement, build
from cachenet.models.detect.build import QUICK, LabelsError, common_labels
from cachenet.models.detect.footage import Block, collect, label, take
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.shared.bundle.manifest import Bundle, BundleError, parse
from cachenet.shared.cascade.detect.detections import checked
from cachenet.shared.cascade.detect.spec import CANDIDATES
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from tests.models import squares

pytestmark = pytest.mark.slow

CONFIG = replace(QUICK, name="squares", epochs=3, area=squares.SIZE[0] * squares.SIZE[1])


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 frames, of which 24 are to tune and 48 to prove with."""
    return squares.video(tmp_path_factory.mktemp("footage") / "squares.avi", 240)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> DetectorModel:
    return load_detector(squares.detector(tmp_path_factory.mktemp("full") / "full.onnx"))


def make(
    full: DetectorModel,
    footage: Path,
    work: Path,
    out: Path,
    base: DetectorModel | None = None,
    config: build.DetectorConfig = CONFIG,
) -> Bundle:
    with Progress(console=Console(file=io.StringIO())) as progress:
        return build.build(config, full, base, [find(footage)], work, out, progress)


@pytest.fixture(scope="module")
def bundle(full: DetectorModel, footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("whole")
    return make(full, footage, directory / "work", directory / "out")


def pictures(path: Path, count: int) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    return [video.read()[1] for _ in range(count)]


def test_the_bundle_is_of_detectors_with_the_users_full_model(
    bundle: Bundle, full: DetectorModel, footage: Path
) -> None:
    manifest = bundle.manifest
    assert (manifest.task, manifest.labels, set(manifest.models)) == ("detection", ("square",), {"full", "base"})
    for model in manifest.models.values():
        assert model.decoder is not None and model.temperature == 1.0
    model = manifest.models["full"]
    assert model.decoder is not None
    served = Detector(Session(bundle.path("full"), "cpu").run_all, model.input, model.decoder)
    for picture in pictures(footage, 3):
        found, expected = served(picture), full.detector()(picture)
        assert len(found) == 2
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-6)


def test_the_own_detector_learns_the_squares(bundle: Bundle) -> None:
    """A hundred and fifty steps are enough for squares."""
    assert float(bundle.manifest.provenance["f1 of base"]) > 0.6
    learned, *_ = bundle.manifest.provenance["tracks"].split()
    assert 2 <= int(learned) <= 6  # two squares, which cross at times


def test_the_shown_agreement_is_that_of_the_models_in_the_bundle(
    bundle: Bundle, full: DetectorModel, footage: Path, tmp_path: Path
) -> None:
    """F1 in the provenance is that of the bundle's file on the last fifth of the footage, at the tuned threshold."""
    model = bundle.manifest.models["base"]
    assert model.decoder is not None
    with Progress(console=Console(file=io.StringIO())) as progress:
        parts = collect(full, [find(footage)], model.input, tmp_path, 1, progress)
    detector = Detector(Session(bundle.path("base"), "cpu").run_all, model.input, model.decoder)
    found = agreement.run(detector, parts.prove)
    tuned = round(model.decoder.score / CANDIDATES, 2)
    again = agreement.at(found, parts.prove.reference, tuned).f1
    assert bundle.manifest.provenance["f1 of base"] == f"{again:.4f}"


def test_uses_are_divided_by_time_with_gaps(full: DetectorModel, footage: Path, tmp_path: Path) -> None:
    with Progress(console=Console(file=io.StringIO())) as progress:
        parts = collect(full, [find(footage)], build.own_input(squares.SIZE, CONFIG.area), tmp_path, 1, progress)
    assert [len(part) for part in (parts.learn, parts.tune, parts.prove)] == [162, 24, 42]
    expected = pictures(footage, 240)
    size = (parts.learn.pictures.shape[2], parts.learn.pictures.shape[1])
    for part, frame in ((parts.learn, 0), (parts.tune, 168), (parts.prove, 198)):
        small = cv2.resize(expected[frame], size, interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(part.pictures[0], small[:, :, ::-1])


def test_a_users_base_model_is_the_base_beside_the_own_detector(
    full: DetectorModel, footage: Path, tmp_path: Path
) -> None:
    base = load_detector(squares.detector(tmp_path / "small.onnx"))
    manifest = make(full, footage, tmp_path / "work", tmp_path / "out", base).manifest
    assert {name: model.role for name, model in manifest.models.items()} == {
        "full": "full",
        "base": "base",
        "scene": "submodel",
    }
    assert manifest.provenance["f1 of base"] == "1.0000"  # it is the full model once more


def test_a_base_model_is_fine_tuned_to_a_submodel_for_the_place(
    full: DetectorModel, footage: Path, tmp_path: Path
) -> None:
    """The given base model is an own one that has learned for one epoch: two more make it better."""
    first = make(full, footage, tmp_path / "first work", tmp_path / "first", config=replace(CONFIG, epochs=1))
    base = load_detector(first.path("base"))
    made = make(full, footage, tmp_path / "work", tmp_path / "out", base)
    models = made.manifest.models
    assert made.manifest.provenance["scene"].startswith("base model, fine-tuned")
    assert (models["scene"].macs, models["scene"].input) == (models["base"].macs, models["base"].input)
    assert models["scene"].sha256 != models["base"].sha256
    assert models["scene"].coverage[0] > models["base"].coverage[0]
    assert "submodel" in made.manifest.scene_priors and "submodel-missed" in made.manifest.scene_priors


def test_a_built_detector_can_be_a_base_model(bundle: Bundle) -> None:
    again, model = load_detector(bundle.path("base")), bundle.manifest.models["base"]
    assert model.decoder is not None
    assert (again.labels, again.input, again.decoder.kind) == (("square",), model.input, "heatmap")


def test_an_interrupted_build_gives_the_same_bundle(
    bundle: Bundle, full: DetectorModel, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build ends at every file that it writes, and is repeated until it is done."""
    write = atomic_files.write
    limit = 0

    def fragile(path: Path, data: bytes | memoryview) -> None:
        nonlocal limit
        write(path, data)
        if path.name != "bundle.json":
            limit -= 1
            if limit == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(atomic_files, "write", fragile)
    out, stops = tmp_path / "out", 0
    for attempt in range(1, 30):
        limit = 1 if attempt < 4 else 3
        try:
            resumed = make(full, footage, tmp_path / "work", out)
            break
        except KeyboardInterrupt:
            stops += 1
            assert not out.exists()
    else:
        pytest.fail("the build does not get on")
    assert stops >= 4
    for name, model in bundle.manifest.models.items():
        assert resumed.manifest.models[name].sha256 == model.sha256
    assert resumed.manifest.provenance == bundle.manifest.provenance


def test_labels_are_those_of_a_run_without_interruption(full: DetectorModel, footage: Path, tmp_path: Path) -> None:
    found, files, sizes = label(full, find(footage), tmp_path, 1, lambda _: None)
    stored, again, _ = label(full, find(footage), tmp_path, 1, lambda _: None)
    assert len(found) == len(files) == 240
    assert set(sizes) == {squares.SIZE}
    assert [one.boxes.tolist() for one in found] == [one.boxes.tolist() for one in stored]
    np.testing.assert_array_equal(files, again)
    assert {len(one) for one in found} <= {1, 2, 3}


def test_two_detectors_share_the_labels_of_both(tmp_path: Path) -> None:
    one = load_detector(squares.detector(tmp_path / "one.onnx", ("circle", "square")))
    other = load_detector(squares.detector(tmp_path / "other.onnx", ("square", "star")))
    full, base = common_labels(one, other)
    assert full.labels == base.labels == ("square",)
    assert (full.decoder.classes, base.decoder.classes) == ((1,), (0,))
    with pytest.raises(LabelsError, match=r"other\.onnx has no label of third\.onnx \(circle\); give --labels"):
        common_labels(load_detector(squares.detector(tmp_path / "third.onnx", ("circle",))), other)


def test_footage_without_objects_is_refused(full: DetectorModel, tmp_path: Path) -> None:
    path = squares.video(tmp_path / "empty.avi", 200, squares=0)
    with pytest.raises(FramesError, match=r"finds 0 objects in the \d+ frames to learn from, and 20 are needed"):
        make(full, path, tmp_path / "work", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_frames_are_refused(full: DetectorModel, tmp_path: Path) -> None:
    path = squares.video(tmp_path / "short.avi", 60)
    with pytest.raises(FramesError, match="6 frames to tune with, and 20 are needed; give more frames"):
        make(full, path, tmp_path / "work", tmp_path / "out")


def test_objects_are_counted_once_while_they_are_followed() -> None:
    """One object that moves slowly, one of too few frames, and one in another video."""

    def frame(*lefts: float) -> object:
        return checked([[left, 0.1, left + 0.2, 0.5] for left in lefts], [0] * len(lefts), [0.9] * len(lefts), 1)

    shown = [frame(0.1 + 0.01 * at, *([0.7] if at < 3 else [])) for at in range(20)]
    blank = np.zeros((20, 32, 32, 3), np.uint8)
    block = Block(blank, tuple(shown), np.zeros(20, np.int64), 0.4)  # type: ignore[arg-type]
    assert agreement.tracks(block) == 1
    assert agreement.tracks(replace(block, sequences=np.repeat([0, 1], 10))) == 2
    assert agreement.tracks(take(block, np.arange(4))) == 0


def test_the_command_builds_a_bundle_of_a_detector(footage: Path, tmp_path: Path) -> None:
    full = squares.detector(tmp_path / "full.onnx")
    command = ["build", "--quick", "--full", str(full), "--data", str(footage), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--work", str(tmp_path / "work"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["name"] == "out" and found["tracks"] and 0 <= found["models"]["base"]["f1"] <= 1
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "out")])
    assert shown.exit_code == 0 and "F1" in shown.output and "to learn" in shown.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--share", "0.1"], "--share is for a classifier, and"),
        (["--set", "scenes=scenes.json"], "--scenes is for a classifier, and"),
        (["--labels", "labels.txt"], "has no class 'dog'"),
    ],
)
def test_what_a_detector_cannot_use_is_refused_in_one_line(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scenes.json").write_text("[]")
    Path("labels.txt").write_text("dog\n")
    full = squares.detector(tmp_path / "full.onnx", ("square", "star"))
    result = CliRunner().invoke(app, ["build", "--full", str(full), "--data", str(footage), "--out", "out", *more])
    assert result.exit_code == 2
    assert message in result.output and len(result.output.splitlines()) == 1


def test_a_command_for_classifiers_refuses_a_bundle_of_detectors(bundle: Bundle, footage: Path) -> None:
    result = CliRunner().invoke(app, ["exits", str(bundle.directory), "--data", str(footage), "--out", "out"])
    assert result.exit_code == 2
    assert "is a bundle of detectors, and this command is for classifiers" in result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": None}, "base has no decoder, and the task is detection"),
        ({"coverage": [0.5, 0.5]}, "base does not fit the labels"),
        ({"decoder": {"kind": "heatmap", "classes": [0, 1]}}, "base has a decoder that does not fit the labels"),
    ],
)
def test_a_manifest_of_detectors_out_of_form_is_refused(
    bundle: Bundle, change: dict[str, object], message: str
) -> None:
    fields = json.loads(bundle.data)
    fields["models"]["base"].update(change)
    with pytest.raises(BundleError, match=message):
        parse(json.dumps(fields).encode())
