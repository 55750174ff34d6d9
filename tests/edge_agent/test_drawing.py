"""Drawing: of any picture and any answer something that a page and a video can take, and that says the answer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.outputs.drawing import COLOURS, annotate, bgr
from cachenet.edge_agent.outputs.marks import track_colour
from cachenet.edge_agent.outputs.report import View
from cachenet.edge_agent.zones import Zone
from cachenet.shared.cascade.types import Level
from cachenet.shared.inference.image import Picture
from tests.edge_agent.frames import answered_frame, detected_frame, noise, tracked

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


_GREY = np.full((480, 640, 3), 90, np.uint8)
_GATE = Zone("gate", ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)))


def test_a_box_has_the_colour_of_its_track_in_every_frame() -> None:
    for frame, left in enumerate((64, 256)):
        objects = [tracked(track, (left / 640, track * 0.2, 0.1, 0.15)) for track in (1, 2, 3)]
        drawn = annotate(_GREY, detected_frame(objects, frame).lines)
        for track in (1, 2, 3):
            edge = drawn[round(480 * (0.2 * track + 0.07)), left]
            assert tuple(edge.tolist()) == track_colour(track)


@given(st.integers(0, 10_000))
def test_tracks_in_a_row_have_colours_that_differ_and_are_light_enough_for_black_text(first: int) -> None:
    colours = np.array([track_colour(track) for track in range(first, first + 5)], int)
    for row, one in enumerate(colours):
        assert all(np.abs(one - other).sum() > 60 for other in colours[row + 1 :])
        blue, green, red = one
        assert 0.114 * blue + 0.587 * green + 0.299 * red > 90


def test_the_text_of_an_object_stands_above_its_box_and_below_where_there_is_no_space() -> None:
    lone = annotate(_GREY, detected_frame([tracked(5, (0.2, 0.5, 0.1, 0.2))]).lines)
    assert (lone[225:239, 130:150] == track_colour(5)).all(axis=2).any(), "above the upper edge at row 240"
    assert (lone[338:356, 130:150] == 90).all(), "and nothing below the lower edge at row 336"
    beside = [tracked(5, (0.2, 0.5, 0.1, 0.2)), tracked(6, (0.25, 0.5, 0.05, 0.2))]
    both = annotate(_GREY, detected_frame(beside).lines)
    assert (both[338:352, 162:180] == track_colour(6)).all(axis=2).any()


def test_zones_are_drawn_with_their_counts() -> None:
    view = View(zones=(_GATE,))
    drawn, more = (
        annotate(_GREY, detected_frame([tracked(1, (0.4, 0.4, 0.1, 0.2))] * number, view=view).lines, view)
        for number in (1, 2)
    )
    for row, column in ((120, 400), (359, 320), (240, 160), (240, 479)):
        assert (drawn[row, column] != 90).any(), "the edge of the zone"
    text = slice(122, 138), slice(162, 260)
    assert not np.array_equal(drawn[text], more[text]), "the number is in the text"


def test_zones_of_a_classifier_are_drawn_in_the_colours_of_their_levels() -> None:
    lines = []
    zones = (_GATE, Zone("bay", ((0.8, 0.1), (0.95, 0.1), (0.95, 0.3), (0.8, 0.3))))
    levels: list[Level] = ["base", "fallback"]
    for zone, level in zip(zones, levels, strict=True):
        line = answered_frame(level=level).line
        lines.append(msgspec.structs.replace(line, zone=zone.name, risk=0.3 if level == "fallback" else 0.1))
    drawn = annotate(_GREY, lines, View(zones=zones))
    assert tuple(drawn[240, 160].tolist()) == bgr(COLOURS["base"])
    assert tuple(drawn[100, 512].tolist()) == bgr(COLOURS["fallback"])
    assert tuple(bar(drawn)[10].tolist()) == bgr(COLOURS["fallback"]), "the caption shows the greatest risk"


@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(1e-4, 1), st.floats(1e-4, 1)), max_size=30),
)
def test_any_objects_are_drawn_within_a_picture_of_any_size(
    height: int, width: int, boxes: list[tuple[float, float, float, float]]
) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    objects = [tracked(number, box, label=2) for number, box in enumerate(boxes)]
    view = View(zones=(_GATE,))
    drawn = annotate(picture, detected_frame(objects, view=view).lines, view)
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0
    assert not picture.any(), "what others look at is not drawn on"
