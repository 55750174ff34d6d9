"""Open file descriptors of this process."""

from __future__ import annotations

import os


def descriptors() -> int:
    """Their number, with the one that counts them."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
