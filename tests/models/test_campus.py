"""The shipped bundle of detectors, and the clip to show it."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from cachenet.models.detect import agreement
from cachenet.models.export.detector import load_detector
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.media.video import Video

CLIP = zoo.DIRECTORY / "campus-clip" / "campus.mp4"
#: Step between the frames of the clip that are looked at.
STEP = 15


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(zoo.find("campus"))


@pytest.fixture(scope="module")
def found(bundle: Bundle) -> dict[str, list[Detections]]:
    """What each model finds in every fifteenth frame of the clip."""
    pictures = [frame.picture for frame in Video(CLIP).frames(STEP)]
    answers = {}
    for name, model in bundle.manifest.models.items():
        assert model.decoder is not None
        detector = Detector(Session(bundle.path(name), "cpu").run_all, model.input, model.decoder)
        answers[name] = [detector(picture) for picture in pictures]
    return answers


def test_the_bundle_is_small_and_has_a_detector_of_each_role(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.task, manifest.labels) == ("detection", ("person",))
    assert {model.role for model in manifest.models.values()} == {"full", "base", "submodel"}
    assert sum(model.bytes for model in manifest.models.values()) < 5e6
    costs = [manifest.models[name].macs for name in ("full", "base", "scene")]
    assert costs[0] > 8 * costs[1] == 8 * costs[2]
    assert manifest.better_detector() == "scene"


def test_the_full_model_finds_the_people_of_the_clip(found: dict[str, list[Detections]]) -> None:
    numbers = [len(one) for one in found["full"]]
    assert 4 <= np.mean(numbers) <= 10
    # Walkers of 20 by 60 pixels in 768 by 576.
    boxes = np.concatenate([one.boxes for one in found["full"]])
    sides = np.median(boxes[:, 2:] - boxes[:, :2], 0) * (768, 576)
    assert sides[0] < 50 < sides[1] < 150


@pytest.mark.parametrize(("name", "least"), [("base", 0.65), ("scene", 0.85)])
def test_local_models_agree_with_the_full_model(found: dict[str, list[Detections]], name: str, least: float) -> None:
    assert agreement.at(found[name], found["full"], 0.4).f1 > least


def test_the_models_can_be_read_again_by_the_builder(bundle: Bundle) -> None:
    model = bundle.manifest.models["base"]
    again = load_detector(bundle.path("base"))
    assert (again.labels, again.input) == (("person",), model.input)


def test_the_provenance_names_teacher_licence_and_video(bundle: Bundle) -> None:
    provenance = bundle.manifest.provenance
    assert "Apache-2.0" in provenance["teacher"] and "PETS 2009" in provenance["video"]
    assert len(provenance["teacher sha256"]) == len(provenance["video sha256"]) == 64


def test_the_clip_is_small_and_has_licence_and_source_beside_it() -> None:
    assert CLIP.stat().st_size < 1_000_000
    frames = list(islice(Video(CLIP).frames(), 400))
    assert len(frames) == 300
    assert {frame.picture.shape for frame in frames} == {(576, 768, 3)}
    assert abs(frames[-1].time - frames[0].time - 29.9) < 0.2
    text = (CLIP.parent / "README.md").read_text() + (CLIP.parent / "LICENSE.txt").read_text()
    assert all(word in text for word in ("opencv-doc", "PETS", "Apache", "BSD"))
