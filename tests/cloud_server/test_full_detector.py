"""The full model of a bundle of detectors: loading, runs, answers and batches."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app
from cachenet.cloud_server.serving.full_model import FullDetector, FullModel, load_full
from cachenet.cloud_server.serving.worker import Job, Worker
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import MAX_DETECTIONS, Detections
from cachenet.shared.inference.decoders import Decoder
from cachenet.shared.inference.engine import EngineError
from cachenet.shared.inference.image import encode
from cachenet.shared.media.pictures import decode
from cachenet.shared.transport.protocol import DetectionAnswer, Rejection, Reply, Request
from tests.bundles import tiny_bundle
from tests.detectors import HEIGHT, WIDTH, constant_detector, detector_bundle, footage, local_detector, replace_detector
from tests.e2e.servers import until

_BOUND_S = 20.0
SCENE, *_ = footage(1)
EMPTY = np.zeros_like(SCENE)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(detector_bundle(tmp_path_factory.mktemp("bundle")))


def with_decoder(bundle: Bundle, decoder: Decoder) -> Bundle:
    """``bundle`` with another decoder of the full model."""
    changed = Bundle(bundle.directory)
    full = msgspec.structs.replace(bundle.manifest.models["full"], decoder=decoder)
    changed.manifest = msgspec.structs.replace(bundle.manifest, models={**bundle.manifest.models, "full": full})
    return changed


def equal(found: Detections, expected: Detections) -> bool:
    return all(np.array_equal(getattr(found, name), getattr(expected, name)) for name in ("boxes", "labels", "scores"))


def test_a_detector_finds_in_an_encoded_picture_what_it_finds_in_the_picture(bundle: Bundle) -> None:
    model = load_full(bundle, "cpu", 1)
    assert isinstance(model, FullDetector)
    for picture in (SCENE, EMPTY):
        data = cv2.imencode(".png", picture)[1].tobytes()
        [found] = model.run([model.prepare(data)], [None])
        assert equal(found, local_detector(bundle)(picture))
        assert len(found) == (0 if picture is EMPTY else 2)
    assert model.batch == 1


def test_the_task_of_the_bundle_selects_the_kind_of_full_model(bundle: Bundle, tmp_path: Path) -> None:
    assert isinstance(load_full(bundle, "cpu", 1), FullDetector)
    assert isinstance(load_full(Bundle(tiny_bundle(tmp_path)), "cpu", 1), FullModel)


@pytest.mark.parametrize(
    ("decoder", "why"),
    [(Decoder("nanodet", (0,)), "do not fit"), (Decoder("heatmap", (5,)), "class 5")],
)
def test_a_detector_that_does_not_fit_its_decoder_is_refused_when_loaded(
    bundle: Bundle, decoder: Decoder, why: str
) -> None:
    with pytest.raises(EngineError, match=why):
        load_full(with_decoder(bundle, decoder), "cpu", 1)


def test_early_exits_of_a_detector_are_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no early exits"):
        load_full(bundle, "cpu", 1, "gati")


@pytest.mark.parametrize(
    ("base", "near", "expected"), [(0.8, 0.9, "near"), (0.8, 0.81, None), (0.9, 0.8, None), (None, 0.9, None)]
)
def test_a_submodel_is_recommended_if_it_is_known_to_be_better(
    bundle: Bundle, base: float | None, near: float, expected: str | None
) -> None:
    shares = {"base": () if base is None else (base,), "near": (near,)}
    models = {
        name: msgspec.structs.replace(model, coverage=shares.get(name, ()))
        for name, model in bundle.manifest.models.items()
    }
    assert msgspec.structs.replace(bundle.manifest, models=models).better_detector("cam") == expected


def test_a_submodel_is_recommended_to_the_device_it_was_proven_for_and_to_no_other(bundle: Bundle) -> None:
    near = msgspec.structs.replace(bundle.manifest.models["near"], coverage=(0.9,), devices=("cam",))
    base = msgspec.structs.replace(bundle.manifest.models["base"], coverage=(0.1,))
    manifest = msgspec.structs.replace(bundle.manifest, models={**bundle.manifest.models, "base": base, "near": near})
    assert [manifest.better_detector(device) for device in ("cam", "door")] == ["near", None]


def replies_of(bundle: Bundle, jobs: list[Job]) -> list[Reply]:
    """Replies of a worker to jobs that arrive together."""
    replies: list[Reply] = []
    model = load_full(bundle, "cpu", 1)
    batch = model.batch or 16
    worker = Worker(model, bundle.manifest, 16, batch, 1.0, lambda _, reply: replies.append(reply), lambda: None)
    for job in jobs:
        assert worker.submit(job) is None
    worker.start()
    until(lambda: len(replies) == len(jobs))
    assert worker.stop(_BOUND_S)
    return replies


def job(picture: bytes) -> Job:
    return Job("cam", Request("full", "image/png", b"1", 60_000), picture)


def test_a_worker_answers_one_picture_a_run_with_boxes_and_a_submodel(bundle: Bundle) -> None:
    pictures = [encode(picture)[1] for picture in (SCENE, EMPTY, *footage(1, squares=5, seed=1))]
    replies = replies_of(bundle, [job(picture) for picture in pictures])
    for reply, picture in zip(replies, pictures, strict=True):
        assert isinstance(reply, DetectionAnswer)
        assert equal(reply.detections(1), local_detector(bundle)(decode(picture)))
        assert (reply.model, reply.submodel) == (bundle.manifest.models["full"].sha256, "near")
        assert reply.timing.batch == 1


def test_a_bad_picture_is_refused_and_the_next_answered(bundle: Bundle) -> None:
    bad, good = replies_of(bundle, [job(b"no picture"), job(encode(SCENE)[1])])
    assert isinstance(bad, Rejection) and bad.reason == "bad-input"
    assert isinstance(good, DetectionAnswer)


def test_a_failing_detector_refuses_the_request_and_the_worker_goes_on(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, failures = FullDetector.run, iter([EngineError("out of memory"), RuntimeError("a bug")])

    def fail_first(self: FullDetector, *arguments: object) -> list[Detections]:
        if (error := next(failures, None)) is not None:
            raise error
        return run(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FullDetector, "run", fail_first)
    first, second, third = replies_of(bundle, [job(encode(SCENE)[1])] * 3)
    assert isinstance(first, Rejection) and isinstance(second, Rejection)
    assert isinstance(third, DetectionAnswer)


def test_a_detector_of_boxes_that_are_not_finite_finds_nothing(tmp_path: Path) -> None:
    output = np.full((1, 5, HEIGHT // 4, WIDTH // 4), np.nan)
    output[:, 4] = 0.9
    bundle = replace_detector(detector_bundle(tmp_path), "full", constant_detector(output))
    (reply,) = replies_of(bundle, [job(encode(SCENE)[1])])
    assert isinstance(reply, DetectionAnswer)
    assert len(reply.detections(1)) == 0


def test_a_detector_without_a_finite_output_is_refused_when_loaded(tmp_path: Path) -> None:
    output = np.full((1, 5, HEIGHT // 4, WIDTH // 4), np.nan)
    bundle = replace_detector(detector_bundle(tmp_path), "full", constant_detector(output))
    with pytest.raises(EngineError, match="not finite"):
        load_full(bundle, "cpu", 1)


def test_of_ten_thousand_objects_as_many_as_an_answer_holds_are_sent(tmp_path: Path) -> None:
    """All of one size and score, each in another cell; none overlaps enough to be the same."""
    rows, columns = 100, 100
    output = np.zeros((1, 5, rows, columns))
    output[:, :2], output[:, 4] = 0.5, 0.9
    bundle = replace_detector(detector_bundle(tmp_path), "full", constant_detector(output))
    (reply,) = replies_of(bundle, [job(encode(SCENE)[1])])
    assert isinstance(reply, DetectionAnswer)
    assert len(reply.detections(1)) == MAX_DETECTIONS


def test_early_exits_of_a_detector_are_refused_in_one_line(bundle: Bundle) -> None:
    arguments = ["run", "--bundle", str(bundle.directory), "--broker", "mqtt://127.0.0.1:1", "--provider", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "--set", "early_exits=gati"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert "detectors have no early exits" in done.stderr
