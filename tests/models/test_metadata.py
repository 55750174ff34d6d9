"""Labels and preprocessing in metadata of this builder and of others."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.export.metadata import format_labels, read_labels, read_preprocessing
from cachenet.models.export.onnx_file import ClassifierError

label_lists = st.lists(
    st.text(string.printable + "äß猫", min_size=1, max_size=12), min_size=2, max_size=12, unique=True
)


@given(names=label_lists)
def test_labels_of_every_writer_are_read_unchanged(names: list[str]) -> None:
    expected = tuple(names)
    numbered = dict(enumerate(names))
    assert read_labels("m", {"names": repr(numbered)}) == expected
    assert read_labels("m", {"names": repr(names)}) == expected
    assert read_labels("m", {"id2label": json.dumps({str(n): name for n, name in numbered.items()})}) == expected
    assert read_labels("m", {"cachenet.labels": format_labels(expected)}) == expected


def test_this_builders_labels_take_precedence() -> None:
    assert read_labels("m", {"names": "{0: 'a', 1: 'b'}", "cachenet.labels": "c,d"}) == ("c", "d")
    assert read_labels("m", {"author": "somebody"}) == ()
    assert format_labels(("tench, Tinca tinca", "b")).startswith("[")
    assert format_labels(("a", "b")) == "a,b"


@pytest.mark.parametrize(
    "metadata",
    [
        {"id2label": '{"0": "a", "1"'},
        {"id2label": '{"0": "a", "2": "b"}'},
        {"id2label": '{"0": 1, "1": 2}'},
        {"id2label": "[" * 100_000},
        {"names": "{0: 'a', 1: __import__('os').system('true')}"},
        {"names": "{0: f'{1}', 1: 'b'}"},
        {"names": "{0: 'a', 0: 'b', 2: 'c'}"},
        {"names": "(" * 100_000},
        {"names": "-" * 100_000 + "1"},
        {"names": "{0: 'a'," + " " * 2_000_000 + "1: 'b'}"},
        {"names": "{0: '\\N{nothing}', 1: 'b'}"},
        {"cachenet.labels": '["a", 1]'},
        {"cachenet.labels": ",,"},
    ],
)
def test_the_error_about_damaged_labels_names_their_key(metadata: dict[str, str]) -> None:
    [key] = metadata
    with pytest.raises(ClassifierError, match=f"its metadata {key} holds no labels") as refused:
        read_labels("m", metadata)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ['{"side":64,"mean":[123.7,116.3', "[" * 100_000, "{}", '{"side":0}', "\udcff", ""])
def test_the_error_about_damaged_preprocessing_is_one_line(text: str) -> None:
    with pytest.raises(ClassifierError, match=r"cachenet\.input is damaged") as refused:
        read_preprocessing("m", {"cachenet.input": text})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("task", "known"), [("classify", True), ("detect", False), (None, False)])
def test_ultralytics_classifiers_have_known_preprocessing(task: Any, known: bool) -> None:
    spec = read_preprocessing("m", {"names": "{0: 'a', 1: 'b'}", **({"task": task} if task else {})})
    assert (spec is not None and spec.std == (255, 255, 255)) == known
