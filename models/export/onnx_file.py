"""Reads ONNX files, or names the reason why they cannot be used; runs models in ONNX Runtime."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, load_external_data_for_model

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import path_or_bytes, shown
from cachenet.shared.command.regular_files import open_regular
from cachenet.shared.inference.engine import EXACT, first_line

#: Files that are often mistaken for ONNX: offset, magic bytes, description.
_OTHERS = (
    (0, b"PK\x03\x04", "a PyTorch or Keras file; export the model to ONNX"),
    (0, b"\x89HDF", "a Keras file; export the model to ONNX"),
    (4, b"TFL3", "a TensorFlow Lite file; convert it with tf2onnx"),
    (4, b"ORTM", "in ONNX Runtime's own format; give the .onnx file that it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file with: git lfs pull"),
)
_IR = re.compile(r"model IR version: (\d+), max supported IR version: (\d+)")
_OPSET = re.compile(r"Opset (\d+) is under development.* for domain (\S+) is till opset (\d+)")


class ClassifierError(UserError):
    """A file is no usable classifier. The message names what is missing."""


def load(path: Path) -> ModelProto:
    """Read the model in ``path`` with all weights. Raises ``ClassifierError``."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise ClassifierError(f"{shown(path)} is not there") from None
    except OSError as error:
        raise ClassifierError(f"{shown(path)}: {error.strerror}") from None
    for offset, start, name in _OTHERS:
        if data[offset : offset + len(start)] == start:
            raise ClassifierError(f"{path.name} is no ONNX file but {name}")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's own error type, which is not imported
        raise ClassifierError(f"{path.name} is no ONNX file; export the model with torch.onnx.export") from None
    if not model.graph.node:
        raise ClassifierError(f"{path.name} is no ONNX file, or one without a graph; export the model again")
    _weights(path, model)
    return model


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield all stored tensors of a graph and its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors) if attribute.type != AttributeProto.GRAPH else ()
            for inner in subgraphs(attribute):
                yield from tensors(inner)


def subgraphs(attribute: AttributeProto) -> list[GraphProto]:
    """Return the graphs of an attribute: branches of ``If``, bodies of ``Loop`` and ``Scan``."""
    return [attribute.g, *attribute.graphs] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)


def inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the inputs of a graph that are no weights."""
    weights = {weight.name for weight in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def copied(model: ModelProto) -> ModelProto:
    """Return a copy of a model."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


class OnnxRun:
    """A session of ONNX Runtime on the CPU with any number of outputs of any type.

    Args:
        model: Model or its file.
        name: Name of the model in errors.
        threads: Threads of an operator.
        exact: Whether to run as devices do, see ``shared.inference.engine.EXACT``.

    Raises:
        ClassifierError: ONNX Runtime cannot load the model.
    """

    def __init__(self, model: ModelProto | Path, name: str, threads: int = 1, exact: bool = True) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        if exact:
            options.add_session_config_entry(*EXACT)
        try:
            source = path_or_bytes(model) if isinstance(model, Path) else model.SerializeToString()
        except ValueError:
            raise ClassifierError(f"{name} has more than two gigabytes of weights; give a smaller model") from None
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's error types have no common base
            raise ClassifierError(f"{name}: {_reason(error)}") from None
        self._name, self.input = name, self._session.get_inputs()[0].name

    def __call__(self, outputs: Sequence[str] | None, batch: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the tensors of these names, or all outputs. Raises ``ClassifierError``."""
        try:
            values: list[npt.NDArray[Any]] = self._session.run(outputs, {self.input: batch})
        except Exception as error:
            raise ClassifierError(f"{self._name}: the model does not run: {first_line(error)}") from None
        return [np.asarray(value) for value in values]


def properties(model: ModelProto) -> Mapping[str, str]:
    """Return the metadata of a file."""
    return {entry.key: entry.value for entry in model.metadata_props}


def _weights(path: Path, model: ModelProto) -> None:
    """Read weights that are stored in other files. Raises ``ClassifierError``."""
    files = {
        entry.value
        for tensor in tensors(model.graph)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(files):
        if not (path.parent / name).is_file():
            raise ClassifierError(f"{path.name} keeps weights in {name!r}, which is not beside it; copy that file too")
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise ClassifierError(f"{path.name}: weights in {', '.join(sorted(files))}: {first_line(error)}") from None


def _reason(error: Exception) -> str:
    """Explain why ONNX Runtime cannot load a model."""
    text, version = str(error), ort.__version__
    if found := _IR.search(text):
        return (
            f"ONNX file format (IR) {found[1]}, and ONNX Runtime {version} knows up to {found[2]}; "
            "export it with an older onnx"
        )
    if found := _OPSET.search(text):
        return (
            f"operator set {found[1]} of {found[2]}, and ONNX Runtime {version} knows up to {found[3]}; "
            "export it with a smaller opset_version"
        )
    return f"ONNX Runtime {version} cannot load it: {first_line(error)}"
