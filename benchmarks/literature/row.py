"""One row of docs/literature.md: a method, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """What a row measured.

    Attributes:
        measured: The figure that is compared with the published one.
        unit: What the figure is, with its unit.
        pays: Whether the method meets its bar on the project's own clips at equal error.
        details: Curves and columns behind the figure, as JSON takes them.
    """

    measured: float
    unit: str
    pays: bool
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """What a row may read and write.

    Attributes:
        data: The clips, detectors and tasks that are not part of the project: ``videos/``, ``detectors/``, ``state/``.
        work: The row's directory for what was trained or recorded. A second run continues with it.
        smoke: Whether a few steps on little data are enough, to show that the row runs. Its figures mean nothing.
        say: Takes lines of progress.
    """

    data: Path
    work: Path
    smoke: bool
    say: Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """A method of the literature.

    Attributes:
        published: The published figure, its data, and the paper.
        measure: Measures the method.
    """

    published: str
    measure: Callable[[Inputs], Measurement]
