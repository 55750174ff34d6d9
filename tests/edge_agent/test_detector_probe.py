"""The probe and the loader with detectors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cachenet.edge_agent.updates.probe import ProbeError, ProbeRequest, probe
from cachenet.models.bundle_writer import publish
from cachenet.shared.bundle import golden_frames
from cachenet.shared.bundle.golden_frames import GoldenError
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import NOTHING, checked
from cachenet.shared.inference.decoders import Decoder
from tests.detectors import constant_detector, detector_bundle, footage, replace_detector
from tests.edge_agent.loaders import LoaderWithUpdater, ready
from tests.faulty import failing


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A published bundle with golden frames."""
    built = detector_bundle(tmp_path / "built")
    return publish(built, Bundle(built).manifest, tmp_path / "bundle", footage(60)[::20])


def request(bundle: Bundle, *models: str) -> ProbeRequest:
    files = {sha256: os.fsencode(bundle.directory / file) for file, sha256 in bundle.manifest.files().items()}
    return ProbeRequest(bundle.data, models, files, provider="cpu")


def test_all_detectors_of_a_published_bundle_pass(bundle: Bundle) -> None:
    assert bundle.manifest.golden is not None
    known = golden_frames.read((bundle.directory / "golden.msgpack").read_bytes())
    assert known.objects.keys() == bundle.manifest.models.keys() and not known.scores
    assert all(known.objects["full"])
    probe(request(bundle, *bundle.manifest.models))


@pytest.mark.parametrize(
    ("data", "decoder", "reason"),
    [
        (lambda: constant_detector(np.full((1, 5, 24, 32), np.nan)), None, "not finite"),
        (lambda: constant_detector(np.zeros((1, 5, 24, 32))), None, "finds other objects in the golden frames; 0%"),
        (lambda: constant_detector(np.zeros((1, 7, 9))), None, "do not fit the decoder heatmap"),
        (lambda: constant_detector(np.zeros((1, 5, 24, 32))), Decoder("detr", (0,)), "do not fit the decoder detr"),
        (failing, None, "inference failed"),
    ],
)
def test_a_detector_with_a_fault_is_refused_with_the_reason(
    data: Callable[[], bytes], decoder: Decoder | None, reason: str, bundle: Bundle
) -> None:
    faulty = replace_detector(bundle.directory, "near", data(), decoder)
    with pytest.raises(ProbeError, match=reason):
        probe(request(faulty, "near"))


def test_a_detector_is_loaded_and_timed(bundle: Bundle) -> None:
    loader = LoaderWithUpdater(None, None, "")
    loader.start()
    try:
        loader.use(bundle)
        loaded = ready(loader)
    finally:
        loader.stop()
    assert (loaded.name, loaded.first) == ("base", True)
    assert 0 < loaded.seconds < 1
    assert len(loaded.session(footage(1)[0])) == 2  # type: ignore[operator]


def test_objects_agree_by_their_scores() -> None:
    """Objects of low score may come and go."""
    sure, unsure = [0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.8, 0.8]
    both = checked([sure, unsure], [0, 0], [0.9, 0.1], 1)
    golden = golden_frames.GoldenFrames((b"png",), {}, {"base": (golden_frames.objects(both),)})
    again = golden_frames.read(golden_frames.encode(golden))
    again.check_objects("base", [both])
    again.check_objects("base", [checked([sure], [0], [0.88], 1)])
    again.check_objects("unknown", [NOTHING])
    for found in (NOTHING, checked([unsure], [0], [0.9], 1), checked([sure], [1], [0.9], 2)):
        with pytest.raises(GoldenError, match="finds other objects"):
            again.check_objects("base", [found])
    with pytest.raises(GoldenError, match="another bundle"):
        again.check_objects("base", [both, both])
