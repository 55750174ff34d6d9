"""A video of moving squares, and a detector in ONNX that finds them: any machine can build from them."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cachenet.models.export.metadata import format_labels
from cachenet.shared.inference.decoders import Decoder
from cachenet.shared.inference.image import Input

#: Width and height of a frame, side of a square, and stride of the detector, pixels.
SIZE, SIDE, STRIDE = (128, 96), 16, 4
#: What the detector takes.
INPUT = Input(128, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), height=96, fit="stretch")


def video(path: Path, count: int = 120, squares: int = 2) -> Path:
    """White squares that move over a dark background."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE)
    assert writer.isOpened()
    rng = np.random.default_rng(0)
    start, speed = rng.uniform(0, 100, (squares, 2)), rng.uniform(0.5, 2, (squares, 2))
    room = np.array(SIZE) - SIDE
    for frame in range(count):
        picture = rng.integers(10, 40, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
        # There and back again.
        places = np.abs((start + frame * speed) % (2 * room) - room).astype(int)
        for x, y in places.tolist():
            picture[y : y + SIDE, x : x + SIDE] = 240
        writer.write(picture)
    writer.release()
    return path


def detector(path: Path, labels: tuple[str, ...] = ("square",)) -> Path:
    """A heatmap detector of squares, in the form of the own detectors; a second label is never found."""
    classes = len(labels)
    boxes = np.array([0.5, 0.5, np.log(SIDE / STRIDE), np.log(SIDE / STRIDE)], np.float32)
    mean = np.zeros((4 + classes, 3, 1, 1), np.float32)
    mean[4] = 1 / 3
    weights = {"mean": mean, "bias": np.concatenate([boxes, np.zeros(classes, np.float32)])}
    nodes = [
        helper.make_node(
            "AveragePool",
            ["image"],
            ["small"],
            kernel_shape=[SIDE, SIDE],
            strides=[STRIDE, STRIDE],
            pads=[(SIDE - STRIDE) // 2] * 4,
        ),
        helper.make_node("Conv", ["small", "mean", "bias"], ["maps"], kernel_shape=[1, 1]),
        helper.make_node("Split", ["maps", "sizes"], ["boxes", "scores"], axis=1),
        helper.make_node("Clip", ["scores", "zero", "one"], ["clipped"]),
        helper.make_node("MaxPool", ["clipped"], ["highest"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Less", ["clipped", "highest"], ["lower"]),
        helper.make_node("Where", ["lower", "zero", "clipped"], ["peaks"]),
        helper.make_node("Concat", ["boxes", "peaks"], ["objects"], axis=1),
    ]
    constants = [
        *(numpy_helper.from_array(value, name) for name, value in weights.items()),
        numpy_helper.from_array(np.array([4, classes], np.int64), "sizes"),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(1), "one"),
    ]
    width, height = SIZE
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])
    objects = helper.make_tensor_value_info(
        "objects", TensorProto.FLOAT, [1, 4 + classes, height // STRIDE, width // STRIDE]
    )
    model = helper.make_model(
        helper.make_graph(nodes, "squares", [image], [objects], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    # In plain white pictures all cells tie, so that the decoder cannot be found from the values.
    decoder = msgspec.json.encode(Decoder("heatmap", tuple(range(classes)))).decode()
    properties = {"labels": format_labels(labels), "input": msgspec.json.encode(INPUT).decode(), "decoder": decoder}
    helper.set_model_props(model, {f"cachenet.{key}": value for key, value in properties.items()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path
