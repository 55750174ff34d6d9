"""Measurement of this machine's profile (see ``hardware_profiles``).

Run times of networks like those of a bundle give rates and constants by least squares. The loop of a device and the
steps of a server are timed directly.
"""

from __future__ import annotations

import queue
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import onnx

from cachenet.cloud_server.broker.embedded import BrokerError, EmbeddedBroker
from cachenet.cloud_server.serving.full_model import FullModel
from cachenet.edge_agent.device_cascade import build_device_cascade
from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.settings import Settings
from cachenet.models.data import sample, streams
from cachenet.models.export import cost, quantise
from cachenet.models.export.cost import Cost
from cachenet.models.export.graph import Graph, write_classifier
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.types import Miss, Reply
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import encode, preprocessor
from cachenet.shared.media.signature import sign
from cachenet.shared.transport.mqtt import MqttConnection
from cachenet.simulator.world.hardware_profiles import DeviceProfile, Precision, ServerProfile
from cachenet.simulator.world.processes import free_port

#: Channels and blocks of the probe networks: residual nets with 2 to 100 % of ResNet-18's multiply-adds.
_PROBES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((8, 32, 64), 1),
    ((12, 48, 96), 1),
    ((16, 64, 128), 1),
    ((12, 48, 96), 2),
    ((24, 96, 192), 1),
    ((32, 64, 128, 256), 1),
    ((64, 128, 256, 512), 2),
)
#: Input side of the probe networks, pixels.
_SIDE = 32
#: Timed runs of each measurement.
_RUNS = 30
#: Frames of the device's loop.
_FRAMES = 150
#: Batch size where the full model allows any.
_BATCH = 8
#: Pause between two runs, seconds, as between a camera's frames. In a tight loop caches stay warm and the times are too
#: short (ResNet-18 and EfficientNet-Lite0: 8.9 ms in a tight loop, 11.4 ms with this pause).
_PAUSE_S = 1 / 30
#: Longest wait for the broker, seconds.
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Fitted:
    """A fitted profile.

    Attributes:
        rate: Multiply-adds per second, in 1e9.
        operator_us: Constant of an operator, microseconds.
        error: Median relative error of the estimate over probe networks that the fit leaves out.
    """

    rate: float
    operator_us: float
    error: float


def device(
    title: str, bundle: Bundle, threads: Sequence[int], advance: Callable[[], object] = lambda: None
) -> tuple[DeviceProfile, float]:
    """The profile of this machine as a device, and its estimate's error (see ``Fitted``).

    Args:
        title: Name of the machine.
        bundle: Bundle to answer frames with.
        threads: Numbers of threads to measure.
        advance: Called after each of ``2 * len(threads) + 1`` steps.
    """
    rates: dict[Precision, dict[int, float]] = {"float32": {}, "int8": {}}
    constants, errors = [], []
    with tempfile.TemporaryDirectory() as directory:
        kinds: dict[Precision, list[Path]] = {"float32": [], "int8": []}
        for number, (widths, blocks) in enumerate(_PROBES):
            plain, quantised = Path(directory, f"{number}.onnx"), Path(directory, f"{number}-int8.onnx")
            probe_network(widths, blocks, plain)
            images = np.random.default_rng(0).normal(size=(8, 3, _SIDE, _SIDE)).astype(np.float32)
            onnx.save(quantise.int8(onnx.load(str(plain)), images), str(quantised))
            kinds["float32"].append(plain)
            kinds["int8"].append(quantised)
        for precision, paths in kinds.items():
            costs = [cost.model_cost(onnx.load(str(path)), _SIDE) for path in paths]
            for count in threads:
                fitted = fit(costs, _seconds(paths, count))
                rates[precision][count] = round(fitted.rate, 2)
                errors.append(fitted.error)
                if count == threads[0]:
                    constants.append(fitted.operator_us)
                advance()
    frame_s, decision_s, encode_s = _handling(bundle)
    advance()
    profile = DeviceProfile(
        title=title,
        source=f"simulator profile, {time.strftime('%Y-%m-%d')}",
        rates=rates,
        operator_us=round(max(constants), 2),
        frame_ms=round(1e3 * frame_s, 4),
        decision_ms=round(1e3 * decision_s, 4),
        encode_ms=round(1e3 * encode_s, 4),
    )
    return profile, max(errors)


def server(title: str, bundle: Bundle, threads: int) -> ServerProfile:
    """The profile of this machine as a server of the bundle behind the embedded broker. Raises ``BrokerError``."""
    full = FullModel(bundle, "auto", threads)
    model = bundle.manifest.models[full.name]
    width, height = model.input.size
    picture = encode(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))[1]
    one = full.prepare(picture)
    batch = full.batch or _BATCH
    alone, together = (_median(lambda count=count: full.run([one] * count, [None] * count)) for count in (1, batch))  # type: ignore[misc]
    each = max(alone / 100, (together - alone) / (batch - 1)) if batch > 1 else alone
    macs = cost.macs(onnx.load(str(bundle.path(full.name))), model.input.size)
    return ServerProfile(
        title=title,
        source=f"simulator profile, {time.strftime('%Y-%m-%d')}",
        rate=round(macs / each / 1e9, 2),
        batch_ms=round(1e3 * max(0.0, alone - each), 4),
        request_ms=round(1e3 * _median(lambda: full.prepare(picture)), 4),
        broker_ms=round(1e3 * _through_broker(len(picture)), 4),
    )


def probe_network(widths: Sequence[int], blocks: int, path: Path) -> None:
    """Write a residual net with random weights, structured like those of ``models.train.networks``."""
    rng = np.random.default_rng(0)
    graph = Graph()

    def convolution(name: str, x: str, inputs: int, out: int, kernel: int, stride: int, relu: bool) -> str:
        scale = (2 / (inputs * kernel * kernel)) ** 0.5
        weight = rng.normal(0, scale, (out, inputs, kernel, kernel)).astype(np.float32)
        return graph.convolution(name, x, weight, np.zeros(out, np.float32), stride, kernel // 2, relu)

    x = convolution("stem", "image", 3, widths[0], 3, 1, True)
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            name, stride = f"stage{stage}.block{block}", 2 if stage and not block else 1
            y = convolution(f"{name}.conv1", x, channels, width, 3, stride, True)
            y = convolution(f"{name}.conv2", y, width, width, 3, 1, False)
            if stride != 1 or channels != width:
                x = convolution(f"{name}.shortcut", x, channels, width, 1, stride, False)
            x = graph.node("Relu", [graph.node("Add", [y, x], f"{name}.sum")], f"{name}.out")
            channels = width
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pooled")], "embedding")
    head = graph.constant("head.weight", rng.normal(0, 0.1, (10, channels)).astype(np.float32))
    graph.node("Gemm", [x, head, graph.constant("head.bias", np.zeros(10, np.float32))], "scores", transB=1)
    write_classifier(graph, 10, path, {})


def fit(costs: Sequence[Cost], seconds: Sequence[float]) -> Fitted:
    """Fit rate and constant, both at least 0, to measured run times, ``seconds``."""
    rate, constant = _solve(costs, seconds)
    errors = []
    for left_out in range(len(costs)):
        others = [n for n in range(len(costs)) if n != left_out]
        other_rate, other_constant = _solve([costs[n] for n in others], [seconds[n] for n in others])
        estimate = costs[left_out].macs / other_rate + costs[left_out].operators * other_constant
        errors.append(abs(estimate / seconds[left_out] - 1))
    return Fitted(rate / 1e9, constant * 1e6, median(errors))


def _solve(costs: Sequence[Cost], seconds: Sequence[float]) -> tuple[float, float]:
    """Multiply-adds per second and seconds per operator, by least squares of relative errors."""
    took = np.array(seconds)
    table = np.array([[one.macs, one.operators] for one in costs], np.float64) / took[:, None]
    (each, constant), *_ = np.linalg.lstsq(table, np.ones(len(took)), rcond=None)
    if constant < 0:
        each, constant = (table[:, 0].sum() / (table[:, 0] ** 2).sum()), 0.0
    elif each <= 0:
        each, constant = 1e-15, (table[:, 1].sum() / (table[:, 1] ** 2).sum())
    return 1.0 / float(each), float(constant)


def _seconds(paths: Sequence[Path], threads: int) -> list[float]:
    """Median run time of each model, measured in turns."""
    image = np.zeros((1, 3, _SIDE, _SIDE), np.float32)
    sessions = [Session(path, "cpu", threads) for path in paths]
    took: list[list[float]] = [[] for _ in sessions]
    for number in range(_RUNS + 3):
        for session, times in zip(sessions, took, strict=True):
            time.sleep(_PAUSE_S)
            begun = time.perf_counter()
            session.run(image)
            if number >= 3:
                times.append(time.perf_counter() - begun)
    return [median(times) for times in took]


def _through_broker(nbytes: int) -> float:
    """Time of a message of ``nbytes`` through the broker back to its sender, seconds."""
    broker = EmbeddedBroker("127.0.0.1", free_port())
    broker.start()
    arrivals: queue.SimpleQueue[float] = queue.SimpleQueue()
    connection = MqttConnection(
        broker.address, "profile", [("profile", 0)], lambda _message: arrivals.put(time.perf_counter())
    )
    connection.start()
    try:
        connection.connected.wait(_TIMEOUT_S)
        took = []
        for _ in range(_RUNS):
            time.sleep(_PAUSE_S)
            begun = time.perf_counter()
            connection.publish("profile", bytes(nbytes))
            try:
                took.append(arrivals.get(timeout=_TIMEOUT_S) - begun)
            except queue.Empty:
                raise BrokerError("the embedded broker lost a message") from None
        return median(took)
    finally:
        connection.stop()
        broker.stop()


def _handling(bundle: Bundle) -> tuple[float, float, float]:
    """Times of a frame, seconds: handling without models; signature and CacheNet's decision; picture encoding."""
    split, manifest = sample.load(), bundle.manifest
    plan = streams.schedule("camera", split.labels, 0, _FRAMES)
    draw = streams.renderer(plan, split.images)
    base, full = (manifest.models[manifest.only(role)] for role in ("base", "full"))
    logits = np.zeros(len(manifest.labels), np.float32)

    def score(_view: FrameInputs) -> npt.NDArray[np.float32]:
        return logits

    local = LocalModel("base", score, base.temperature, np.array(base.coverage), level="base")
    cascade = build_device_cascade(Settings(), manifest, local, True, 1 << 28)
    prepare = preprocessor(base.input)
    frames: list[float] = []
    decisions: list[float] = []
    encodings: list[float] = []
    for index in range(_FRAMES):
        picture = draw(index)
        logits = 8.0 * np.eye(len(manifest.labels), dtype=np.float32)[int(plan.label[index]) % len(manifest.labels)]
        time.sleep(_PAUSE_S)
        times = [time.perf_counter()]
        view = FrameInputs(picture)
        prepare(view.crop(base.input))
        times.append(time.perf_counter())
        step = cascade.lookup(Frame(index, view, sign(picture)), times[0])
        cascade.complete(step, Reply(index, logits) if isinstance(step, Miss) else None, times[0])
        times.append(time.perf_counter())
        encode(view.crop(full.input))
        times.append(time.perf_counter())
        for series, took in zip((frames, decisions, encodings), np.diff(times).tolist(), strict=True):
            series.append(took)
    return median(frames), median(decisions), median(encodings)


def _median(run: Callable[[], object]) -> float:
    took = []
    for _ in range(_RUNS):
        time.sleep(_PAUSE_S)
        begun = time.perf_counter()
        run()
        took.append(time.perf_counter() - begun)
    return median(took)
