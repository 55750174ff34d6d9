"""Names of files: printable forms, and natural order."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cachenet.shared.command.text import printable

#: Longest name in a message, characters; the middle of a longer one is left out.
_MAX_LENGTH = 200


def shown(name: str | os.PathLike[str]) -> str:
    """``name`` as printable text.

    Bytes that are not UTF-8 and unprintable characters become escape sequences such as ``\\xe9``.
    """
    text = printable(os.fsencode(name).decode("utf-8", "backslashreplace"))
    half = _MAX_LENGTH // 2
    return text if len(text) <= _MAX_LENGTH else f"{text[:half]}...{text[-half:]}"


def path_or_bytes(path: Path) -> str | bytes:
    """The name of a model file for ONNX Runtime, or the file's bytes where the name is not UTF-8.

    Raises:
        OSError: The file cannot be read.
    """
    return str(path) if _is_text(str(path)) else path.read_bytes()


def as_text(value: Any) -> Any:
    """A JSON value with all strings valid in JSON and TOML.

    Bytes of a name that are not UTF-8 become escape sequences such as ``\\xe9``.
    """
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
    """Sort key that places ``frame2`` before ``frame10``. Different names have different keys.

    Example:
        >>> sorted(["frame10", "frame2"], key=natural)
        ['frame2', 'frame10']
    """
    parts = re.findall(r"([^0-9]*)([0-9]*)", name)
    return tuple((text, int(digits) if digits else -1) for text, digits in parts), name
