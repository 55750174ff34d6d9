"""Disagreement with the full model: the one measure of the risk budget.

The full model sometimes gives a wrong label for a frame or two and then returns. An answer is therefore compared with
two labels: the full model's bare answer on that frame, and the strict majority of its bare answers over the nine frames
around. The majority has no prior that could be wrong.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Frames of the majority vote, the frame itself in the middle; odd.
WINDOW = 9

#: One label index per frame ``(n,)``; in answers, -1 is ``unknown``.
Labels = npt.NDArray[np.int64]


def disagreements(answers: Labels, full: Labels) -> npt.NDArray[np.bool_]:
    """Which answers disagree with the full model.

    An answer disagrees if it differs from the full model's answer on that frame and from the strict majority of the
    full model's answers over the ``WINDOW`` frames around. Where no label has a strict majority, and within
    ``WINDOW // 2`` frames of either end, the full model's answer on that frame alone counts.

    Args:
        answers: Label index of each answer ``(n,)``; -1 (``unknown``) disagrees always.
        full: The full model's bare answers ``(n,)`` on the same consecutive frames. A recording with gaps is to be
            split at its gaps.

    Returns:
        ``(n,)`` bool.

    Raises:
        ValueError: The two differ in length.
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
