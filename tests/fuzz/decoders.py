"""The decoders under test: each takes any bytes, and must return or raise its documented error, within bounds."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

from cachenet.shared.bundle import golden_frames, manifest
from cachenet.shared.inference import graph_split
from cachenet.shared.inference.image import BadPicture, Input, crop, preprocessor
from cachenet.shared.media import pictures
from cachenet.shared.transport import fleet, protocol, rollout

#: Longest processor time of one input, seconds. The largest picture takes 0.2 s.
MAX_SECONDS = 2.0
#: Labels of the bundle whose answers are read.
_CLASSES = 10
_INPUT = Input(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_PREPARE = preprocessor(_INPUT)
#: Structured messages that a device or a server receives.
_MESSAGES: tuple[Any, ...] = (protocol.Reply, protocol.Chunk, protocol.BlobRequest, protocol.SignedCatalogue)


class OutOfBounds(Exception):
    """An input that takes more time or memory than its decoder may."""


class Decoder(NamedTuple):
    """A decoder and its bounds.

    Attributes:
        decode: Reads an input.
        refusals: The documented errors.
        max_bytes: Largest memory that an input may take: this number, and ``bytes_per_byte`` for each of its bytes.
        max_input: Largest input that the fuzzer makes, bytes.
    """

    decode: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    max_bytes: int
    bytes_per_byte: int
    max_input: int


def _protocol(data: bytes) -> None:
    for kind in _MESSAGES:
        with contextlib.suppress(protocol.Malformed):
            message = protocol.decode(data, kind)
            if isinstance(message, protocol.Answer):
                message.logits(_CLASSES)
            elif isinstance(message, protocol.DetectionAnswer):
                message.detections(_CLASSES)
    with contextlib.suppress(protocol.Malformed):
        rollout.read(data)
    for kind in (fleet.Stats, protocol.Status):
        with contextlib.suppress(protocol.Malformed):
            fleet.read(data, kind)
    # The client gives texts that are UTF-8.
    topic, content, correlation, *rest = [*data.split(b"\0"), b"", b""][: 3 + 2 * 8]
    texts = [part.decode("utf-8", "ignore") for part in rest]
    properties = list(zip(texts[::2], texts[1::2], strict=False))
    with contextlib.suppress(protocol.Malformed):
        protocol.catalogue_of(topic.decode("utf-8", "ignore"))
    _, leaf = protocol.device_of(topic.decode("utf-8", "ignore"))
    protocol.request(leaf, content.decode("utf-8", "ignore"), correlation or None, properties)


def _picture(data: bytes) -> None:
    with contextlib.suppress(BadPicture):
        pictures.header(data)
    _PREPARE(crop(pictures.decode(data), _INPUT))


def _manifest(data: bytes) -> None:
    if not data.startswith(b"{"):
        golden_frames.read(data)
        return
    found = manifest.parse(data)
    found.files()
    found.better_detector("camera")
    found.general_models()
    found.certificate(0.02)
    _ = found.risk_version


def _graph(data: bytes) -> None:
    """Splits the graph after each of its first tensors, as the loader does at the places of early exits."""
    model = graph_split.read(data)
    for node in model._nodes[:4]:
        with contextlib.suppress(graph_split.SegmentError):
            graph_split.cut(model, [node.outputs])


DECODERS = {
    "protocol": Decoder(_protocol, (protocol.Malformed,), 1 << 20, 64, 4096),
    "pictures": Decoder(_picture, (BadPicture,), 8 * pictures.MAX_PIXELS, 64, 4096),
    "manifests": Decoder(_manifest, (manifest.BundleError, golden_frames.GoldenError), 1 << 20, 256, 16384),
    "graphs": Decoder(_graph, (graph_split.SegmentError,), 1 << 20, 256, 4096),
}


def check(decoder: Decoder, data: bytes) -> None:
    """Decode one input; ``tracemalloc`` must run.

    Raises:
        OutOfBounds: It takes too much time or memory.
        Exception: It raises an error that its decoder does not document.
    """
    assert tracemalloc.is_tracing()
    tracemalloc.reset_peak()
    before, began = tracemalloc.get_traced_memory()[0], time.process_time()
    with contextlib.suppress(*decoder.refusals):
        decoder.decode(data)
    seconds, most = time.process_time() - began, tracemalloc.get_traced_memory()[1] - before
    if seconds > MAX_SECONDS:
        raise OutOfBounds(f"{len(data)} bytes take {seconds:.1f} s")
    if most > decoder.max_bytes + decoder.bytes_per_byte * len(data):
        raise OutOfBounds(f"{len(data)} bytes take {most} bytes of memory")
