"""Activations at the places where a full model can be cut, recorded once: what caches learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, ValueInfoProto, helper

from cachenet.models.build_config import key
from cachenet.models.exits.sites import Cut, Shapes, shapes
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import ModelPart
from cachenet.shared.inference.image import Input, Picture, preprocessor

#: A cache looks at activations averaged down to so many places a side at the most.
_GRID = 4
#: Pictures that are run together, and that are written together.
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
    run = ModelPart(_telling(model, names, shapes(model, spec.size)).SerializeToString(), "full model", "cpu", threads)
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
    """As ``record``, kept in ``directory`` and mapped into memory from there, for they are gigabytes; an interrupted
    recording goes on. Raises ``OSError``."""
    names = list(dict.fromkeys(name for cut in cuts for name in cut.features))
    paths = [directory / f"{key(names)}-{number:02}.npy" for number in range(len(names))]
    # Written last: what it does not count yet is recorded again.
    counter = directory / f"{key(names)}.done"
    done = int(counter.read_text()) if counter.exists() else 0
    for at in range(done, len(pictures), _PIECE):
        some = pictures[at : at + _PIECE]
        found = record(model, cuts, spec, some, threads, partial(_further, advance, at))
        for name, path in zip(names, paths, strict=True):
            _put(path, at, found[name], len(pictures))
        atomic_files.write(counter, str(at + len(some)).encode())
    advance(len(pictures))
    return {name: np.load(path, mmap_mode="r") for name, path in zip(names, paths, strict=True)}


def _put(path: Path, at: int, piece: Activations, count: int) -> None:
    """Write ``piece`` from row ``at`` on into an array of ``count`` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (count, *piece.shape[1:])
    mode: Literal["r+", "w+"] = "r+" if at else "w+"
    mapped = np.lib.format.open_memmap(path, mode, piece.dtype, shape)
    mapped[at : at + len(piece)] = piece
    mapped.flush()


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
