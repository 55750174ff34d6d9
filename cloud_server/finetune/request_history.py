"""What devices have sent of late, and the working sets among it that no submodel covers. Pure: the clock comes in from
outside and the caller sees to locking.

Answers never depend on it: it only says what is worth training for, and with which frames.
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

#: Of a device's requests, the latest so many say what it sees now; a working set is the fewest labels that are so much
#: of that.
_NOW, _MOST_OF_IT = 48, 0.9
#: A frame belongs to a working set if so much of what its device had seen before does.
_BELONGS = 0.8
#: Frames that one submodel is trained for: fewer prove nothing, more bring little.
ENOUGH, _PLENTY = 300, 1200
#: A working set is covered if a submodel answers so much more of it than the base model, as a share of frames.
_COVERED = 0.04
#: Two working sets of which so many labels are the same are one; and how long one is left alone, seconds, that nothing
#: better was found for.
_SAME, _PATIENCE_S = 0.6, 3600.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """A frame that the full model was asked about: the picture as it came, its logits ``(classes,)``, and the labels
    that the device had seen before it."""

    device: str
    picture: bytes
    logits: Logits
    recent: tuple[int, ...]


@dataclass(frozen=True)
class UncoveredSet:
    """A working set that no submodel covers: its ``labels``, how often it shows each of all, ``seen`` ``(classes,)``,
    and frames of it, oldest first."""

    labels: frozenset[int]
    seen: Probabilities
    sightings: tuple[Sighting, ...]


class RequestHistory:
    """The latest frames of all devices, at most ``bound`` bytes of pictures."""

    def __init__(self, clock: Callable[[], float], classes: int, bound: int) -> None:
        self._clock, self._classes, self._bound = clock, classes, bound
        self._kept: deque[Sighting] = deque()
        self._bytes = 0
        self._tried: dict[frozenset[int], float] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, sighting: Sighting) -> None:
        self._kept.append(sighting)
        self._bytes += len(sighting.picture)
        while self._bytes > self._bound:
            self._bytes -= len(self._kept.popleft().picture)

    def uncovered(self, manifest: Manifest) -> UncoveredSet | None:
        """The first working set that a device sees now, that no submodel of ``manifest`` covers, and that there are
        enough frames of. It is taken for tried from now on."""
        for device in dict.fromkeys(sighting.device for sighting in reversed(self._kept)):
            own = [sighting.recent for sighting in self._kept if sighting.device == device][-_NOW:]
            seen = self._counted(own)
            labels = working_set(seen)
            if len(own) < _NOW or not labels or self._waits(labels) or _covered(manifest, seen):
                continue
            frames = [sighting for sighting in self._kept if _belongs(sighting.recent, labels)][-_PLENTY:]
            if len(frames) >= ENOUGH:
                self._tried[labels] = self._clock()
                return UncoveredSet(labels, self._counted([frame.recent for frame in frames]), tuple(frames))
        return None

    def _counted(self, several: Sequence[tuple[int, ...]]) -> Probabilities:
        """How often the labels of ``several`` show each label; sums to 1 unless they are empty."""
        counts = np.bincount([label for labels in several for label in labels], minlength=self._classes)
        shares: Probabilities = counts / max(1, counts.sum())
        return shares

    def _waits(self, labels: frozenset[int]) -> bool:
        now = self._clock()
        self._tried = {tried: at for tried, at in self._tried.items() if now - at < _PATIENCE_S}
        return any(len(labels & tried) >= _SAME * len(labels | tried) for tried in self._tried)


def working_set(seen: npt.NDArray[np.float64]) -> frozenset[int]:
    """The fewest labels that are ``_MOST_OF_IT`` of what is ``seen`` ``(classes,)``; empty if nothing is seen."""
    if not seen.any():
        return frozenset()
    order = np.argsort(-seen, kind="stable")
    count = int(np.searchsorted(np.cumsum(seen[order]), _MOST_OF_IT)) + 1
    return frozenset(order[:count].tolist())


def _belongs(recent: tuple[int, ...], labels: frozenset[int]) -> bool:
    return bool(recent) and sum(label in labels for label in recent) >= _BELONGS * len(recent)


def _covered(manifest: Manifest, seen: Probabilities) -> bool:
    enough = manifest.expected_coverage(manifest.only("base"), seen) + _COVERED
    return any(manifest.expected_coverage(name, seen) >= enough for name in manifest.submodels())
