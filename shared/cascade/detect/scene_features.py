"""Features of the risk models of a scene.

At each stage one model gives the risk of each candidate object, and another the number of objects that no candidate
covers. Features are log odds, logs of counts, shares and flags: they mean the same on every camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect import tracks as columns
from cachenet.shared.cascade.detect.detections import area, iou
from cachenet.shared.cascade.detect.tracks import Tracks
from cachenet.shared.cascade.risk_model import RiskPrior

Array = npt.NDArray[np.float64]

#: What an answer rests on: tracks that were carried to the frame, or also the base model's or a submodel's detections.
SceneStage = Literal["carried", "base", "submodel"]
SCENE_STAGES: tuple[SceneStage, ...] = get_args(SceneStage)
#: The risk models: of the candidates at a stage, and of the objects that no candidate covers.
SceneModel = Literal["carried", "carried-missed", "base", "base-missed", "submodel", "submodel-missed"]
SCENE_MODELS: tuple[SceneModel, ...] = get_args(SceneModel)
#: The model of objects that no candidate covers, by stage.
MISSED: dict[SceneStage, SceneModel] = {
    "carried": "carried-missed",
    "base": "base-missed",
    "submodel": "submodel-missed",
}
_OBJECT_FEATURES = 17
_MISSED_FEATURES = 6
#: Number of features of each model.
SCENE_FEATURE_COUNT: dict[SceneModel, int] = {
    name: _MISSED_FEATURES if name in MISSED.values() else _OBJECT_FEATURES for name in SCENE_MODELS
}
#: Prior of each risk model; part of a bundle.
ScenePriors = Mapping[SceneModel, RiskPrior]

#: Distance to the picture's border under which a box touches it, as a share of the picture.
_BORDER = 0.01
#: Least area of a box, as a share of the picture; bounds its logarithm.
_MIN_AREA = 1e-8


def object_rows(tracks: Tracks) -> Array:
    """Features of each candidate object ``(n, 17)``."""
    state, boxes = tracks.state, tracks.visible
    confirmed = state[:, columns.CONFIRMED]
    misses, age = np.log1p(state[:, columns.MISSES]), np.log1p(state[:, columns.AGE])
    overlap = iou(boxes, boxes)  # (n, n)
    np.fill_diagonal(overlap, 0.0)
    features = [
        state[:, columns.SCORE],
        state[:, columns.MISSES] == 0,
        state[:, columns.DETECTED],
        misses,
        state[:, columns.AGREEMENT],
        confirmed,
        confirmed * np.log1p(state[:, columns.SINCE_FULL]),
        confirmed * misses,
        np.log1p(state[:, columns.DENIED]),
        age,
        (1.0 - confirmed) * age,
        np.log1p(state[:, columns.SINCE_LOOK]),
        state[:, columns.CONSISTENCY],
        np.sqrt(state[:, columns.VARIANCE]),
        0.5 * np.log(np.maximum(area(boxes), _MIN_AREA)),
        ((boxes[:, :2] < _BORDER) | (boxes[:, 2:] > 1.0 - _BORDER)).any(1),
        overlap.max(1, initial=0.0),
    ]
    return np.stack(features, 1).astype(np.float64)


def missed_row(unexplained: int, candidates: float, last_missed: int, change: float, since_look: int) -> Array:
    """Features of the number of objects that no candidate covers ``(1, 6)``.

    Args:
        unexplained: Cells of the picture that moved outside all candidates.
        candidates: Sum of the candidates' probabilities.
        last_missed: Objects of the full model's newest answer that no candidate covered.
        change: Largest change of a block since a detector ran, grey levels.
        since_look: Frames since a detector ran; 0 if it ran on this frame.
    """
    return np.log1p([[unexplained, min(unexplained, 1), candidates, last_missed, change, since_look]])


def unexplained_cells(moved: npt.NDArray[np.bool_], tracks: Tracks) -> int:
    """Number of cells that moved outside the boxes of all candidates.

    Args:
        moved: Which cells moved since the frame before ``(rows, columns)``.
    """
    if not moved.any():
        return 0
    rows, cols = moved.shape
    outside = moved.copy()
    # One cell more on each side: the edge of an object moves too.
    margin = np.array([-1, -1, 1, 1], np.float32)
    corners = (tracks.visible * np.array([cols, rows, cols, rows], np.float32) + margin).round().astype(int)
    for left, top, right, bottom in corners.tolist():
        outside[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = False
    return int(outside.sum())
