"""What must be known of an update after a restart, and what follows from it. Pure: the store keeps it."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

#: Times that the process may end without being stopped while a set is on trial, or before it has answered at all.
MAX_CRASHES = 3


class UpdateRecord(msgspec.Struct, frozen=True):
    """How the update of one bundle stands.

    Args:
        trial: Version of the current set while it is on trial; empty otherwise.
        deaths: Number of starts during this trial, less those that were stopped in good order.
        tried: Version of the candidate that cameras were to answer with last; empty if it became current.
        tries: Number of starts in which that was so, less those that were stopped in good order.
        failed: Version of the newest set that has failed; empty if none has.
        reason: Why it has failed, for a person.
        software: Versions of the programs with which it has failed. Others may try it again.

    Example:
        >>> record = UpdateRecord().deployed("v2").promoted("v2", on_trial=True)
        >>> record.started().started().started().verdict("v2")
        'the process has ended 3 times while v2 was on trial'
    """

    trial: str = ""
    deaths: int = 0
    tried: str = ""
    tries: int = 0
    failed: str = ""
    reason: str = ""
    software: str = ""

    def verdict(self, current: str) -> str:
        """Why the ``current`` set must make room for the previous one at a start; empty if it may stay."""
        if self.failed == current:  # the process ended while the previous set was being brought back
            return self.reason
        if self.trial == current and self.deaths >= MAX_CRASHES:
            return f"the process has ended {self.deaths} times while {current[:12]} was on trial"
        return ""

    def refusal(self, version: str, software: str) -> str:
        """Why a candidate is not tried; empty if it may be."""
        if self.failed == version and self.software == software:
            return self.reason
        if self.tried == version and self.tries >= MAX_CRASHES:
            return f"the process has ended {self.tries} times when {version[:12]} was to answer"
        return ""

    def started(self) -> UpdateRecord:
        """The process has started, and the current set is on trial."""
        return replace(self, deaths=self.deaths + 1)

    def deployed(self, version: str) -> UpdateRecord:
        """Cameras are to answer with a candidate."""
        return replace(self, tried=version, tries=1 + (self.tries if self.tried == version else 0))

    def promoted(self, version: str, on_trial: bool) -> UpdateRecord:
        """The candidate has become current; ``on_trial``: there is a previous set."""
        own = self if self.failed != version else replace(self, failed="", reason="", software="")
        return replace(own, trial=version if on_trial else "", deaths=0, tried="", tries=0)

    def committed(self) -> UpdateRecord:
        """The current set has proven itself."""
        return replace(self, trial="", deaths=0)

    def stopped(self, on_trial: bool, deployed: bool) -> UpdateRecord:
        """The process ends in good order, with the current set ``on_trial``, or with a candidate ``deployed``."""
        deaths, tries = self.deaths - on_trial, self.tries - deployed
        return replace(self, deaths=max(0, deaths), tries=max(0, tries))

    def failure(self, version: str, reason: str, software: str) -> UpdateRecord:
        """A set has failed; a trial of another goes on."""
        return replace(self, tried="", tries=0, failed=version, reason=reason, software=software)
