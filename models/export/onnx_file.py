"""Reading an ONNX file: what is in it, or the reason why it cannot be used. ONNX Runtime is the judge of what runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, load_external_data_for_model

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import path_or_bytes, shown
from cachenet.shared.command.regular_files import open_regular
from cachenet.shared.inference.engine import EXACT, first_line

#: First bytes of files that are taken for ONNX, and what they are. Offset, bytes, name.
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
    """A file that is no classifier that can be built from; the message says what is missing."""


def load(path: Path) -> ModelProto:
    """The model in ``path`` with all of its weights. Raises ``ClassifierError`` for what is no ONNX file, and for
    weights in other files that are not there."""
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
    except Exception:  # protobuf's error is of a package that is not ours to name
        raise ClassifierError(f"{path.name} is no ONNX file; export the model with torch.onnx.export") from None
    if not model.graph.node:
        raise ClassifierError(f"{path.name} is no ONNX file, or one without a graph; export the model again")
    _weights(path, model)
    return model


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All stored tensors of a graph and of the graphs within it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors) if attribute.type != AttributeProto.GRAPH else ()
            for inner in subgraphs(attribute):
                yield from tensors(inner)


def subgraphs(attribute: AttributeProto) -> list[GraphProto]:
    """The graphs that an attribute holds: branches of ``If``, bodies of ``Loop`` and ``Scan``."""
    return [attribute.g, *attribute.graphs] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)


class OnnxRun:
    """A model loaded into ONNX Runtime on the processor, to be tried. Several outputs of any type."""

    def __init__(self, model: ModelProto | Path, name: str, threads: int = 1, exact: bool = True) -> None:
        """``name``: of the model, for errors. ``exact``: as devices run it, see ``shared.inference.engine.EXACT``.
        Raises ``ClassifierError`` with ONNX Runtime's reason."""
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
        except Exception as error:  # ONNX Runtime raises a family of types that share no base of their own
            raise ClassifierError(f"{name}: {_reason(error)}") from None
        self._name, self.input = name, self._session.get_inputs()[0].name

    def __call__(self, outputs: Sequence[str] | None, batch: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The tensors of these names, or all outputs. Raises ``ClassifierError``."""
        try:
            made: list[npt.NDArray[Any]] = self._session.run(outputs, {self.input: batch})
        except Exception as error:
            raise ClassifierError(f"{self._name}: the model does not run: {first_line(error)}") from None
        return [np.asarray(one) for one in made]


def properties(model: ModelProto) -> Mapping[str, str]:
    """The file's metadata."""
    return {entry.key: entry.value for entry in model.metadata_props}


def _weights(path: Path, model: ModelProto) -> None:
    """Read what is kept in other files."""
    elsewhere = {
        entry.value
        for tensor in tensors(model.graph)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(elsewhere):
        if not (path.parent / name).is_file():
            raise ClassifierError(f"{path.name} keeps weights in {name!r}, which is not beside it; copy that file too")
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise ClassifierError(f"{path.name}: weights in {', '.join(sorted(elsewhere))}: {first_line(error)}") from None


def _reason(error: Exception) -> str:
    """Why ONNX Runtime does not load a model."""
    said, version = str(error), ort.__version__
    if found := _IR.search(said):
        return (
            f"ONNX file format (IR) {found[1]}, and ONNX Runtime {version} knows up to {found[2]}; "
            "export it with an older onnx"
        )
    if found := _OPSET.search(said):
        return (
            f"operator set {found[1]} of {found[2]}, and ONNX Runtime {version} knows up to {found[3]}; "
            "export it with a smaller opset_version"
        )
    return f"ONNX Runtime {version} cannot load it: {first_line(error)}"
