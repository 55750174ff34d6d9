"""Disagreement with the full model, measured on a finished run.

The risk budget and the audits use a stricter question: whether the label differs on the frame itself. The full model
sometimes gives a wrong label for a frame or two. So an answer disagrees if it is neither the full model's label of its
frame nor that of at least 5 of the 9 frames centred on it.
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

    Only the label of the frame itself counts where no label has a strict majority of the ``WINDOW`` frames, and within
    ``WINDOW // 2`` frames of either end.

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
