"""Checks of ``cloud-server doctor`` for a full model on a V2 server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from cachenet.cloud_server.serving.v2 import Tensor, V2Model
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import diagnostics
from cachenet.shared.command.diagnostics import Finding
from cachenet.shared.inference.engine import EngineError, Session, TensorInfo
from cachenet.shared.inference.image import crop, preprocessor

#: The protocol's names of ONNX Runtime's element types.
_NAMES = {
    "float": "FP32", "float16": "FP16", "double": "FP64", "bool": "BOOL", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
#: Number of timed rounds of requests; the median counts.
_ROUNDS = 5


def findings(url: str, bundle: Bundle, concurrency: int) -> Iterator[Finding]:
    """Check that the V2 server runs the bundle's full model and answers as this machine's processor does.

    Args:
        url: Address of the server.
        concurrency: Number of requests that ``cloud-server run`` sends at a time.
    """
    manifest = bundle.manifest
    name = manifest.only("full")
    try:
        remote, local = V2Model(url, bundle), Session(bundle.path(name), "cpu")
        if error := remote.not_ready():
            yield Finding("v2", "problem", f"{error}; start it with the model {name}, or give another --v2-url")
            return
        yield Finding("v2", "ok", f"{url} has the model {name} ready")
        yield _tensors(remote, local)
        expected, answer = (diagnostics.golden_answer(name, one, manifest) for one in (local, remote))
        if answer != expected:
            text = f"{name}: the V2 server {answer}, the processor {expected}; give the server this bundle's model"
            yield Finding("model", "problem", text)
            return
        yield Finding("model", "ok", f"{name} {answer}, as the processor does")
        spec = manifest.models[name].input
        batch = preprocessor(spec)(crop(diagnostics.golden(), spec))
        with ThreadPoolExecutor(concurrency) as pool:
            durations = []
            for _ in range(_ROUNDS):
                started = time.perf_counter()
                list(pool.map(remote.run_all, [batch] * concurrency))
                durations.append(time.perf_counter() - started)
    except EngineError as error:
        yield Finding("model", "problem", str(error))
        return
    seconds = sorted(durations)[_ROUNDS // 2]
    pace = f"{concurrency} requests at a time: up to {concurrency / seconds:.0f} a second"
    yield Finding("pace", "ok", f"{name} takes {1000 * seconds:.0f} ms for {pace}")


def _tensors(remote: V2Model, local: Session) -> Finding:
    """Compare what the server says of the model with the bundle's file."""
    described = remote.description()
    for kind, others, own in (
        ("input", described.inputs, local.inputs()),
        ("output", described.outputs, local.outputs()),
    ):
        if error := mismatch(kind, others, own):
            text = f"the V2 server's model {error}; give it this bundle's model"
            return Finding("tensors", "problem", text)
        if not others:
            return Finding("tensors", "warning", f"the V2 server does not describe the model's {kind}s")
    return Finding("tensors", "ok", "names, types and shapes of inputs and outputs are those of the bundle")


def mismatch(kind: str, described: Sequence[Tensor], expected: Sequence[TensorInfo]) -> str:
    """How a server's description of a model's inputs or outputs differs from the model; empty if it does not.

    A server that describes nothing does not differ. The size -1 fits any.
    """
    by_name = {one.name: one for one in described}
    for own in expected if described else ():
        tensor = by_name.get(own.name)
        if tensor is None:
            return f"has no {kind} {own.name!r} but {', '.join(sorted(by_name))}"
        if tensor.datatype != _NAMES.get(own.type, own.type):
            return f"has the {kind} {own.name!r} as {tensor.datatype}, not {_NAMES.get(own.type, own.type)}"
        fits = (a == b or -1 in (a, b) for a, b in zip(tensor.shape, own.shape, strict=False))
        if len(tensor.shape) != len(own.shape) or not all(fits):
            return f"has the {kind} {own.name!r} of shape {list(tensor.shape)}, not {list(own.shape)}"
    return ""
