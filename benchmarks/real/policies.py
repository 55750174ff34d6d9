"""CacheNet's own policy, at the settings that are measured."""

from __future__ import annotations

from benchmarks.real.recording import Recordings
from benchmarks.real.run import Run

#: Name of CacheNet with its defaults.
DEFAULT = "cachenet"
#: ``max_disagreement`` of each policy that is measured; the first is the default.
CACHENET: dict[str, float] = {
    DEFAULT: 0.02,
    **{f"{DEFAULT}@{budget:g}": budget for budget in (0.005, 0.01, 0.03, 0.05, 0.1)},
}
#: Share of frames that are audited at least, on which CacheNet would have answered without asking.
AUDIT_FLOOR = 0.03


class NotThere(Exception):
    """CacheNet's policy is not there yet."""


def cachenet(recordings: Recordings, max_disagreement: float, seed: int) -> Run:  # noqa: ARG001
    """CacheNet on the play frames, started from the held-out frames. ``seed``: of the audits."""
    raise NotThere("cachenet: its policy is not there yet; the trivial policies are measured without it")
