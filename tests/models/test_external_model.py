"""A user's base model goes into the bundle unchanged with its own preprocessing, or is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner, Result

from cachenet.edge_agent.cli import app as edge_agent
from cachenet.models.build import build
from cachenet.models.build_config import QUICK, BuildConfig
from cachenet.models.cli import app
from cachenet.models.data import imagenet, sample
from cachenet.models.data.dataset import Dataset, collect
from cachenet.models.data.frames import find
from cachenet.models.export import external_model, quantise
from cachenet.models.export.classifier import PRESETS, load_classifier
from cachenet.models.export.quantise import PrecisionComparison
from cachenet.models.train.label import label_frames
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import Session
from tests.models.test_classifier import write
from tests.models.test_efficientnet import weights

pytestmark = pytest.mark.slow

UNIT = PRESETS["unit"]
SIDE = 16  # input of the base model, pixels; that of the full model is 32
PLAN = replace(QUICK, name="tiny")
DECLARED = {"cachenet.labels": ",".join(sample.LABELS), "cachenet.input": msgspec.json.encode(UNIT).decode()}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("full") / "full.onnx", classes=10, shape=("n", 3, 32, 32), metadata=DECLARED)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, split = tmp_path_factory.mktemp("data"), sample.load()
    for number in range(250):
        cv2.imwrite(str(directory / f"{number:03}.png"), split.images[number][:, :, ::-1])
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("base") / "small.onnx", classes=10)


@pytest.fixture(scope="module")
def dataset(data: Path, full: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    classifier, frames = load_classifier(full), find(data)
    outputs = label_frames(classifier, frames, tmp_path_factory.mktemp("work"), 1)
    return replace(collect(classifier, (frames, outputs)), base=external_model.read(base, classifier, UNIT))


def make(dataset: Dataset, directory: Path, plan: BuildConfig = PLAN) -> Bundle:
    with Progress(console=Console(file=io.StringIO())) as progress:
        return build(plan, dataset, directory / "work", directory / "out", progress)


def test_the_users_base_model_is_the_only_local_model_and_unchanged(
    dataset: Dataset, base: Path, tmp_path: Path
) -> None:
    bundle = make(dataset, tmp_path, replace(PLAN, precision="float16"))
    model = bundle.manifest.models["base"]
    assert set(bundle.manifest.models) == {"full", "base"}
    assert (model.input.side, model.macs) == (SIDE, 8 * 27 * 14 * 14 + 80)
    properties = {entry.key: entry.value for entry in onnx.load(str(bundle.path("base"))).metadata_props}
    assert properties["cachenet.labels"].split(",") == list(sample.LABELS)
    assert json.loads(properties["cachenet.input"])["side"] == SIDE
    assert bundle.manifest.provenance["base"] == "given"
    batch = np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    np.testing.assert_allclose(Session(bundle.path("base")).run(batch), Session(base).run(batch), rtol=1e-5)


@pytest.mark.parametrize(("time", "precision"), [(0.5, "int8"), (0.95, "as given")])
def test_int8_is_used_if_faster_and_the_decision_is_stored(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: float, precision: str
) -> None:
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, time))
    first = make(dataset, tmp_path)
    assert first.manifest.provenance["precision"].startswith(precision)
    kinds = {node.op_type for node in onnx.load(str(first.path("base"))).graph.node}
    assert ("QuantizeLinear" in kinds) == (precision == "int8")
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 1.45 - time))
    assert make(dataset, tmp_path).manifest.models["base"].sha256 == first.manifest.models["base"].sha256


def test_int8_that_agrees_less_with_the_full_model_is_not_used(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though neither may be sure enough of anything to answer it."""

    def changed(model: onnx.ModelProto, _images: object) -> onnx.ModelProto:
        other = onnx.ModelProto.FromString(model.SerializeToString())
        [bias] = [weight for weight in other.graph.initializer if weight.name == "bias"]
        never = int(np.bincount(dataset.tune.full_labels, minlength=10).argmin())
        bias.CopyFrom(numpy_helper.from_array(100 * np.eye(10, dtype=np.float32)[never], "bias"))
        return other

    monkeypatch.setattr(quantise, "int8", changed)
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.5))
    found = make(dataset, tmp_path).manifest.provenance["precision"]
    assert found.startswith("as given; int8 takes 0.50")
    assert "and agrees on 0.0% for " in found and not found.endswith(" 0.0%"), "there was something to lose"


def test_a_base_model_that_cannot_be_quantised_is_unchanged(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(quantise, "int8", fail)
    bundle = make(dataset, tmp_path)
    assert bundle.manifest.provenance["precision"] == "as given; it cannot be converted to INT8"
    assert [path.name for path in bundle.path("base").parent.iterdir()] == ["model.onnx"]


@pytest.mark.usefixtures("no_recordings")
def test_an_interrupted_build_gives_the_same_bundle(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is interrupted after it has stored one more result."""
    plan = replace(QUICK, name="tiny", precision="int8")
    complete = make(dataset, tmp_path / "whole", plan).manifest
    replace_file, interrupted = Path.replace, 0

    def replaced(path: Path, target: Path) -> Path:
        done = replace_file(path, target)
        if path.suffix == ".part" and tmp_path / "cut" / "work" in path.parents:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Path, "replace", replaced)
    while True:
        try:
            resumed = make(dataset, tmp_path / "cut", plan).manifest
            break
        except KeyboardInterrupt:
            interrupted += 1
            assert not (tmp_path / "cut" / "out").exists()
    assert interrupted == 2, "precision and certificates"
    assert (resumed.priors, resumed.certificates) == (complete.priors, complete.certificates)
    assert {name: model.sha256 for name, model in resumed.models.items()} == {
        name: model.sha256 for name, model in complete.models.items()
    }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["build", "--quick", *map(str, arguments)])


def test_a_device_runs_the_built_bundle(data: Path, full: Path, base: Path, tmp_path: Path) -> None:
    """Each frame is cropped and scaled for each model."""
    out, answers = tmp_path / "out", tmp_path / "answers.jsonl"
    flags = ("--full", full, "--data", data, "--work", tmp_path / "w", "--out", out)
    done = run(*flags, "--base", base, "--set", "base_preprocessing=unit")
    assert done.exit_code == 0, done.output
    answered = CliRunner().invoke(edge_agent, ["run", str(data), "--bundle", str(out), "--output", str(answers)])
    assert answered.exit_code == 0, answered.output
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert {line["frame"] for line in lines} == set(range(250))
    assert {line["model"] for line in lines} <= {"base", "full"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "{text}"], "text is no ONNX file"),
        (["--base", "nowhere.onnx"], "nowhere.onnx is not there"),
        (["--base", "{four}", "--set", "base_preprocessing=unit"], "four has 4 classes, and the full model has 10"),
        (["--base", "{good}"], "give --set base_preprocessing=(imagenet"),
        (["--base", "{good}", "--set", "base_preprocessing=photo"], "'photo' is no preprocessing"),
        (
            ["--base", "{renamed}", "--set", "base_preprocessing=unit"],
            "calls label 1 'b' and the full model 'automobile'",
        ),
        (["--base", "{large}", "--set", "base_preprocessing=unit"], "must be the smaller one"),
        (["--base", "{broken}", "--set", "base_preprocessing=unit"], "broken: the model does not run"),
        (["--base", "{good}", "--share", "0.1"], "leave out --share"),
        (["--set", "base_preprocessing=unit"], "is for the model that --base names"),
    ],
)
def test_the_error_about_an_unsuitable_base_model_is_one_line(
    data: Path, full: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "text").write_text("not a model")
    write(tmp_path / "four", classes=4)
    write(tmp_path / "good", classes=10)
    names = ",".join(["airplane", *"bcdefghij"])
    write(tmp_path / "renamed", classes=10, metadata={"cachenet.labels": names})
    write(tmp_path / "large", classes=10, shape=("n", 3, 900, 900))
    broken = onnx.load(str(write(tmp_path / "broken", classes=10)))
    broken.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2  # less than its kernel
    broken.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 2
    onnx.save(broken, str(tmp_path / "broken"))
    filled = [str(tmp_path / word.strip("{}")) if word.startswith("{") else word for word in arguments]
    done = run("--full", full, "--data", data, "--out", tmp_path / "out", "--work", tmp_path / "w", *filled)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_users_labels_apply_to_both_models(tmp_path: Path) -> None:
    full = load_classifier(write(tmp_path / "full.onnx", shape=("n", 3, 32, 32)), UNIT, ("a", "b", "c", "d"))
    base = write(tmp_path / "base.onnx", metadata={"cachenet.labels": "w,x,y,z"})
    assert external_model.read(base, full, UNIT, full.labels).labels == full.labels


def test_the_fetched_models_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EfficientNet-Lite2 and Lite0 have the same labels and inputs of 260 and 224 pixels."""
    monkeypatch.setattr(imagenet, "weights", lambda _size: weights())
    monkeypatch.setattr(imagenet, "_members", lambda _package, *suffixes: [f"{name}\tb".encode() for name in suffixes])
    monkeypatch.setattr(imagenet, "label_names", lambda _texts: list("abcde"))
    imagenet.fetch(tmp_path)
    full = load_classifier(tmp_path / "full.onnx")
    base = external_model.read(tmp_path / "base.onnx", full)
    assert (full.input.side, base.input.side) == (260, 224)
    assert (full.input.crop, base.input.crop) == (260 / 292, 224 / 256)
