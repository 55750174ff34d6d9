"""Why the full model did not answer in time, in words, and what would help."""

from __future__ import annotations

from typing import NamedTuple

from cachenet.edge_agent.remote import POSTED


class Failure(NamedTuple):
    """``why``: a clause. ``help``: a sentence; empty where it depends on more than the reason."""

    why: str
    help: str


#: By the end of the reason of a fallback.
_FAILURES = {
    POSTED: Failure("the device did not wait for it (mode async)", ""),
    "no answer in time": Failure("its answer did not come within the deadline", ""),
    "not connected": Failure(
        "the device had no connection to a broker", "A connection to the server: edge-agent doctor checks it."
    ),
    "no cloud": Failure(
        "the device has no server", "A server (--broker), or the level full with the full model on the device."
    ),
    "cloud busy": Failure(
        "earlier questions were still without an answer",
        "A faster server: earlier questions were still without an answer.",
    ),
    "cloud busy, asked for a pause": Failure(
        "the server had asked for a pause", "A faster server, or fewer devices: its queue was full, or it had failed."
    ),
    "cloud silent, circuit open": Failure(
        "the questions before had no answer in time, so the device asked none for a while (circuit open)",
        "A server that answers in time, which edge-agent doctor checks, or a longer --deadline-ms.",
    ),
    "no time left in this frame": Failure(
        "the models of the device had taken all the time of the frame",
        "A longer --deadline-ms, or fewer levels: the device's models had taken all the time of the frame.",
    ),
}


def failure_of(text: str) -> Failure:
    """The failure with this name in the log."""
    if text.startswith("refused: "):
        return Failure(f"the server has {text}", "The server's log says why.")
    return _FAILURES.get(text, Failure(text, ""))
