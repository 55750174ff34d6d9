"""What the metadata of an ONNX file says: labels, and how pictures are prepared.

Labels are written by this builder (``cachenet.labels``), by Ultralytics (``names``, a Python dict) and for models of
Hugging Face (``id2label``, JSON).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping

import msgspec

from cachenet.models.export.onnx_file import ClassifierError
from cachenet.shared.inference.image import Input

PREFIX = "cachenet."
#: Longest text that is read for labels, characters: 20,000 labels of 50.
_LONGEST = 1_000_000
_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
#: ``{0: 'cat', 1: "dog"}`` or ``['cat', 'dog']``: flat, so that the parser cannot be led into depth.
_PYTHON = re.compile(
    rf"\s*(?:\{{\s*(?:\d{{1,9}}\s*:\s*{_STRING}\s*(?:,\s*)?)*\}}|\[\s*(?:{_STRING}\s*(?:,\s*)?)*\])\s*"
)
#: How Ultralytics' classifiers see pictures (ultralytics.data.augment.classify_transforms).
_ULTRALYTICS = Input(224, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def labels(name: str, properties: Mapping[str, str]) -> tuple[str, ...]:
    """Labels in the order of the scores; empty where the metadata holds none. ``name``: of the file, for errors. Raises
    ``ClassifierError`` for damaged ones."""
    for key, read in _READERS.items():
        if (text := properties.get(key)) is None:
            continue
        try:
            found = read(text) if len(text) <= _LONGEST else None
        except (msgspec.DecodeError, ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        if not found:
            raise ClassifierError(f"{name}: its metadata {key} holds no labels that can be read; give --labels")
        return found
    return ()


def written(labels: tuple[str, ...]) -> str:
    """``labels`` as ``cachenet.labels`` holds them: with commas between, or JSON where a label has one."""
    plain = not any("," in label for label in labels) and not labels[0].startswith("[")
    return ",".join(labels) if plain else msgspec.json.encode(labels).decode()


def declared(name: str, properties: Mapping[str, str]) -> Input | None:
    """How pictures are prepared, if the metadata says so. Raises ``ClassifierError`` for what is damaged."""
    if (text := properties.get(f"{PREFIX}input")) is None:
        return _ULTRALYTICS if properties.get("task") == "classify" and "names" in properties else None
    try:
        return msgspec.json.decode(text, type=Input)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ClassifierError(
            f"{name}: its metadata cachenet.input is damaged ({error}); give --preprocessing"
        ) from None


def _own(text: str) -> tuple[str, ...]:
    if text.startswith("["):
        return msgspec.json.decode(text, type=tuple[str, ...])
    return tuple(filter(None, text.split(",")))


def _python(text: str) -> tuple[str, ...]:
    if not _PYTHON.fullmatch(text):
        raise ValueError("neither a dict nor a list of names")
    found = ast.literal_eval(text.strip())
    return _numbered(found) if isinstance(found, dict) else tuple(found)


def _json(text: str) -> tuple[str, ...]:
    return _numbered(msgspec.json.decode(text, type=dict[int, str]))


def _numbered(found: dict[int, str]) -> tuple[str, ...]:
    """Raises ``ValueError`` if the numbers are not 0, 1, 2 and so on."""
    if sorted(found) != list(range(len(found))):
        raise ValueError("a number is missing")
    return tuple(found[number] for number in range(len(found)))


_READERS: dict[str, Callable[[str], tuple[str, ...]]] = {
    f"{PREFIX}labels": _own,
    "names": _python,
    "id2label": _json,
}
