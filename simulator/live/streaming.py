"""Streaming F1: what a device says at each moment, compared with the full model's objects of the frame of that moment.

After M. Li et al., "Towards streaming perception", ECCV 2020 (arXiv 2005.10420).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import NOTHING, Detections, counts

#: True positives, false positives and false negatives of each frame ``(n, 3)``, each the mean over the frame's time.
StreamingCounts = npt.NDArray[np.float64]


def streaming_counts(
    answers: Sequence[Detections], delays_s: npt.NDArray[np.float64], reference: Sequence[Detections], period_s: float
) -> StreamingCounts:
    """Counts of a device's answers, each in force from when it comes until a newer frame's answer comes.

    The camera takes a frame every ``period_s`` seconds, and the frame's time lasts until the next one. An answer that
    comes half a period late is right or wrong for half of its frame's time; before it, that of an earlier frame is in
    force. Before the first answer the device says that there is nothing.

    Args:
        answers: The answer to each of ``n`` frames.
        delays_s: Time from each frame to its answer, seconds ``(n,)``.
        reference: The full model's objects of each frame.

    Example:
        >>> from cachenet.shared.cascade.detect.detections import checked
        >>> one = checked([[0.1, 0.1, 0.3, 0.5]], [0], [0.9], classes=1)
        >>> late = streaming_counts([one, NOTHING], np.array([0.05, 0.0]), [one, NOTHING], 0.1)
        >>> late.tolist()  # the object is missing for half of the first frame's time
        [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
    """
    found = np.zeros((len(answers), 3))
    comes = np.arange(len(answers)) * period_s + delays_s
    for frame, expected in enumerate(reference):
        begin, end = frame * period_s, (frame + 1) * period_s
        changes = sorted(set(comes[(comes > begin) & (comes < end)].tolist()))
        for start, stop in pairwise((begin, *changes, end)):
            there = np.flatnonzero(comes <= start)
            answer = answers[there[-1]] if len(there) else NOTHING
            found[frame] += np.array(counts(answer, expected)) * ((stop - start) / (end - begin))
    return found
