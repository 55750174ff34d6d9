"""Kernels, the estimator and the networks of the row ``time-estimation``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.literature.time_estimation import sweep
from benchmarks.literature.time_estimation.builder import Builder
from benchmarks.literature.time_estimation.estimator import KernelEstimator, Roofline, errors, family_out
from benchmarks.literature.time_estimation.kernels import Kernel
from benchmarks.literature.time_estimation.networks import resized
from benchmarks.literature.time_estimation.recording import Network, Recording, record

pytest.importorskip("sklearn")


def kernel(kind: str, macs: float, moved: float) -> Kernel:
    return Kernel(kind, macs, moved, (macs, moved))


def recording(name: str, family: str, macs: float) -> Recording:
    """A network of one kernel on a machine of 1e9 multiply-adds a second."""
    return Recording(name, family, (kernel("convolution", macs, 1.0),), (macs / 1e9,), macs / 1e9 + 1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_onnx_runtime_runs_every_network_of_the_sweep(seed: int) -> None:
    model = sweep.Sampler(seed).network()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    [image] = session.get_inputs()
    assert np.isfinite(session.run(None, {image.name: np.zeros(image.shape, np.float32)})[0]).all()


def test_a_sweep_is_the_same_in_each_call() -> None:
    first, second = sweep.networks(2), sweep.networks(2)
    assert [one.model() for one in first] == [one.model() for one in second]


def test_a_recording_has_the_fused_kernels_and_their_multiply_adds(tmp_path: Path) -> None:
    channels = 16  # ONNX Runtime pads to multiples of 8 with AVX2, and of 16 with AVX-512
    net = Builder(channels, 16, 16)
    model = net.model(net.conv(net.image, channels))
    [found] = record([Network("one", "test", lambda: model)], 1, tmp_path, lambda _: None)
    [convolution] = [one for one in found.kernels if one.macs]
    assert convolution.macs == channels * channels * 9 * 16 * 16
    assert not [one for one in found.kernels if one.kind == "Relu"]  # part of the convolution
    assert len(found.seconds) == len(found.kernels)
    assert found.whole > 0


def test_a_recorded_round_is_not_measured_again(tmp_path: Path) -> None:
    net = Builder(4, 8, 8)
    model = net.model(net.conv(net.image, 4))
    first = record([Network("one", "test", lambda: model)], 1, tmp_path, lambda _: None)

    def fail() -> bytes:
        raise AssertionError("measured again")

    assert record([Network("one", "test", fail)], 1, tmp_path, lambda _: None) == first


@given(st.floats(1e6, 1e9), st.floats(1e3, 1e6))
def test_a_roofline_never_falls_when_a_kernel_does_more(macs: float, moved: float) -> None:
    roofline = Roofline(1e9, 1e9, 1e-6)
    assert roofline.seconds(kernel("", 2 * macs, moved)) >= roofline.seconds(kernel("", macs, moved))
    assert roofline.seconds(kernel("", macs, 2 * moved)) >= roofline.seconds(kernel("", macs, moved))


def test_the_estimator_finds_the_times_of_kernels_between_those_of_the_sweep() -> None:
    rng = np.random.default_rng(0)
    macs = np.exp(rng.uniform(np.log(1e5), np.log(1e8), 300))
    kernels = [kernel("convolution", float(one), 1e4) for one in macs] + [kernel("Add", 0.0, 1e4 + n) for n in range(9)]
    seconds = [float(one) / 3e9 + 2e-6 for one in macs] + [1e-6] * 9
    estimator = KernelEstimator([Recording("", "sweep", tuple(kernels), tuple(seconds), 1.0)])
    unseen = [kernel("convolution", float(one), 1e4) for one in np.exp(rng.uniform(np.log(1e6), np.log(5e7), 50))]
    truth = np.array([one.macs / 3e9 + 2e-6 for one in unseen])
    assert np.median(np.abs(estimator.seconds(unseen) / truth - 1)) < 0.1
    assert estimator.seconds([kernel("unknown", 0.0, 1e4)])[0] > 0


def test_a_left_out_family_changes_nothing_in_its_own_estimate() -> None:
    known = [recording(str(n), family, 1e6 * (n + 1)) for n in range(6) for family in ("a", "b")]
    wrong = [one if one.family == "b" else Recording(one.name, "a", one.kernels, one.seconds, 7.0) for one in known]
    rows = [at for at, one in enumerate(known) if one.family == "a"]

    def columns(one: Recording) -> tuple[float, float]:
        return one.macs, 1.0

    assert family_out(columns, wrong)[rows] == pytest.approx(family_out(columns, known)[rows])
    assert errors(family_out(columns, known), known)["mape"] < 1e-6


def test_a_resized_model_takes_one_picture_of_the_new_size() -> None:
    net = Builder(3, 32, 32)
    changed = resized(onnx.load_from_string(net.model(net.classifier(net.conv(net.image, 8), 10))), (64, 48))
    session = ort.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((1, 3, 48, 64), np.float32)})[0].shape == (1, 10)


@pytest.mark.slow
def test_a_smoke_run_prints_every_figure(smoke: Callable[[str], dict[str, Any]]) -> None:
    found = smoke("time-estimation")
    assert set(found["rows"]) >= {"kernels", "multiply-adds"}
    assert len(found["table"]) == found["networks"]
