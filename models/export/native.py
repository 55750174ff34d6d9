"""The input of a user's classifier, and its conversion to the input of all bundle models.

That input is ``(n, channels, height, width)`` float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from cachenet.models.export.graph_edit import Editor
from cachenet.models.export.onnx_file import ClassifierError, copied, inputs
from cachenet.shared.inference.image import Input, Tensor

Layout = Literal["nchw", "nhwc"]
#: Supported element types.
_TYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
}
#: Integer element types of unnormalised pixels, and the mean that maps 0..255 to their range.
_PIXEL_MEANS: dict[int, float] = {
    TensorProto.UINT8: 0,
    TensorProto.INT8: 128,
    TensorProto.INT32: 0,
    TensorProto.INT64: 0,
}
#: Supported numbers of channels, the likelier first.
_CHANNELS = (3, 1)


@dataclass(frozen=True)
class Native:
    """Input of a file's graph."""

    name: str  # Name of the tensor
    kind: int  # Element type, a ``TensorProto.DataType``
    layout: Layout  # Order of the axes
    channels: int  # 3 or 1
    batch: int | None  # Batch size; None for any
    height: int | None  # Height, pixels; None for any
    width: int | None  # Width, pixels; None for any

    @property
    def description(self) -> str:
        """Description such as ``n x 3 x 224 x 224 float32``."""
        height, width, channels = self.height or "?", self.width or "?", self.channels
        sizes = (height, width, channels) if self.layout == "nhwc" else (channels, height, width)
        return " x ".join(map(str, (self.batch or "n", *sizes))) + f" {np.dtype(_TYPES[self.kind]).name}"

    @property
    def is_integer(self) -> bool:
        """Whether the input is of integers, which cannot be normalised."""
        return self.kind in _PIXEL_MEANS

    def fitted(self, spec: Input) -> Input:
        """Return ``spec`` with what the graph fixes: size, grey, and unnormalised pixels.

        A preset's crop suits models of about its size. A model of less than half that size gets the whole image.
        """
        width, height = self.width or spec.size[0], self.height or spec.size[1]
        changes: dict[str, Any] = {"side": width, "height": None if width == height else height}
        if 2 * width < spec.size[0] and 2 * height < spec.size[1]:
            changes["crop"] = 1.0
        if self.channels == 1:
            changes["colour"] = "grey"
        elif spec.colour == "grey":
            raise ClassifierError("the preprocessing is for grey, and the model takes three channels")
        if self.is_integer:
            changes |= {"mean": (_PIXEL_MEANS[self.kind],) * 3, "std": (1.0,) * 3}
        try:
            return msgspec.convert(msgspec.to_builtins(msgspec.structs.replace(spec, **changes)), Input)
        except msgspec.ValidationError as error:
            raise ClassifierError(f"the model takes pictures of {width}x{height}: {error}") from None

    def to_native(self, batch: Tensor) -> npt.NDArray[Any]:
        """Convert ``(n, channels, height, width)`` to layout and type of the file's graph."""
        ordered = batch.transpose(0, 2, 3, 1) if self.layout == "nhwc" else batch
        return np.ascontiguousarray(ordered, _TYPES[self.kind])


def natives(name: str, model: ModelProto) -> list[Native]:
    """Return the possible readings of a model's input, the likeliest first; a run shows which is right.

    Args:
        name: File name for errors.

    Raises:
        ClassifierError: The input is no image.
    """
    values = inputs(model.graph)
    if len(values) != 1:
        names = ", ".join(value.name for value in values)
        raise ClassifierError(f"{name} takes {len(values)} inputs ({names}), and a camera gives one")
    kind = values[0].type.tensor_type
    if kind.elem_type not in _TYPES:
        type_name = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type else "no tensor"
        raise ClassifierError(f"{name} takes {type_name}; export it to take float32, float16 or uint8")
    sizes = [size.dim_value if size.dim_value > 0 else None for size in kind.shape.dim]
    shape = " x ".join("?" if size is None else str(size) for size in sizes)
    if sizes and len(sizes) != 4:
        raise ClassifierError(f"{name} takes {shape}, which is no batch of pictures (n, 3, height, width)")
    found = list(_readings(str(values[0].name), kind.elem_type, sizes or [None] * 4))
    if not found:
        raise ClassifierError(f"{name} takes {shape}, which is no picture of three channels or of one")
    return found


def _readings(name: str, kind: int, sizes: list[int | None]) -> Iterator[Native]:
    batch, second, third, fourth = sizes
    for channels in _CHANNELS:
        if second == channels or (second is None and fourth not in _CHANNELS):
            yield Native(name, kind, "nchw", channels, batch, third, fourth)
        if fourth == channels or (fourth is None and second not in _CHANNELS):
            yield Native(name, kind, "nhwc", channels, batch, second, third)


def canonical(model: ModelProto, native: Native, batch: int | None) -> ModelProto:
    """Return a copy with an input ``(batch, channels, height, width)`` float32 and plausible declared sizes.

    Args:
        native: Its input.
        batch: Batch size; None for any.
    """
    changed = copied(model)
    for value in (*changed.graph.value_info, *changed.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.HasField("dim_value") and size.dim_value <= 0:
                size.Clear()
    editor = Editor(changed)
    nodes: list[NodeProto] = []
    source = native.name
    if native.layout == "nhwc" or native.kind != TensorProto.FLOAT:
        source = last = editor.free("picture")
        if native.layout == "nhwc":
            last = editor.free("picture_nhwc") if native.kind != TensorProto.FLOAT else native.name
            nodes.append(helper.make_node("Transpose", [source], [last], name="picture_layout", perm=[0, 2, 3, 1]))
        if native.kind != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [last], [native.name], name="picture_type", to=native.kind))
        editor.prepend(nodes)
    sizes = [batch or "n", native.channels, native.height or "height", native.width or "width"]
    for value in changed.graph.input:
        if value.name == native.name:
            value.CopyFrom(helper.make_tensor_value_info(source, TensorProto.FLOAT, sizes))
    return changed
