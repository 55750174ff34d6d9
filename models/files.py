"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path``, under another name until all of it is there: what an interrupted job leaves behind
    never passes for a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    partial.replace(path)
