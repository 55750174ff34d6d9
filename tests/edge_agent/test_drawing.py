"""Drawing: of any picture and any answer something that a page and a video can take, and that says the answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.outputs.drawing import COLOURS, annotate, bgr
from cachenet.edge_agent.outputs.report import View
from cachenet.shared.cascade.types import Level
from cachenet.shared.inference.image import Picture
from tests.edge_agent.frames import answered_frame, noise

_CAPTION, _BAR = 60, 6


def bar(drawn: Picture) -> Picture:
    """A line of pixels through the middle of the bar over the caption."""
    return drawn[len(drawn) - _CAPTION - _BAR // 2]


@given(
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.text(),
    st.text(),
    st.floats(-1, 2),
    st.sampled_from(list(COLOURS)),
    st.booleans(),
)
def test_any_picture_and_any_answer_make_one_that_video_and_page_can_take(
    height: int, width: int, label: str, reason: str, confidence: float, level: Level, framed: bool
) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    lines = answered_frame(label=label, level=level, reason=reason, confidence=confidence).lines
    drawn = annotate(picture, lines, View(region=(0.5, 0.5, 0.5, 0.5) if framed else None))
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0
    assert 480 <= drawn.shape[1] <= 1280
    assert drawn.shape[0] <= 1280 + _CAPTION + _BAR + 1
    assert not picture.any(), "what others look at is not drawn on"


def test_nothing_of_the_picture_is_hidden() -> None:
    picture = noise(480, 640)
    assert np.array_equal(annotate(picture, answered_frame().lines)[:480, :640], picture)


@pytest.mark.parametrize("side", [8, 32, 300])
def test_a_thumbnail_is_shown_in_whole_pixels(side: int) -> None:
    picture = noise(side, side)
    drawn = annotate(picture, answered_frame().lines)
    factor = -(-480 // side)
    assert np.array_equal(drawn[: side * factor : factor, : side * factor : factor], picture)


@pytest.mark.parametrize("level", COLOURS)
def test_the_bar_has_the_levels_colour_and_is_as_long_as_the_answer_is_sure(level: Level) -> None:
    drawn = bar(annotate(noise(480, 640), answered_frame(level=level, confidence=0.25).lines))
    coloured = (drawn == bgr(COLOURS[level])).all(axis=1)
    assert coloured[:160].all()
    assert not coloured[160:].any()


def test_a_label_changes_only_the_caption_and_accents_are_removed() -> None:
    picture = noise(48, 64)
    cat, lowe, loewe = (annotate(picture, answered_frame(label=label).lines) for label in ("cat", "Lowe", "Löwe"))
    assert np.array_equal(cat[:-_CAPTION], lowe[:-_CAPTION])
    assert not np.array_equal(cat[-_CAPTION:], lowe[-_CAPTION:])
    assert np.array_equal(lowe, loewe)


def test_an_answer_without_a_label_is_drawn_as_unknown_without_a_confidence() -> None:
    picture = noise(48, 64)
    unsure, none = (
        annotate(picture, answered_frame(label="unknown", confidence=share).lines)[-_CAPTION:] for share in (0.9, 0.0)
    )
    assert np.array_equal(unsure, none)


def test_what_is_looked_at_is_framed() -> None:
    picture = np.zeros((480, 640, 3), np.uint8)
    drawn = annotate(picture, answered_frame().lines, View(region=(0.25, 0.5, 0.5, 0.25)))
    rows, columns = np.nonzero(drawn[:480].any(axis=2))
    assert abs(rows.min() - 240) <= 1
    assert abs(rows.max() - 359) <= 1
    assert abs(columns.min() - 160) <= 1
    assert abs(columns.max() - 479) <= 1
