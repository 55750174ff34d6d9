"""Recent requests of all devices, and working sets among them that no submodel covers.

Pure: the clock comes from outside, and the caller locks. Answers do not depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.probability import Probabilities
from cachenet.shared.inference.engine import Logits

#: Latest requests of a device that define its present working set.
_WINDOW = 48
#: Share of the label occurrences of the window that a working set covers.
_WORKING_SET_SHARE = 0.9
#: A request belongs to a working set if this share of its recent labels does.
_MEMBER_SHARE = 0.8
#: Least number of frames to train a submodel with; fewer cannot certify an improvement.
MIN_FRAMES = 300
#: Largest number of frames to train a submodel with; more add little.
_MAX_FRAMES = 1200
#: A submodel covers a working set if its expected coverage exceeds the base model's by this share of frames.
_COVERED_MARGIN = 0.04
#: Two working sets count as one if their Jaccard similarity is at least this.
_SAME_SIMILARITY = 0.6
#: Time after which a working set may be tried again, seconds.
_RETRY_S = 3600.0


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """A request that the full model answered."""

    device: str
    #: The picture as it was sent, encoded.
    picture: bytes
    #: Logits of the full model, ``(classes,)``.
    logits: Logits
    #: Indices of the device's labels before this picture.
    recent: tuple[int, ...]


@dataclass(frozen=True)
class UncoveredSet:
    """A working set that no submodel covers."""

    labels: frozenset[int]
    #: Share of each label in the recent labels of ``requests``, ``(classes,)``.
    distribution: Probabilities
    #: Requests that belong to the working set, oldest first.
    requests: tuple[AnsweredRequest, ...]


class RequestHistory:
    """The latest requests of all devices, within a bound on the bytes of their pictures."""

    def __init__(self, clock: Callable[[], float], classes: int, bound: int) -> None:
        """Create an empty history.

        Args:
            clock: Returns the time, seconds.
            classes: Number of labels.
            bound: Largest total size of the pictures, bytes.
        """
        self._clock, self._classes, self._bound = clock, classes, bound
        self._requests: deque[AnsweredRequest] = deque()
        self._bytes = 0
        self._tried: dict[frozenset[int], float] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: AnsweredRequest) -> None:
        """Add a request and drop the oldest ones beyond the bound."""
        self._requests.append(request)
        self._bytes += len(request.picture)
        while self._bytes > self._bound:
            self._bytes -= len(self._requests.popleft().picture)

    def uncovered(self, manifest: Manifest) -> UncoveredSet | None:
        """The first present working set that has enough frames and no submodel in ``manifest`` covers.

        Devices with the latest requests come first. A returned set counts as tried for an hour.
        """
        for device in dict.fromkeys(request.device for request in reversed(self._requests)):
            window = [request.recent for request in self._requests if request.device == device][-_WINDOW:]
            distribution = self._distribution(window)
            labels = working_set(distribution)
            if len(window) < _WINDOW or not labels or self._was_tried(labels) or _covered(manifest, distribution):
                continue
            members = [request for request in self._requests if _belongs(request.recent, labels)][-_MAX_FRAMES:]
            if len(members) >= MIN_FRAMES:
                self._tried[labels] = self._clock()
                return UncoveredSet(labels, self._distribution([one.recent for one in members]), tuple(members))
        return None

    def _distribution(self, label_lists: Sequence[tuple[int, ...]]) -> Probabilities:
        """Share of each label in all lists, ``(classes,)``; sums to 1, or to 0 if the lists are empty."""
        counts = np.bincount([label for labels in label_lists for label in labels], minlength=self._classes)
        shares: Probabilities = counts / max(1, counts.sum())
        return shares

    def _was_tried(self, labels: frozenset[int]) -> bool:
        now = self._clock()
        self._tried = {tried: at for tried, at in self._tried.items() if now - at < _RETRY_S}
        return any(len(labels & tried) >= _SAME_SIMILARITY * len(labels | tried) for tried in self._tried)


def working_set(distribution: npt.NDArray[np.float64]) -> frozenset[int]:
    """The fewest labels with ``_WORKING_SET_SHARE`` of ``distribution`` ``(classes,)``; empty if all shares are 0."""
    if not distribution.any():
        return frozenset()
    order = np.argsort(-distribution, kind="stable")
    count = int(np.searchsorted(np.cumsum(distribution[order]), _WORKING_SET_SHARE)) + 1
    return frozenset(order[:count].tolist())


def _belongs(recent: tuple[int, ...], labels: frozenset[int]) -> bool:
    return bool(recent) and sum(label in labels for label in recent) >= _MEMBER_SHARE * len(recent)


def _covered(manifest: Manifest, distribution: Probabilities) -> bool:
    threshold = manifest.expected_coverage(manifest.only("base"), distribution) + _COVERED_MARGIN
    return any(manifest.expected_coverage(name, distribution) >= threshold for name in manifest.submodels())
