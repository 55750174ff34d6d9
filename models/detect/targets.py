"""Training targets of a heatmap detector: what its output should be for given objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cachenet.models.detect.network import BOX_CHANNELS
from cachenet.shared.cascade.detect.detections import Detections

#: Channels of a target: ``BOX_CHANNELS``, the weight of their loss, and a heatmap for each label.
#: A target is ``(channels, rows, columns)`` float32.
Target = npt.NDArray[np.float32]
#: Number of the channel with the weight of the boxes' loss.
WEIGHT = BOX_CHANNELS
#: Number of the first heatmap.
HEAT = BOX_CHANNELS + 1
#: Standard deviation of a centre's heat, as a share of the object's width and height. A detector's boxes are narrower
#: across than along a standing person, so a neighbour at the side is sooner another person.
_SPREAD = (1 / 5, 1 / 7)
#: Least standard deviation of a centre's heat, cells.
_LEAST_SPREAD = 0.6
#: Heat at the centre of an object of less than the full model's threshold: neither an object nor background.
_UNSURE = 0.9


def targets(objects: Detections, score: float, classes: int, rows: int, columns: int) -> Target:
    """The target for ``objects``.

    The box of an object is learned in its own cell and the eight around it, so that a peak that is one cell off still
    has the right box. An object whose score is under ``score`` only damps the loss around its centre.

    Args:
        score: The full model's threshold.
        classes: Number of labels.
        rows, columns: Size of the detector's output, cells.
    """
    target = np.zeros((HEAT + classes, rows, columns), np.float32)
    owned = np.zeros((rows, columns), bool)  # cells with a centre
    down, across = np.arange(rows, dtype=np.float32), np.arange(columns, dtype=np.float32)
    cells = objects.boxes * np.array([columns, rows, columns, rows], np.float32)
    # By increasing score, so that of two objects in one cell the surer one is learned.
    for row in range(len(objects) - 1, -1, -1):
        left, top, right, bottom = cells[row].tolist()
        x, y, width, height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        column, line = min(columns - 1, int(x)), min(rows - 1, int(y))
        heat = np.outer(
            np.exp(-((down - line) ** 2) / (2 * max(_LEAST_SPREAD, height * _SPREAD[1]) ** 2)),
            np.exp(-((across - column) ** 2) / (2 * max(_LEAST_SPREAD, width * _SPREAD[0]) ** 2)),
        )
        sure = bool(objects.scores[row] >= score)
        channel = target[HEAT + objects.labels[row]]
        np.maximum(channel, heat if sure else _UNSURE * heat, out=channel)
        if not sure:
            continue
        around = np.s_[max(0, line - 1) : line + 2, max(0, column - 1) : column + 2]
        own = np.zeros((rows, columns), bool)
        own[around] = ~owned[around]
        own[line, column] = owned[line, column] = True
        target[0][own] = (x - np.broadcast_to(across, own.shape))[own]
        target[1][own] = (y - np.broadcast_to(down[:, None], own.shape))[own]
        target[2:WEIGHT, own] = np.log([[width], [height]])
        target[WEIGHT][own] = 1.0
    return target
