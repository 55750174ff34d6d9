"""Golden frames of bundles, on which devices test models."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cachenet.models.bundle_writer import link_models, publish
from cachenet.models.certify import golden_frames as builder
from cachenet.shared.bundle import golden_frames
from cachenet.shared.bundle.golden_frames import GoldenError
from cachenet.shared.bundle.manifest import MANIFEST, Bundle
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture, crop, preprocessor
from cachenet.shared.media.pictures import decode
from tests.bundles import classifier, tiny_bundle

ZOO = Path(__file__).parents[2] / "models" / "zoo" / "cifar10"


@pytest.fixture
def pictures() -> list[Picture]:
    return builder.choose(np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8))


def answers(bundle: Bundle, name: str) -> list[tuple[float, ...]]:
    """Scores of a model for the golden frames on this machine."""
    assert bundle.manifest.golden is not None
    known = golden_frames.read(bundle.find(bundle.manifest.golden).read_bytes())
    model = bundle.manifest.models[name]
    session, prepare = Session(bundle.path(name), "cpu"), preprocessor(model.input)
    return [tuple(session.run(prepare(crop(decode(data), model.input)))[0]) for data in known.pictures]


def check(bundle: Bundle, name: str) -> None:
    assert bundle.manifest.golden is not None
    known = golden_frames.read(bundle.find(bundle.manifest.golden).read_bytes())
    known.check(name, answers(bundle, name), bundle.manifest.models[name].temperature)


def test_every_shipped_model_answers_its_golden_frames_on_this_machine() -> None:
    bundle = Bundle(ZOO)
    for name in bundle.manifest.models:
        check(bundle, name)


def test_a_changed_bundle_keeps_its_golden_frames_and_has_the_scores_of_its_new_models(
    pictures: list[Picture], tmp_path: Path
) -> None:
    tiny = tiny_bundle(tmp_path / "tiny")
    first = publish(tiny, Bundle(tiny).manifest, tmp_path / "first", pictures)
    again = tmp_path / "building"
    link_models(first, [name for name in first.manifest.models if name != "base"], again)
    path = again / "base/1/model.onnx"
    path.parent.mkdir(parents=True)
    classifier(path, np.random.default_rng(9))
    changed = msgspec.structs.replace(
        first.manifest.models["base"], bytes=path.stat().st_size, sha256=builder.digest(path.read_bytes())
    )
    manifest = msgspec.structs.replace(first.manifest, models={**first.manifest.models, "base": changed})
    second = publish(again, manifest, tmp_path / "second")
    for bundle in (first, second):
        for name in bundle.manifest.models:
            check(bundle, name)
    assert first.manifest.golden is not None and second.manifest.golden is not None
    old, new = (golden_frames.read((bundle.directory / builder.FILE).read_bytes()) for bundle in (first, second))
    assert old.pictures == new.pictures and old.scores["full"] == new.scores["full"]
    with pytest.raises(GoldenError, match="golden frames with another label"):
        old.check("base", answers(second, "base"), 1.0)


def test_a_bundle_without_golden_frames_gets_none(tmp_path: Path) -> None:
    tiny = tiny_bundle(tmp_path / "tiny")
    made = publish(tiny, Bundle(tiny).manifest, tmp_path / "made")
    assert made.manifest.golden is None


def test_a_bundle_whose_golden_frames_are_damaged_is_refused(pictures: list[Picture], tmp_path: Path) -> None:
    tiny = tiny_bundle(tmp_path / "tiny")
    made = publish(tiny, Bundle(tiny).manifest, tmp_path / "made", pictures)
    copy = tmp_path / "copy"
    shutil.copytree(made.directory, copy)
    (copy / builder.FILE).write_bytes(b"damaged")
    with pytest.raises(Exception, match="golden"):
        Bundle(copy)
    assert (copy / MANIFEST).exists()


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xc1" * 100, b"\x82\xa8pictures\x90\xa6scores\x80"])
def test_invalid_bytes_are_a_golden_error(data: bytes) -> None:
    with pytest.raises(GoldenError):
        golden_frames.read(data)
