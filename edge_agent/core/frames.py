"""L1 ``frames``: what models said about recent frames, found again by a near-identical picture.

What is kept is a model's word, not the answer that came of it: the context may have learned better since, and whether
it still carries an answer is for the gate to say, as with any word.

Approximate-key caching with auto-refresh (A. Finamore et al., "Accelerating deep learning classification with
error-controlled approximate-key caching", arXiv 2112.06671): an entry speaks n times, then is verified by the levels
below; n doubles while the label is confirmed and falls to one on a contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_agent.core.frame import Frame, Signature
from edge_agent.core.types import Guess, LocalName
from shared.context import Context
from shared.filter import Word


@dataclass(slots=True)
class _Entry:
    word: Word
    label: int
    model: str
    born: int
    used: int
    trust: int
    left: int


class FrameCache:
    """A bounded set of signatures with their answers. Costs one comparison with all of them."""

    name: LocalName = "frames"

    def __init__(self, tolerance: float = 5.0, capacity: int = 64, longest_trust: int = 64, oldest: int = 1000) -> None:
        """``tolerance``: the largest block change, grey levels, that counts as the same picture. ``longest_trust``:
        most answers between two verifications. ``oldest``: frames after which an entry no longer answers."""
        self._tolerance, self._capacity = tolerance, capacity
        self._longest_trust, self._oldest = longest_trust, oldest
        self._keys = self._apart = np.empty((0, 0), np.float32)
        self._entries: list[_Entry] = []
        self._searched: Signature | None = None
        self._found: _Entry | None = None
        self.contradictions = 0

    def lookup(self, frame: Frame, context: Context) -> Guess | None:
        """The word of the nearest trusted entry, or None."""
        entry = self._nearest(frame)
        if entry is None or entry.left <= 0 or frame.index - entry.born > self._oldest:
            return None
        entry.left -= 1
        entry.used = frame.index
        return Guess(context.fuse(entry.word), entry.model, entry.word)

    def learn(self, frame: Frame, word: Word, label: int, model: str) -> None:
        """Keep a word that led to a verified ``label``: confirm or correct the entry that is near, or make one."""
        if frame.signature is None:
            return
        entry = self._nearest(frame)
        if entry is None:
            self._insert(frame.signature, _Entry(word, label, model, frame.index, frame.index, 1, 1))
            return
        if frame.index < entry.born and (entry.word.full or not word.full):
            return  # a late answer: what was learned since is newer
        if entry.label == label:
            entry.trust = min(entry.trust * 2, self._longest_trust)
        else:
            self.contradictions += 1
            entry.trust = 1
        if word.full or not entry.word.full or entry.label != label:
            entry.word, entry.label, entry.model = word, label, model
        entry.born = entry.used = frame.index
        entry.left = entry.trust

    def __len__(self) -> int:
        return len(self._entries)

    def _nearest(self, frame: Frame) -> _Entry | None:
        if frame.signature is None or not self._entries:
            return None
        if frame.signature is not self._searched:  # a frame that is looked up is usually learned right after
            filled, apart = self._keys[: len(self._entries)], self._apart[: len(self._entries)]
            np.subtract(filled, frame.signature.blocks.ravel(), out=apart)
            np.abs(apart, out=apart)
            distances = apart.max(axis=1)
            place = int(distances.argmin())
            self._searched = frame.signature
            self._found = self._entries[place] if distances[place] <= self._tolerance else None
        return self._found

    def _insert(self, signature: Signature, entry: _Entry) -> None:
        if self._keys.size == 0:
            self._keys = np.empty((self._capacity, signature.blocks.size), np.float32)
            self._apart = np.empty_like(self._keys)
        if len(self._entries) < self._capacity:
            place = len(self._entries)
            self._entries.append(entry)
        else:
            place = min(range(self._capacity), key=lambda i: self._entries[i].used)
            self._entries[place] = entry
        self._keys[place] = signature.blocks.ravel()
        self._searched = None
