"""Names of files: printable whatever bytes they hold, and in natural order."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cachenet.shared.command.text import printable

#: Longest name that a message shows, in characters; the middle of a longer one is left out.
_LONGEST = 200


def shown(name: str | os.PathLike[str]) -> str:
    """``name`` as text that any terminal, log and JSON file takes: bytes that are no UTF-8 and characters that are not
    printable (newlines, escapes) become escape sequences such as ``\\xe9``."""
    text = printable(os.fsencode(name).decode("utf-8", "backslashreplace"))
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}...{text[-half:]}"


def path_or_bytes(path: Path) -> str | bytes:
    """What ONNX Runtime takes for the model file ``path``: its name, or its bytes where the name is no UTF-8. Raises
    ``OSError``."""
    return str(path) if _is_text(str(path)) else path.read_bytes()


def as_text(value: Any) -> Any:
    """``value``, of strings, lists, dictionaries and what else JSON has, with every string such that JSON and TOML take
    it: bytes of a name that are no UTF-8 become escape sequences such as ``\\xe9``."""
    if isinstance(value, str):
        return os.fsencode(value).decode("utf-8", "backslashreplace") if not _is_text(value) else value
    if isinstance(value, dict):
        return {key: as_text(one) for key, one in value.items()}
    return [as_text(one) for one in value] if isinstance(value, list | tuple) else value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def natural(name: str) -> tuple[tuple[tuple[str, int], ...], str]:
    """A sort key under which ``frame2`` comes before ``frame10``. No two names have the same key."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", name)
    return tuple((text, int(digits) if digits else -1) for text, digits in parts), name
