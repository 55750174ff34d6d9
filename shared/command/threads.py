"""Number of threads of a computation where the user gives none."""

from __future__ import annotations

import os

#: Largest number of threads by default, as in the settings of the server.
_MOST = 64


def default_threads() -> int:
    """``OMP_NUM_THREADS``, which OpenMP and PyTorch read too, or one for each processor that this process may use."""
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    chosen = int(text) if text.isascii() and text.isdigit() else 0
    return min(_MOST, chosen or len(os.sched_getaffinity(0)))
