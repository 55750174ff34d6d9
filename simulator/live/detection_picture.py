"""The picture of a detector's run: some frames with the answered objects, levels and streaming F1 over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cachenet.edge_agent.outputs.drawing import COLOURS
from cachenet.edge_agent.outputs.marks import track_colour
from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.cascade.detect.detections import pooled_f1
from cachenet.shared.inference.image import Picture
from cachenet.simulator.live import picture
from cachenet.simulator.live.outcome import CACHENET, DEVICE, SERVER, Outcome, Setting
from cachenet.simulator.live.picture import GRID, INK, NAME, SMALL
from cachenet.simulator.live.streaming import StreamingCounts

#: Number of frames that are shown.
_SHOWN = 3
#: Window of F1 over time, seconds.
_WINDOW_S = 2.0
#: The level ``fallback`` of a detector: the device answers at once, and the server is asked meanwhile.
_FALLBACK = "fallback: asked meanwhile"
#: Colours of the baselines' lines.
_BASELINES = {SERVER: COLOURS["cloud"], DEVICE: COLOURS["base"]}
#: Least range of the axis of F1.
_LOWEST = 0.8


def shown_frames(frames: int) -> list[int]:
    """Numbers of the frames whose pictures are shown, evenly spaced, increasing."""
    return sorted({(2 * place + 1) * frames // (2 * _SHOWN) for place in range(_SHOWN)})


def draw(
    path: Path,
    lines: Sequence[AnswerLine],
    text: str,
    own: Outcome,
    counts: Mapping[str, StreamingCounts],
    pictures: Mapping[int, Picture],
    setting: Setting,
) -> None:
    """Write a PNG of 1400x900 pixels. Raises ``NoMatplotlib``.

    Args:
        path: The file.
        lines: CacheNet's answers in order.
        text: The title.
        own: CacheNet's outcome.
        counts: Counts of each policy against the full model.
        pictures: Pictures of the frames ``shown_frames``.
        setting: Settings of the run.
    """
    figure = picture.canvas()
    picture.title(figure, text, own, setting, _FALLBACK)
    end = len(lines) / setting.fps
    shots = figure.subplots(
        1, len(pictures), gridspec_kw={"left": 0.02, "right": 0.98, "top": 0.86, "bottom": 0.405, "wspace": 0.02}
    )
    for axes, (number, shot) in zip(np.atleast_1d(shots), pictures.items(), strict=True):
        _shot(axes, shot, lines[number], number / setting.fps)
    strip, curve = figure.subplots(
        2,
        1,
        sharex=True,
        height_ratios=(1, 5),
        gridspec_kw={"hspace": 0.12, "left": picture.LEFT, "right": picture.RIGHT, "top": 0.345, "bottom": 0.075},
    )
    picture.level_strip(strip, lines, end)
    for number in pictures:
        place = (number + 0.5) / setting.fps
        strip.text(place, 1.02, "▼", ha="center", va="bottom", color=INK, transform=strip.get_xaxis_transform())
    _curves(curve, counts, setting.fps)
    picture.save(figure, path, (strip, curve), end)


def _shot(axes: Any, shot: Picture, line: AnswerLine, at: float) -> None:
    """Draw a frame with its objects, each in the colour of its track."""
    from matplotlib.patches import Rectangle

    height, width = shot.shape[:2]
    axes.imshow(shot[:, :, ::-1], interpolation="antialiased")
    for own in line.objects or ():
        blue, green, red = track_colour(own.track)
        colour = (red / 255, green / 255, blue / 255)
        x, y, w, h = own.box[0] * width, own.box[1] * height, own.box[2] * width, own.box[3] * height
        axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=colour, linewidth=1.8))
        axes.text(
            x,
            y - 4,
            str(own.track),
            fontsize=9,
            color="black",
            va="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
            clip_on=True,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{at:.1f} s: {line.level}", fontsize=12, color=INK)
    axes.spines[:].set_visible(False)


def _curves(axes: Any, counts: Mapping[str, StreamingCounts], fps: float) -> None:
    """Draw the streaming F1 of each policy in the last two seconds."""
    ends = {}
    for name, own in counts.items():
        window = max(1, round(_WINDOW_S * fps))
        f1 = [pooled_f1(own[max(0, frame + 1 - window) : frame + 1]) for frame in range(len(own))]
        is_own = name == CACHENET
        colour = INK if is_own else _BASELINES[name]
        axes.plot(
            np.arange(len(own)) / fps, f1, color=colour, linewidth=2.2 if is_own else 1.6, zorder=3 if is_own else 2
        )
        ends[name] = f1[-1]
    low = min(_LOWEST, axes.get_ylim()[0])
    axes.set_ylim(max(0.0, low), 1.005)
    places = picture.spread(ends, 0.16 * (1.005 - low))
    for name, place in places.items():
        is_own = name == CACHENET
        axes.text(
            NAME,
            place,
            f"{name} {pooled_f1(counts[name]):.3f}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=SMALL,
            color=INK if is_own else _BASELINES[name],
            fontweight="bold" if is_own else "normal",
        )
    axes.grid(axis="y", color=GRID)
    axes.set_ylabel("F1, last 2 s", fontsize=12, color=INK)
    axes.set_xlabel("time, s", fontsize=12, color=INK)
