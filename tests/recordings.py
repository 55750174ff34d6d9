"""Recorded model outputs: a model that runs over the same picture again gives what it gave before.

The tests of the builder run the shipped models over the shipped pictures hundreds of times. One run of each model over
each picture is enough for a session of tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import onnxruntime as ort

#: Bytes that the outputs for one picture may have to be recorded; activations between layers are larger.
_MAX_OUTPUT = 1 << 14
#: Recorded pictures of all models together; after that, models run.
_MAX_RECORDINGS = 100_000

#: The session that is replaced.
REAL_SESSION = ort.InferenceSession

_recorded: dict[bytes, list[np.ndarray]] = {}


class RecordedOptions(ort.SessionOptions):  # type: ignore[misc]
    """Takes the place of ``onnxruntime.SessionOptions``, which cannot list its configuration entries.

    Attributes:
        entries: Configuration entries by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        super().add_session_config_entry(name, value)
        self.entries[name] = value


class RecordedSession(ort.InferenceSession):  # type: ignore[misc]
    """Takes the place of ``onnxruntime.InferenceSession``. A batch of one always runs: those are the runs that are
    timed."""

    def __init__(self, model: str | bytes, sess_options: ort.SessionOptions | None = None, **others: Any) -> None:
        super().__init__(model, sess_options, **others)
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        options = sess_options or RecordedOptions()
        settings = (
            *(options.graph_optimization_level, options.execution_mode, options.use_deterministic_compute),
            *(options.intra_op_num_threads, options.inter_op_num_threads),
            # The entries of other options are not known: such a session shares its recordings with no other.
            sorted(options.entries.items()) if isinstance(options, RecordedOptions) else uuid4(),
            *(self.get_providers(), self.get_provider_options()),
        )
        self._model = hashlib.sha256(hashlib.sha256(data).digest() + repr(settings).encode()).digest()
        self._any_batch = all(not isinstance(one.shape[0], int) for one in self.get_inputs() if one.shape)

    def run(self, names: Sequence[str] | None, batch: Mapping[str, np.ndarray], *others: Any) -> list[np.ndarray]:
        sizes = {len(one) if isinstance(one, np.ndarray) and one.ndim else 0 for one in batch.values()}
        count = max(sizes, default=0)
        if len(sizes) != 1 or count < 2 or not self._any_batch or len(_recorded) + count > _MAX_RECORDINGS:
            return super().run(names, batch, *others)
        keys = [self._key(names, batch, row) for row in range(count)]
        missing = [row for row, key in enumerate(keys) if key not in _recorded]
        if missing:
            made = super().run(names, {name: one[missing] for name, one in batch.items()}, *others)
            sized = all(isinstance(one, np.ndarray) and one.shape[:1] == (len(missing),) for one in made)
            if not sized or sum(one.nbytes for one in made) > _MAX_OUTPUT * len(missing):
                return made if len(missing) == count else super().run(names, batch, *others)
            for number, row in enumerate(missing):
                _recorded[keys[row]] = [one[number].copy() for one in made]
        return [np.stack(rows) for rows in zip(*(_recorded[key] for key in keys), strict=True)]

    def _key(self, names: Sequence[str] | None, batch: Mapping[str, np.ndarray], row: int) -> bytes:
        key = hashlib.sha256(self._model + repr(names).encode())
        for name, one in batch.items():
            key.update(f"{name} {one.shape[1:]} {one.dtype}".encode())
            key.update(np.ascontiguousarray(one[row]).tobytes())
        return key.digest()
