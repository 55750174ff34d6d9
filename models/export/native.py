"""The input of a user's classifier: its layout, type and size, and the same model with the input that all models of
a bundle have, ``(n, channels, height, width)`` float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper

from cachenet.models.export.graph_edit import Editor
from cachenet.models.export.onnx_file import ClassifierError
from cachenet.shared.inference.image import Input, Tensor

Layout = Literal["nchw", "nhwc"]
_TYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
}
#: Types of pixels as they are, and what is taken off 0..255 for each.
_WHOLE: dict[int, float] = {TensorProto.UINT8: 0, TensorProto.INT8: 128, TensorProto.INT32: 0, TensorProto.INT64: 0}
_CHANNELS = (3, 1)


@dataclass(frozen=True)
class Native:
    """What the file's graph takes. ``batch``, ``height``, ``width``: None where it takes any. ``kind``: the element
    type's number in ONNX."""

    name: str
    kind: int
    layout: Layout
    channels: int
    batch: int | None
    height: int | None
    width: int | None

    @property
    def words(self) -> str:
        """For people: ``n x 3 x 224 x 224 float32``."""
        height, width = self.height or "?", self.width or "?"
        sizes: tuple[int | str, ...] = (self.channels, height, width)
        if self.layout == "nhwc":
            sizes = (height, width, self.channels)
        return " x ".join(map(str, (self.batch or "n", *sizes))) + f" {np.dtype(_TYPES[self.kind]).name}"

    @property
    def pixels_as_they_are(self) -> bool:
        """Whether it takes whole numbers, so that nothing can be normalised before it."""
        return self.kind in _WHOLE

    def fitted(self, spec: Input) -> Input:
        """``spec`` with what the graph fixes: size, grey, and pixels as they are.

        A preset's crop is the custom of models of about its size (224 of 256 pixels): one of less than half of it sees
        all of the picture.
        """
        width, height = self.width or spec.size[0], self.height or spec.size[1]
        changes: dict[str, Any] = {"side": width, "height": None if width == height else height}
        if 2 * width < spec.size[0] and 2 * height < spec.size[1]:
            changes["crop"] = 1.0
        if self.channels == 1:
            changes["colour"] = "grey"
        elif spec.colour == "grey":
            raise ClassifierError("the preprocessing is for grey, and the model takes three channels")
        if self.pixels_as_they_are:
            changes |= {"mean": (_WHOLE[self.kind],) * 3, "std": (1.0,) * 3}
        try:
            return msgspec.convert(msgspec.to_builtins(msgspec.structs.replace(spec, **changes)), Input)
        except msgspec.ValidationError as error:
            raise ClassifierError(f"the model takes pictures of {width}x{height}: {error}") from None

    def taken(self, batch: Tensor) -> npt.NDArray[Any]:
        """``batch`` ``(n, channels, height, width)`` as the file's own graph takes it."""
        laid = batch.transpose(0, 2, 3, 1) if self.layout == "nhwc" else batch
        return np.ascontiguousarray(laid, _TYPES[self.kind])


def natives(name: str, model: ModelProto) -> list[Native]:
    """Ways to read the input of the model in the file ``name``, the likeliest first; which one it is shows when it
    runs. Raises ``ClassifierError`` for what takes no picture."""
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [given for given in model.graph.input if given.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(given.name for given in inputs)
        raise ClassifierError(f"{name} takes {len(inputs)} inputs ({names}), and a camera gives one")
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in _TYPES:
        called = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type else "no tensor"
        raise ClassifierError(f"{name} takes {called}; export it to take float32, float16 or uint8")
    sizes = [size.dim_value if size.dim_value > 0 else None for size in kind.shape.dim]
    known = kind.HasField("shape") and len(sizes) > 0
    if known and len(sizes) != 4:
        shape = " x ".join("?" if size is None else str(size) for size in sizes)
        raise ClassifierError(f"{name} takes {shape}, which is no batch of pictures (n, 3, height, width)")
    found = list(_readings(str(inputs[0].name), kind.elem_type, sizes if known else [None] * 4))
    if not found:
        shape = " x ".join("?" if size is None else str(size) for size in sizes)
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
    """The model with an input ``(batch, channels, height, width)`` float32, and declared sizes that make sense. Of a
    model that has such an input nothing else changes."""
    changed = ModelProto()
    changed.CopyFrom(model)
    for value in (*changed.graph.value_info, *changed.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.HasField("dim_value") and size.dim_value <= 0:
                size.Clear()
    editor = Editor(changed)
    nodes: list[NodeProto] = []
    picture = native.name
    if native.layout == "nhwc" or native.kind != TensorProto.FLOAT:
        picture = last = editor.free("picture")
        if native.layout == "nhwc":
            last = editor.free("picture_nhwc") if native.kind != TensorProto.FLOAT else native.name
            nodes.append(helper.make_node("Transpose", [picture], [last], name="picture_layout", perm=[0, 2, 3, 1]))
        if native.kind != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [last], [native.name], name="picture_type", to=native.kind))
        editor.prepend(nodes)
    sizes = [batch or "n", native.channels, native.height or "height", native.width or "width"]
    for given in changed.graph.input:
        if given.name == native.name:
            given.CopyFrom(helper.make_tensor_value_info(picture, TensorProto.FLOAT, sizes))
    return changed
