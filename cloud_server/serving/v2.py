"""The full model on a server of the Open Inference Protocol, also called KServe V2, over HTTP.

NVIDIA Triton, KServe, MLServer and OpenVINO Model Server take the bundle's directory, or its full model, as it is. The
paths and fields are those of the protocol (github.com/kserve/open-inference-protocol). Tensors travel as bytes where
the server has the binary tensor data extension, and as JSON elsewhere; both carry each float32 exactly.
"""

from __future__ import annotations

import http.client
import math
import threading
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.text import printable
from cachenet.shared.inference.engine import EngineError, Logits
from cachenet.shared.inference.graph_split import SegmentError, tensor_names

#: Longest wait for a step of the connection, seconds: far more than a device waits for an answer.
_TIMEOUT_S = 10.0
#: Longest wait for the state of the model, seconds. A health check waits for it.
_READY_TIMEOUT_S = 2.0
#: NumPy's types of the protocol's data types.
_TYPES = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
#: Header with the length of the JSON in front of binary tensors.
_JSON_LENGTH = "Inference-Header-Content-Length"

_Size = Annotated[int, msgspec.Meta(ge=0)]


class V2Error(EngineError):
    """A V2 server that gives no usable answer. The message names its address."""


class _Refused(V2Error):
    """A status other than 200."""


class _Parameters(msgspec.Struct):
    binary_data_size: _Size | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[_Size, ...]
    data: list[Any] | None = None
    parameters: _Parameters | None = None


class _Answer(msgspec.Struct):
    outputs: list[_Output]


class Tensor(msgspec.Struct):
    """An input or output in the server's description of a model; -1 in ``shape`` is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Description(msgspec.Struct):
    """What the server says of a model; a server may leave both lists empty."""

    inputs: list[Tensor] = []
    outputs: list[Tensor] = []


class V2Model:
    """The full model of a bundle on a V2 server. Safe to run from several threads.

    Example:
        model = V2Model("http://triton.example:8000", bundle)
        scores = model.run(batch)
    """

    #: The server makes the batches.
    batch: int | None = None

    def __init__(self, url: str, bundle: Bundle) -> None:
        """Read the names of the model's tensors from the bundle. Nothing is sent yet.

        Args:
            url: Address of the server, ``http[s]://host[:port][/path]``.
            bundle: Bundle whose full model the server has, under the same name.

        Raises:
            V2Error: The address is invalid, or the bundle's file is no model with one input.
        """
        self._secure, self._host, self._port, prefix = _address(url)
        name = bundle.manifest.only("full")
        #: Where the model runs, for logs.
        self.provider = url
        self._path = f"{prefix}/v2/models/{quote(name)}"
        path = bundle.path(name)
        try:
            inputs, self._outputs = tensor_names(path.read_bytes())
        except SegmentError as error:
            raise V2Error(f"{path}: {error}") from None
        if len(inputs) != 1:
            raise V2Error(f"{path.name}: needs one input, has {len(inputs)}")
        self._input = inputs[0]
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        #: Whether the server takes binary tensors; None while that is unknown.
        self._binary: bool | None = None

    def run(self, batch: npt.NDArray[np.float32]) -> Logits:
        """Logits ``(n, classes)`` of a classifier for a batch ``(n, channels, height, width)``. Raises ``V2Error``."""
        if len(self._outputs) != 1:
            raise V2Error(f"a classifier has one output, and this model has {len(self._outputs)}")
        return self.run_all(batch)[0]

    def run_all(self, batch: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """All outputs for a batch ``(n, channels, height, width)``, in the order of the model's file.

        Raises:
            V2Error: The server gives no answer, or not the model's outputs.
        """
        binary = self._binary
        if binary is None:
            # The list of extensions does not tell: only Triton names this one there.
            try:
                outputs = self._infer(batch, binary=True)
            except _Refused:
                outputs = self._infer(batch, binary=False)
                self._binary = False
            else:
                self._binary = True
            return outputs
        try:
            return self._infer(batch, binary)
        except _Refused:
            self._binary = None  # perhaps another server has this address now
            raise

    def not_ready(self) -> str:
        """Why the server cannot run the model now; empty if it can."""
        try:
            self._exchange("GET", f"{self._path}/ready", b"", {}, _READY_TIMEOUT_S)
        except V2Error as error:
            return str(error)
        return ""

    def description(self) -> Description:
        """What the server says of the model's tensors. Raises ``V2Error``."""
        _, body = self._exchange("GET", self._path, b"", {}, _TIMEOUT_S)
        try:
            return msgspec.json.decode(body, type=Description)
        except msgspec.MsgspecError as error:
            raise self._error(f"describes the model in an unknown form ({error})") from None

    def _infer(self, batch: npt.NDArray[np.float32], binary: bool) -> list[npt.NDArray[Any]]:
        tensor: dict[str, Any] = {"name": self._input, "datatype": "FP32", "shape": batch.shape}
        request: dict[str, Any] = {"inputs": [tensor], "outputs": [{"name": name} for name in self._outputs]}
        if binary:
            data = np.ascontiguousarray(batch, "<f4").tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            request["parameters"] = {"binary_data_output": True}
            header = msgspec.json.encode(request)
            content = {"Content-Type": "application/octet-stream", _JSON_LENGTH: str(len(header))}
            return self._outputs_of(*self._post(header + data, content))
        tensor["data"] = batch.ravel().tolist()
        return self._outputs_of(*self._post(msgspec.json.encode(request), {"Content-Type": "application/json"}))

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int | None, bytes]:
        return self._exchange("POST", f"{self._path}/infer", body, headers, _TIMEOUT_S)

    def _outputs_of(self, length: int | None, body: bytes) -> list[npt.NDArray[Any]]:
        """The tensors of an answer; ``length``: bytes of its JSON, where binary tensors follow it."""
        end = len(body) if length is None else length
        found = {}
        try:
            for output in msgspec.json.decode(body[:end], type=_Answer).outputs:
                if output.datatype not in _TYPES:
                    raise ValueError(f"the type {output.datatype} of {output.name}")
                kind, count = np.dtype(_TYPES[output.datatype]), math.prod(output.shape)
                size = None if output.parameters is None else output.parameters.binary_data_size
                if size is None:
                    values = np.array(output.data, kind).reshape(output.shape)
                elif size != count * kind.itemsize:
                    raise ValueError(f"{size} bytes for the shape {output.shape} of {output.name}")
                else:
                    values = np.frombuffer(body, kind, count, end).reshape(output.shape).copy()
                    end += size
                found[output.name] = values
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
            raise self._error(f"answers in an unknown form ({error})") from None
        if missing := [name for name in self._outputs if name not in found]:
            raise self._error(f"does not give the model's output {missing[0]!r} but {sorted(found)}")
        return [found[name] for name in self._outputs]

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int | None, bytes]:
        """Send a request. Returns the length of the JSON in the answer, if the server states it, and the answer."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            reused = connection is not None
            connection = connection or self._new_connection()
            try:
                connection.timeout = timeout_s
                if connection.sock is not None:
                    connection.sock.settimeout(timeout_s)
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                length = answer.getheader(_JSON_LENGTH)
                stated = None if length is None else int(length)
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                if reused and not isinstance(error, TimeoutError):
                    continue  # the server had closed the idle connection
                raise self._error(f"does not answer ({_reason(error)})") from None
            with self._lock:
                self._idle.append(connection)
            if answer.status != http.client.OK:
                text = printable(content[:200].decode("utf-8", "replace")) or answer.reason
                raise _Refused(f"the V2 server {self.provider} refuses {path}: {answer.status} {text}")
            return stated, content

    def _new_connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port)

    def _error(self, what: str) -> V2Error:
        return V2Error(f"the V2 server {self.provider} {what}")


def _address(url: str) -> tuple[bool, str, int | None, str]:
    """Whether TLS is used, host, port and path of an address. Raises ``V2Error``."""
    advice = "give --v2-url as http[s]://host[:port], such as http://triton.example:8000"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise V2Error(f"{url!r} is no address; {advice}") from None
    spaced = any(character.isspace() or not character.isprintable() for character in url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or spaced:
        raise V2Error(f"{url!r} is no address of a V2 server; {advice}")
    return parts.scheme == "https", parts.hostname, port, parts.path.rstrip("/")


def _reason(error: Exception) -> str:
    """The cause of a failed connection, in words."""
    if isinstance(error, TimeoutError):
        return "time-out"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
