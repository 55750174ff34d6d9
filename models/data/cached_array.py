"""An array that takes long to make, made once."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.shared.command import atomic_files


def kept(path: Path, make: Callable[[], npt.NDArray[np.floating]]) -> npt.NDArray[np.float32]:
    """What ``make`` gave when ``path`` was not there yet, as float32. Raises ``OSError`` if it cannot be written."""
    if not path.exists():
        data = io.BytesIO()
        np.save(data, make())
        atomic_files.write(path, data.getbuffer())
    stored: npt.NDArray[np.float32] = np.load(path).astype(np.float32)
    return stored
