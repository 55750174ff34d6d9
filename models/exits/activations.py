"""Records the activations at the sites of a full model: the training data of exit heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, ValueInfoProto, helper

from cachenet.models.build_config import key
from cachenet.models.exits.sites import Shapes, Site, shapes
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import ModelPart
from cachenet.shared.inference.image import Input, Picture, preprocessor

#: Largest side of a feature map after pooling.
_GRID = 4
#: Pictures in one run of the model.
_BATCH = 32
#: Pictures whose activations are written together.
_PIECE = 2048
#: ``(n, channels, side, side)`` of a map with a side of at most 4, or ``(n, dimensions)`` of a vector; float16.
Activations = npt.NDArray[np.float16]


def pooling(sizes: Sequence[int | None]) -> int:
    """Pooling factor of a map of ``sizes`` ``(n, channels, side, side)``; it divides the side."""
    side = sizes[2] or 1
    return side // coarser(side, _GRID)


def coarser(grid: int, side: int) -> int:
    """The largest side of at most ``side`` that divides ``grid``."""
    return max(number for number in range(1, side + 1) if grid % number == 0)


def record(
    model: ModelProto,
    sites: Sequence[Site],
    spec: Input,
    pictures: Sequence[Picture],
    threads: int,
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, Activations]:
    """The feature tensors of ``sites`` for the pictures, by tensor name.

    Args:
        advance: Called with the number of pictures that are done.

    Raises:
        EngineError: The model cannot be run.
    """
    names = _names(sites)
    truncated = _with_outputs(model, names, shapes(model, spec.size))
    run = ModelPart(truncated.SerializeToString(), "full model", "cpu", threads)
    preprocess = preprocessor(spec)
    found: dict[str, list[Activations]] = {name: [] for name in names}
    for at in range(0, len(pictures), _BATCH):
        batch = np.concatenate([preprocess(one) for one in pictures[at : at + _BATCH]])
        outputs = run.run({run.takes[0]: batch})
        for name, output in zip(names, outputs.values(), strict=True):
            found[name].append(np.clip(output, -6e4, 6e4).astype(np.float16))
        advance(at + len(batch))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def record_to_disk(
    model: ModelProto,
    sites: Sequence[Site],
    spec: Input,
    pictures: Sequence[Picture],
    threads: int,
    directory: Path,
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, Activations]:
    """``record`` to files in ``directory``, which are mapped into memory, because they are gigabytes.

    An interrupted recording resumes. Raises ``OSError``.
    """
    names = _names(sites)
    paths = [directory / f"{key(names)}-{number:02}.npy" for number in range(len(names))]
    # The counter is written last: pictures beyond its value are recorded again.
    counter = directory / f"{key(names)}.done"
    done = int(counter.read_text()) if counter.exists() else 0
    for at in range(done, len(pictures), _PIECE):
        piece = pictures[at : at + _PIECE]
        found = record(model, sites, spec, piece, threads, lambda number, at=at: advance(at + number))  # type: ignore[misc]
        for name, path in zip(names, paths, strict=True):
            _write_rows(path, at, found[name], len(pictures))
        atomic_files.write(counter, str(at + len(piece)).encode())
    advance(len(pictures))
    return {name: np.load(path, mmap_mode="r") for name, path in zip(names, paths, strict=True)}


def _names(sites: Sequence[Site]) -> list[str]:
    return list(dict.fromkeys(name for site in sites for name in site.features))


def _write_rows(path: Path, at: int, rows: Activations, count: int) -> None:
    """Write ``rows`` from row ``at`` on into an array file of ``count`` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode: Literal["r+", "w+"] = "r+" if at else "w+"
    mapped = np.lib.format.open_memmap(path, mode, rows.dtype, (count, *rows.shape[1:]))
    mapped[at : at + len(rows)] = rows
    mapped.flush()


def _with_outputs(model: ModelProto, names: Sequence[str], known: Shapes) -> ModelProto:
    """The model with these tensors as its outputs; maps are pooled."""
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
