"""Disagreement with the full model: the quantity that the risk budget bounds.

The full model sometimes gives a wrong label for a frame or two. An answer is therefore compared with two labels: the
full model's label of that frame, and the strict majority of its labels over the nine frames around.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Frames of the majority vote, centred on the frame; odd.
WINDOW = 9

#: Label index of each frame ``(n,)``; an answer of -1 is ``unknown``.
Labels = npt.NDArray[np.int64]


def disagreements(answers: Labels, full: Labels) -> npt.NDArray[np.bool_]:
    """Which answers disagree with the full model.

    An answer disagrees if it differs from the full model's label of that frame, and from the strict majority of the
    full model's labels over the ``WINDOW`` frames around. Only the label of that frame counts where no label has a
    strict majority, and within ``WINDOW // 2`` frames of either end.

    Args:
        answers: Label index of each answer ``(n,)``; -1 (``unknown``) always disagrees.
        full: The full model's labels ``(n,)`` of the same consecutive frames. Split a recording at its gaps first.

    Returns:
        Whether each answer disagrees ``(n,)``.

    Raises:
        ValueError: The lengths differ.
    """
    if answers.shape != full.shape:
        raise ValueError(f"{len(answers)} answers for {len(full)} frames")
    disagree: npt.NDArray[np.bool_] = answers != full
    half = WINDOW // 2
    if len(full) < WINDOW:
        return disagree
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(full, WINDOW), axis=1)  # (n - 8, 9)
    middle = windows[:, half]  # a label with a strict majority covers the middle of the sorted window
    has_majority = (windows == middle[:, None]).sum(1) > half
    disagree[half:-half] &= ~(has_majority & (answers[half:-half] == middle))
    return disagree
