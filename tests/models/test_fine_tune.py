"""Fine-tuning: a submodel joins the bundle for its devices if it is proven better there; otherwise nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from typer.testing import CliRunner

from cachenet.models.certify import traces
from cachenet.models.cli import app
from cachenet.models.data import sample
from cachenet.models.export import quantise
from cachenet.models.train import fine_tune
from cachenet.shared.bundle.extension import difference, merge
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, Manifest, Model, file_digest, parse
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import encode, preprocessor
from cachenet.shared.transport import recent_frames
from cachenet.shared.transport.protocol import Answer, Timing
from cachenet.shared.transport.recent_frames import RecentFrame, RecentFrames
from tests.hampered import FROG, SHIP, TRUCK, frogs_and_ships, hampered_bundle

pytestmark = pytest.mark.slow

Rows = npt.NDArray[np.int64]
#: Frames of a device, and frames that it has not sent.
SENT, LATER = frogs_and_ships(0, 700), frogs_and_ships(700, 1000)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(hampered_bundle(tmp_path_factory.mktemp("bundle")))


def logits(bundle: Bundle, model: str, rows: Rows) -> traces.Logits:
    spec = bundle.manifest.models[model].input
    return traces.run_model(Session(bundle.path(model), "cpu"), spec, traces.as_pictures(sample.load().images[rows]))


def frames_of(bundle: Bundle, rows: Rows, scores: traces.Logits | None = None, device: str = "cam") -> RecentFrames:
    """Frames of a device with the full model's answers, or others."""
    images = np.ascontiguousarray(sample.load().images[rows][:, :, :, ::-1])
    scores = logits(bundle, "full", rows) if scores is None else scores
    full = bundle.manifest.models["full"].sha256
    answers = [Answer(one.astype("<f4").tobytes(), full, None, Timing(0, 0, 0, 1)) for one in scores]
    frames = [RecentFrame(device, encode(image)[1], answer) for image, answer in zip(images, answers, strict=True)]
    return RecentFrames((device,), tuple(frames))


def run(bundle: Bundle, recent: RecentFrames, directory: Path, *flags: object) -> tuple[int, str]:
    """Exit code and output of the command that writes ``directory/out``."""
    recent_frames.write(directory / "recent", recent)
    files = ["--recent", directory / "recent", "--out", directory / "out", "--threads", 1]
    result = CliRunner().invoke(app, ["fine-tune", *map(str, [bundle.directory, *files, *flags])])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


@pytest.fixture(scope="module", autouse=True)
def few_epochs() -> Iterator[None]:
    """They suffice for a large gain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tune, "EPOCHS", 4)
        yield


def copied(bundle: Bundle, directory: Path, **models: Model) -> Bundle:
    """The bundle in a new directory, with other or further models. The file of a further one is that of ``base``."""
    changed = {**bundle.manifest.models, **models}
    for name, model in changed.items():
        file = directory / model.file
        file.parent.mkdir(parents=True)
        file.write_bytes(bundle.path(name if name in bundle.manifest.models else "base").read_bytes())
    (directory / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(bundle.manifest, models=changed)))
    return Bundle(directory)


@pytest.fixture(scope="module")
def updated(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the bundle with its update."""
    directory = tmp_path_factory.mktemp("updated")
    code, output = run(bundle, frames_of(bundle, SENT), directory)
    assert code == 0, output
    assert "with update-001-cam for cam" in output
    return directory


def test_the_update_distinguishes_labels_that_the_base_model_confuses(bundle: Bundle, updated: Path) -> None:
    after = Bundle(updated / "out")
    name = "update-001-cam"
    assert set(after.manifest.models) == {"full", "base", name}
    own = after.manifest.models[name]
    assert own.devices == ("cam",)
    assert {FROG, SHIP, TRUCK} <= set(own.classes), "a working set may be any share of the labels"
    labels = logits(bundle, "full", LATER).argmax(1)
    right = {one: float((logits(after, one, LATER).argmax(1) == labels).mean()) for one in ("base", name)}
    assert right[name] > right["base"] + 0.3
    assert min(own.coverage[label] for label in (FROG, SHIP, TRUCK)) > 0.3


def test_the_rest_of_the_bundle_is_unchanged_but_for_the_prior_of_submodels(bundle: Bundle, updated: Path) -> None:
    before, after = bundle.manifest, Bundle(updated / "out").manifest
    assert after.risk_version == before.risk_version
    assert after.certificates == before.certificates
    assert {name: after.models[name] for name in ("full", "base")} == before.models
    assert "submodel" in after.priors


def test_an_update_is_an_extension_of_the_bundle(bundle: Bundle, updated: Path) -> None:
    after = Bundle(updated / "out").manifest
    assert parse(merge(bundle.data, difference(bundle.version, bundle.manifest, after))) == after


def test_another_device_with_this_view_shares_the_submodel_and_no_training_runs(
    updated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune, "_train", None)
    before = Bundle(updated / "out")
    code, output = run(before, frames_of(before, SENT, device="door"), tmp_path)
    assert code == 0, output
    after = Bundle(tmp_path / "out").manifest
    assert set(after.models) == set(before.manifest.models)
    assert after.models["update-001-cam"].devices == ("cam", "door")


def test_the_next_update_of_a_device_takes_the_place_of_its_last_one(bundle: Bundle, tmp_path: Path) -> None:
    """Here the last ones are no better than the base model. What no device uses is removed."""
    base = bundle.manifest.models["base"]
    names = {"update-001-cam": ("cam",), "update-002-cam": ("cam", "door")}
    models = {
        name: msgspec.structs.replace(base, role="submodel", file=f"{name}/1/model.onnx", devices=devices)
        for name, devices in names.items()
    }
    before = copied(bundle, tmp_path / "before", **models)
    code, output = run(before, frames_of(bundle, SENT), tmp_path)
    assert code == 0, output
    after = Bundle(tmp_path / "out").manifest
    assert set(after.models) == {"full", "base", "update-002-cam", "update-003-cam"}
    assert (after.own_submodel("cam"), after.own_submodel("door")) == ("update-003-cam", "update-002-cam")


def poisoned(bundle: Bundle) -> RecentFrames:
    """The full model's answers to the first half are shuffled."""
    scores = logits(bundle, "full", SENT)
    half = len(scores) // 2
    scores[:half] = scores[np.random.default_rng(0).permutation(half)]
    return frames_of(bundle, SENT, scores)


def from_elsewhere(bundle: Bundle) -> RecentFrames:
    """The last third shows what the base model knows."""
    labels = sample.load().labels
    known = np.flatnonzero(~np.isin(labels, (FROG, SHIP, TRUCK)))
    return frames_of(bundle, np.concatenate([SENT[: len(SENT) * 2 // 3], known[: len(SENT) // 3]]))


def alike(bundle: Bundle) -> RecentFrames:
    return frames_of(bundle, np.repeat(SENT[:1], 150))


@pytest.mark.parametrize(
    ("recent", "why"),
    [(poisoned, "not proven"), (from_elsewhere, "not proven"), (alike, "others are needed too")],
    ids=["poisoned", "from elsewhere", "alike"],
)
def test_nothing_is_published_from_bad_footage(recent: object, why: str, bundle: Bundle, tmp_path: Path) -> None:
    assert callable(recent)
    code, output = run(bundle, recent(bundle), tmp_path)
    assert (code, len(output.strip().splitlines()[-1:])) == (3, 1), output
    assert why in output
    assert {path.name for path in tmp_path.iterdir()} == {"recent"}


def test_too_few_frames_are_refused_in_one_line(bundle: Bundle, tmp_path: Path) -> None:
    code, output = run(bundle, frames_of(bundle, SENT[:100]), tmp_path)
    assert (code, len(output.strip().splitlines())) == (2, 1)
    assert "120 are needed" in output


def test_pictures_that_are_none_are_left_out(bundle: Bundle, tmp_path: Path) -> None:
    recent = frames_of(bundle, SENT[:130])
    broken = [msgspec.structs.replace(frame, picture=b"none") for frame in recent.frames[:20]]
    code, output = run(bundle, msgspec.structs.replace(recent, frames=(*broken, *recent.frames[20:])), tmp_path)
    assert code == 2 and "110 recent frames" in output


def test_a_base_model_of_other_preprocessing_is_trained_on_what_it_sees(bundle: Bundle, tmp_path: Path) -> None:
    """A user's base model of another size, in INT8, gives a submodel of that size, in INT8."""
    start, base = copied(bundle, tmp_path / "bundle"), bundle.manifest.models["base"]
    path, spec = start.path("base"), msgspec.structs.replace(base.input, side=24)
    prepare = preprocessor(spec)
    pictures = traces.as_pictures(sample.load().images[:100])
    images = np.concatenate([prepare(traces.view(one, spec, base.input)) for one in pictures])
    onnx.save(quantise.int8(onnx.load(str(path)), images), str(path))
    base = msgspec.structs.replace(base, input=spec, sha256=file_digest(path), bytes=path.stat().st_size)
    manifest = msgspec.structs.replace(start.manifest, models={**start.manifest.models, "base": base})
    (start.directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    code, output = run(Bundle(start.directory), frames_of(bundle, SENT), tmp_path)
    assert code == 0, output
    after = Bundle(tmp_path / "out")
    own = after.manifest.own_submodel("cam")
    assert own is not None and after.manifest.models[own].input == spec
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(str(after.path(own))).graph.node)


def test_the_oldest_update_is_removed_when_there_are_too_many(
    updated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune, "_MAX_UPDATES", 1)
    before = Bundle(updated / "out")
    name = fine_tune._name(before.manifest.models, ("door",))
    assert name == "update-002-door"
    model = msgspec.structs.replace(before.manifest.models["update-001-cam"], devices=("door",))
    after: Manifest = fine_tune._add(before, model, name, tmp_path)
    assert set(after.models) == {"full", "base", name}


def test_augmented_pictures_have_the_shape_and_nearly_the_light_of_the_pictures_before() -> None:
    images = sample.load().images[:20]
    changed = fine_tune.augment(images, np.random.default_rng(0))
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert (changed != images).any()
    light = changed.mean((1, 2)) / images.mean((1, 2))
    assert ((light > 0.7) & (light < 1.3)).all()
