"""Devices and servers answer with an unusual classifier as ONNX Runtime alone does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import TensorProto
from typer.testing import CliRunner

from cachenet.cloud_server.serving.full_model import FullModel
from cachenet.edge_agent.cli import app as edge_agent
from cachenet.models.certify.traces import view
from cachenet.models.cli import app
from cachenet.models.export import external_model
from cachenet.models.export.classifier import ClassifierError, load_classifier, parse_preprocessing
from cachenet.models.report.scores import softmax
from cachenet.models.train.candidates import local_input
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.image import Input, Picture, crop, encode, preprocessor
from tests.models.onnx_kinds import CLASSES, HEIGHT, WIDTH, Made, wide

pytestmark = pytest.mark.slow

COUNT = 220
LABELS = {0: "cat", 1: "dog, wild", 2: "猫", 3: "none"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 40x30 in random colours."""
    directory, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    for number in range(COUNT):
        blocks = rng.integers(0, 256, (2, 3, 3), np.uint8)
        noise = rng.integers(0, 40, (30, 40, 3), np.uint8)
        picture = cv2.add(cv2.resize(blocks, (40, 30), interpolation=cv2.INTER_LINEAR), noise)
        cv2.imwrite(str(directory / f"{number:03}.png"), picture)
    return directory


def base(path: Path, free: bool = False) -> Path:
    """A linear layer on the mean colour, in float16. ``free``: it takes pictures of any size."""
    made = Made(kind=TensorProto.FLOAT16)
    made.weight("head", np.random.default_rng(1).normal(0, 3, (3, CLASSES)).astype(np.float16))
    made.node("GlobalAveragePool", ["image"], "pooled")
    made.node("Flatten", ["pooled"], "flat")
    made.node("Softmax", [made.node("MatMul", ["flat", "head"], "logits")], "out", axis=1)
    shape = ("n", 3, "h", "w") if free else ("n", 3, HEIGHT, WIDTH)
    return made.save(path, "out", shape=shape, gives_kind=TensorProto.FLOAT16)


def built(frames: Path, full: Path, how: str, directory: Path) -> Bundle:
    flags = ["--full", full, "--data", frames, "--preprocessing", how, "--out", directory / "out"]
    flags += ["--base", base(directory / "base.onnx"), "--set", f"base_preprocessing={how.replace('raw', 'unit')}"]
    done = CliRunner().invoke(app, ["build", "--quick", "--work", directory / "work", *map(str, flags)])
    assert done.exit_code == 0, done.output
    return Bundle(directory / "out")


@pytest.mark.parametrize(
    ("made", "how", "window"),
    [
        ({"nhwc": True, "kind": TensorProto.UINT8}, "raw,stretch", np.s_[:, :]),
        ({"kind": TensorProto.FLOAT16}, "unit", np.s_[3:27, :]),
    ],
    ids=["uint8 channels last", "float16"],
)
def test_devices_and_servers_answer_as_onnx_runtime_alone(
    frames: Path, tmp_path: Path, made: dict[str, Any], how: str, window: tuple[slice, slice]
) -> None:
    file = wide(tmp_path / "full.onnx", metadata={"names": repr(LABELS)}, **made)
    bundle = built(frames, file, how, tmp_path)
    assert bundle.manifest.labels == tuple(LABELS.values())
    session = ort.InferenceSession(str(file))

    def alone(picture: Picture) -> npt.NDArray[np.float64]:
        """The scores with the preprocessing of the training."""
        rgb = cv2.resize(picture[window], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)[None, :, :, ::-1]
        tensor = rgb if made.get("nhwc") else (rgb.transpose(0, 3, 1, 2) / 255).astype(np.float16)
        [scores] = session.run(None, {"image": np.ascontiguousarray(tensor)})
        return np.asarray(scores[0], np.float64)

    pictures = [cv2.imread(str(path)) for path in sorted(frames.iterdir())]
    expected = np.stack([alone(picture) for picture in pictures])  # type: ignore[arg-type]
    assert len(set(expected.argmax(1).tolist())) > 1

    server = FullModel(bundle, "cpu", 1)
    spec = bundle.manifest.models["full"].input
    sent = [server.prepare(encode(crop(picture, spec))[1]) for picture in pictures]  # type: ignore[arg-type]
    scores = np.stack([one.logits for one in server.run(sent, [None] * COUNT)])
    np.testing.assert_allclose(softmax(scores), expected, atol=5e-3)

    out = tmp_path / "answers.jsonl"
    ran = CliRunner().invoke(
        edge_agent,
        ["run", str(frames), "--bundle", str(bundle.directory), "--output", str(out), "--max-disagreement", "0.005"],
    )
    assert ran.exit_code == 0, ran.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    asked = [line for line in lines if line["level"] == "full"]
    assert len(asked) > COUNT // 2
    first = np.sort(expected, 1)
    for line in asked:
        if first[line["frame"], -1] - first[line["frame"], -2] > 5e-3:
            assert line["label"] == LABELS[int(expected[line["frame"]].argmax())]


@pytest.mark.parametrize("kind", ["nan", "missing"])
def test_an_invalid_model_is_refused_before_any_frame_is_read(frames: Path, tmp_path: Path, kind: str) -> None:
    made = Made()
    made.node("Div", [made.trunk(), made.weight("zero", np.float32(0).reshape(()))], "huge")
    file = made.save(tmp_path / "m.onnx", made.node("Sub", ["huge", "huge"], "out"))
    flags = ["--full", file if kind == "nan" else tmp_path / "n.onnx", "--preprocessing", "unit", "--data", frames]
    for command, more in (("build", ["--quick", "--out", tmp_path / "out"]), ("inspect", [])):
        done = CliRunner().invoke(app, [command, *map(str, [*flags, *more, "--work", tmp_path / "work"])])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert ("NaN" if kind == "nan" else "is not there") in done.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "text", ["imagenet", "raw,stretch", "caffe,letterbox,64x32", "unit,grey", "signed", "imagenet,bgr,area"]
)
def test_trained_networks_see_the_same_part_of_a_frame_in_normalised_rgb(text: str) -> None:
    original = parse_preprocessing(text)
    own = local_input(original)
    assert (own.size, own.fit, own.crop, own.scaling, own.colour) == (*_window(original), "rgb")
    picture = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    assert np.array_equal(crop(picture, own), crop(picture, original))
    tensor = preprocessor(own)(crop(picture, own))
    assert np.abs(tensor).max() < 10
    if text == "imagenet,bgr,area":  # the same values in another order
        np.testing.assert_allclose(tensor, preprocessor(original)(crop(picture, original))[:, ::-1])


def _window(spec: Input) -> tuple[object, ...]:
    return spec.size, spec.fit, spec.crop, spec.scaling


@pytest.mark.parametrize(
    ("base_spec", "full_spec", "fits"),
    [
        ("unit,32x32", "imagenet,64x64", True),
        ("unit,32x16", "imagenet,64x32", True),
        ("unit,32x32", "imagenet,64x32", False),
        ("unit,stretch,32x32", "imagenet,stretch,64x32", True),
        ("unit,letterbox,32x32", "imagenet,letterbox,64x64", True),
        ("unit,letterbox,32x32", "imagenet,64x64", False),
    ],
)
def test_an_external_base_model_must_see_the_same_part_of_a_frame(
    tmp_path: Path, base_spec: str, full_spec: str, fits: bool
) -> None:
    """The builder then shows it the same picture as a device."""
    full = load_classifier(wide(tmp_path / "full.onnx", shape=("n", 3, "h", "w")), parse_preprocessing(full_spec))
    small = base(tmp_path / "base.onnx", free=True)
    if not fits:
        with pytest.raises(ClassifierError, match="they must see the same part of a frame"):
            external_model.read(small, full, parse_preprocessing(base_spec))
        return
    own = external_model.read(small, full, parse_preprocessing(base_spec)).input
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8), (31, 31), 0)
    in_builder = view(crop(picture, full.input), own, full.input)  # type: ignore[arg-type]
    centre = np.s_[4:-4, 4:-4]
    off = np.abs(in_builder[centre].astype(int) - crop(picture, own)[centre])  # type: ignore[arg-type]
    assert off.mean() < 6 or own.crop > full.input.crop, "unless the base model sees more than the full model"
