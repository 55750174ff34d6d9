"""Labels and preprocessing in the metadata of an ONNX file.

Labels are written by this builder (``cachenet.labels``), Ultralytics (``names``, a Python dict) and Hugging Face
(``id2label``, JSON).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping

import msgspec

from cachenet.models.export.onnx_file import ClassifierError
from cachenet.shared.inference.image import Input

#: Prefix of this builder's keys.
PREFIX = "cachenet."
#: Maximum length of a text of labels, characters: 20,000 labels of 50.
_MAX_LENGTH = 1_000_000
_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
#: ``{0: 'cat', 1: "dog"}`` or ``['cat', 'dog']``: flat, so that no text can nest the parser deeply.
_PYTHON = re.compile(
    rf"\s*(?:\{{\s*(?:\d{{1,9}}\s*:\s*{_STRING}\s*(?:,\s*)?)*\}}|\[\s*(?:{_STRING}\s*(?:,\s*)?)*\])\s*"
)
#: Preprocessing of Ultralytics' classifiers (ultralytics.data.augment.classify_transforms).
_ULTRALYTICS = Input(224, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


def read_labels(name: str, properties: Mapping[str, str]) -> tuple[str, ...]:
    """Read the labels in the order of the scores; empty if there are none.

    Args:
        name: File name for errors.

    Raises:
        ClassifierError: The labels are damaged.
    """
    for key, read in _READERS.items():
        if (text := properties.get(key)) is None:
            continue
        try:
            found = read(text) if len(text) <= _MAX_LENGTH else None
        except (msgspec.DecodeError, ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        if not found:
            raise ClassifierError(f"{name}: its metadata {key} holds no labels that can be read; give --labels")
        return found
    return ()


def format_labels(labels: tuple[str, ...]) -> str:
    """Format labels for ``cachenet.labels``: separated by commas, or as JSON if a label contains one.

    >>> format_labels(("cat", "dog"))
    'cat,dog'
    """
    plain = not any("," in label for label in labels) and not labels[0].startswith("[")
    return ",".join(labels) if plain else msgspec.json.encode(labels).decode()


def read_preprocessing(name: str, properties: Mapping[str, str]) -> Input | None:
    """Read the preprocessing; None if there is none. Raises ``ClassifierError`` if it is damaged."""
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
    """Return the names by number. Raises ``ValueError`` if the numbers are not 0, 1, 2 and so on."""
    if sorted(found) != list(range(len(found))):
        raise ValueError("a number is missing")
    return tuple(found[number] for number in range(len(found)))


_READERS: dict[str, Callable[[str], tuple[str, ...]]] = {f"{PREFIX}labels": _own, "names": _python, "id2label": _json}
