"""The full model on a V2 server: equal answers, faults of the server, the doctor's checks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cachenet.cloud_server import v2_doctor
from cachenet.cloud_server.cli import app
from cachenet.cloud_server.serving import v2
from cachenet.cloud_server.serving.full_model import FullDetector, FullModel, load_full
from cachenet.cloud_server.serving.v2 import Tensor, V2Error, V2Model
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import EngineError, Session, TensorInfo
from tests.bundles import tiny_bundle
from tests.detectors import detector_bundle, footage, local_detector
from tests.v2_server import V2Server


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


@contextmanager
def served(bundle: Bundle, binary: bool = True) -> Iterator[V2Server]:
    server = V2Server(bundle.path("full"), binary).start()
    try:
        yield server
    finally:
        server.holds.set()
        server.stop()


@pytest.fixture
def server(bundle: Bundle) -> Iterator[V2Server]:
    with served(bundle) as running:
        yield running


def noise(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("binary", [True, False])
def test_scores_equal_those_of_this_process_bit_for_bit(bundle: Bundle, binary: bool) -> None:
    with served(bundle, binary) as server:
        remote, local = V2Model(server.url, bundle), Session(bundle.path("full"), "cpu")
        for seed, count in enumerate((1, 1, 5)):
            batch = noise(seed, count)
            assert remote.run(batch).tobytes() == local.run(batch).tobytes()


@pytest.mark.parametrize("binary", [True, False])
def test_detections_equal_those_of_this_process_whatever_the_order_of_the_outputs(tmp_path: Path, binary: bool) -> None:
    bundle = Bundle(detector_bundle(tmp_path))
    with served(bundle, binary) as server:
        model = load_full(bundle, "cpu", 1, remote=V2Model(server.url, bundle))
        assert isinstance(model, FullDetector)
        assert model.remote
        for picture in footage(2):
            [found] = model.run([model.prepare(cv2.imencode(".png", picture)[1].tobytes())], [None])
            expected = local_detector(bundle)(picture)
            assert len(found) == 2
            assert all(getattr(found, name).tobytes() == getattr(expected, name).tobytes()
                       for name in ("boxes", "labels", "scores"))  # fmt: skip


def test_requests_of_several_threads_are_at_the_server_at_a_time(bundle: Bundle, server: V2Server) -> None:
    remote, local = V2Model(server.url, bundle), Session(bundle.path("full"), "cpu")
    remote.run(noise(0))
    server.holds.clear()
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.__setitem__(seed, remote.run(noise(seed)))) for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    deadline = threading.Event()
    while server.most < 8 and not deadline.wait(0.01):
        pass
    server.holds.set()
    for thread in threads:
        thread.join()
    assert all(found[seed].tobytes() == local.run(noise(seed)).tobytes() for seed in range(8))


def test_an_absent_server_is_an_error_at_once_and_answers_after_its_start(bundle: Bundle, server: V2Server) -> None:
    remote = V2Model(server.url, bundle)
    expected = remote.run(noise(1))
    for _ in range(2):
        server.stop()
        with pytest.raises(V2Error, match=r"does not answer \(Connection refused\)"):
            remote.run(noise(1))
        assert "Connection refused" in remote.not_ready()
        server.start()
        assert remote.run(noise(1)).tobytes() == expected.tobytes()
        assert remote.not_ready() == ""


def test_a_server_that_is_absent_at_the_start_is_used_when_it_comes(bundle: Bundle, server: V2Server) -> None:
    server.stop()
    model = load_full(bundle, "cpu", 1, remote=V2Model(server.url, bundle))
    assert isinstance(model, FullModel)
    with pytest.raises(EngineError):
        model.run([noise(1)], [None])
    server.start()
    [result] = model.run([noise(1)], [None])
    assert result.logits.tobytes() == Session(bundle.path("full"), "cpu").run(noise(1)).tobytes()


def test_a_server_that_hangs_is_left_after_the_time_out(
    bundle: Bundle, server: V2Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = V2Model(server.url, bundle)
    expected = remote.run(noise(1))
    monkeypatch.setattr(v2, "_TIMEOUT_S", 0.1)
    server.holds.clear()
    with pytest.raises(V2Error, match="time-out"):
        remote.run(noise(1))
    server.holds.set()
    monkeypatch.undo()
    assert remote.run(noise(1)).tobytes() == expected.tobytes()


def test_a_server_that_takes_json_only_in_place_of_another_is_used_after_one_error(
    bundle: Bundle, server: V2Server
) -> None:
    remote = V2Model(server.url, bundle)
    expected = remote.run(noise(1))
    server.binary = False
    with pytest.raises(V2Error, match="400"):
        remote.run(noise(1))
    assert remote.run(noise(1)).tobytes() == expected.tobytes()


_NUMBERS = st.one_of(st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=3), st.none())
_OUTPUT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["scores", "logits", "x"]),
        "datatype": st.sampled_from(["FP32", "INT64", "BOOL", "BYTES", ""]),
        "shape": st.lists(st.integers(-2, 4) | st.just(2**62), max_size=3),
        "data": st.lists(_NUMBERS | st.lists(_NUMBERS, max_size=2), max_size=4),
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-8, 64)}),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=60),
        st.fixed_dictionaries({"outputs": st.lists(_OUTPUT, max_size=3)}).map(v2.msgspec.json.encode),
    ),
    length=st.none() | st.integers(-20, 200).map(str) | st.text("0123456789x", max_size=4),
    extra=st.binary(max_size=40),
    status=st.sampled_from([200, 200, 200, 400, 503]),
)
def test_no_answer_of_a_server_raises_anything_but_an_engine_error(
    bundle: Bundle, server: V2Server, body: bytes, length: str | None, extra: bytes, status: int
) -> None:
    server.says = (status, length, body + extra)
    remote = V2Model(server.url, bundle)
    with pytest.raises(EngineError):
        FullModel(bundle, "cpu", 1, remote=remote).run([noise(0)], [None])


@pytest.mark.parametrize(
    "url",
    [
        *("", "triton:8000", "grpc://h:1", "http://", "http://h:x", "http://u:p@h", "http://h/?a=1", "http://[::1"),
        *("http://my host:8000", "http://h/a b", "http://h\x01"),
    ],
)
def test_an_address_of_another_form_is_refused_in_one_line(bundle: Bundle, url: str) -> None:
    with pytest.raises(V2Error, match=r"give --v2-url as http\[s\]://") as caught:
        V2Model(url, bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--executor", "v2"], "give --v2-url as"),
        (["--v2-url", "http://h:1"], "--executor v2"),
        (["--executor", "v2", "--v2-url", "http://h:1", "--set", "early_exits=gati"], "--executor local"),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_anything_starts(bundle: Bundle, flags: list[str], says: str) -> None:
    run = ["run", "--bundle", str(bundle.directory), "--broker", "mqtt://127.0.0.1:1"]
    result = CliRunner().invoke(app, [*run, *flags])
    assert result.exit_code == 2
    assert says in result.output
    assert result.output.count("\n") == 1


def grades(url: str, bundle: Bundle) -> dict[str, str]:
    return {one.what: one.grade for one in v2_doctor.findings(url, bundle, concurrency=2)}


def test_the_doctor_is_satisfied_with_the_bundles_model_alone(bundle: Bundle, server: V2Server, tmp_path: Path) -> None:
    assert grades(server.url, bundle) == {"v2": "ok", "tensors": "ok", "model": "ok", "pace": "ok"}
    other = Bundle(tiny_bundle(tmp_path / "other", seed=3))
    answers = [Session(one.path("full"), "cpu").run(noise(0)).argmax() for one in (bundle, other)]
    assert grades(server.url, other)["tensors"] == "ok"
    assert len(set(answers)) == 1 or grades(server.url, other)["model"] == "problem"
    squares = Bundle(detector_bundle(tmp_path / "squares"))
    assert grades(server.url, squares)["tensors"] == "problem"
    server.stop()
    assert grades(server.url, bundle) == {"v2": "problem"}
    server.start()


OWN = [TensorInfo("a", "float", (-1, 3, 4)), TensorInfo("b", "int64", (1,))]


@pytest.mark.parametrize(
    "described, says",
    [
        ([], ""),
        ([Tensor("b", "INT64", (1,)), Tensor("a", "FP32", (1, 3, 4))], ""),
        ([Tensor("b", "INT64", (-1,)), Tensor("a", "FP32", (-1, -1, 4))], ""),
        ([Tensor("b", "INT64", (1,))], "has no output 'a' but b"),
        ([Tensor("a", "FP16", (1, 3, 4)), Tensor("b", "INT64", (1,))], "'a' as FP16, not FP32"),
        ([Tensor("a", "FP32", (1, 4, 4)), Tensor("b", "INT64", (1,))], "'a' of shape [1, 4, 4], not [-1, 3, 4]"),
        ([Tensor("a", "FP32", (3, 4)), Tensor("b", "INT64", (1,))], "'a' of shape [3, 4]"),
    ],
)
def test_a_description_differs_by_name_type_or_shape(described: list[Tensor], says: str) -> None:
    found = v2_doctor.mismatch("output", described, OWN)
    assert says in found
    assert bool(says) == bool(found)
