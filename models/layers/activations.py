"""Activations at the places where a full model can be cut, recorded once: what caches learn from."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, ValueInfoProto, helper

from models.layers.cuts import Cut, Shapes, shapes
from models.plan import key
from shared import files
from shared.engine import Part
from shared.image import Input, Picture, preprocessor

#: A cache looks at activations averaged down to so many places a side at the most.
_GRID = 4
#: Pictures that are run together, and that are kept together.
_BATCH, _PIECE = 32, 2048
#: ``(n, channels, side, side)`` of a map, side 4 at the most, ``(n, dimensions)`` of a vector; float16.
Activations = npt.NDArray[np.float16]


def pooling(sizes: Sequence[int | None]) -> int:
    """By how much a map of these ``sizes`` ``(n, channels, side, side)`` is averaged down, 1 for not at all: so that
    nothing is left over at its edges."""
    side = sizes[2] or 1
    return side // coarser(side, _GRID)


def coarser(grid: int, side: int) -> int:
    """The largest number of places a side, at most ``side``, into which ``grid`` can be divided."""
    return max(number for number in range(1, side + 1) if grid % number == 0)


def record(
    model: ModelProto,
    cuts: Sequence[Cut],
    spec: Input,
    pictures: Sequence[Picture],
    threads: int,
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, Activations]:
    """The tensors that tell something at any of ``cuts``, by name. ``advance`` is called with the number of pictures
    that are done. Raises ``EngineError``."""
    names = list(dict.fromkeys(name for cut in cuts for name in cut.features))
    run = Part(_telling(model, names, shapes(model, spec.side)).SerializeToString(), "full model", "cpu", threads)
    preprocess = preprocessor(spec)
    found: dict[str, list[Activations]] = {name: [] for name in names}
    for at in range(0, len(pictures), _BATCH):
        batch = np.concatenate([preprocess(one) for one in pictures[at : at + _BATCH]])
        made = run.run({run.takes[0]: batch})
        for name, own in zip(names, made.values(), strict=True):
            found[name].append(np.clip(own, -6e4, 6e4).astype(np.float16))
        advance(at + len(batch))
    return {name: np.concatenate(own) for name, own in found.items()}


def kept(
    model: ModelProto,
    cuts: Sequence[Cut],
    spec: Input,
    pictures: Sequence[Picture],
    threads: int,
    directory: Path,
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, Activations]:
    """As ``record``, kept in ``directory`` in pieces, so that an interrupted recording goes on. Raises ``OSError``."""
    names = list(dict.fromkeys(name for cut in cuts for name in cut.features))
    pieces: list[list[Activations]] = []
    for at in range(0, len(pictures), _PIECE):
        path = directory / f"{at // _PIECE:05}-{key(names)}.npz"
        if not path.exists():
            some = pictures[at : at + _PIECE]
            found = record(model, cuts, spec, some, threads, partial(_further, advance, at))
            data = io.BytesIO()
            np.savez(data, *(found[name] for name in names))
            files.write(path, data.getbuffer())
        with np.load(path) as piece:
            pieces.append([piece[name] for name in piece.files])
        advance(min(at + _PIECE, len(pictures)))
    return {name: np.concatenate([piece[number] for piece in pieces]) for number, name in enumerate(names)}


def _further(advance: Callable[[int], object], begun: int, done: int) -> None:
    advance(begun + done)


def _telling(model: ModelProto, names: Sequence[str], known: Shapes | Mapping[str, Sequence[int | None]]) -> ModelProto:
    """The model with these tensors for its outputs, maps averaged down."""
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    for name in names:
        small = name
        if len(known[name]) == 4 and (by := pooling(known[name])) > 1:
            small = f"{name}.small"
            pool = helper.make_node("AveragePool", [name], [small], kernel_shape=[by, by], strides=[by, by])
            changed.graph.node.append(pool)
        changed.graph.output.append(ValueInfoProto(name=small))
    return changed
