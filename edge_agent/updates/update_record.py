"""State of an update that survives a restart, and the decisions that follow from it. Pure: no I/O."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

#: Crashes of the process during the trial of a set, or before its first answer, after which the set has failed.
MAX_CRASHES = 3


class UpdateRecord(msgspec.Struct, frozen=True):
    """State of the update of one bundle.

    Attributes:
        trial: Version of the current set during its trial; empty otherwise.
        deaths: Starts during this trial that did not end in an orderly stop.
        tried: Version of the last candidate that was deployed; empty after it became current.
        tries: Deployments of that candidate that did not end in an orderly stop.
        failed: Version of the newest set that has failed; empty without one.
        reason: Why that set has failed.
        software: Versions of the programs with which it has failed. Others may try it again.

    Example:
        >>> record = UpdateRecord().deployed("v2").promoted("v2", on_trial=True)
        >>> record.started().started().started().rollback_reason("v2")
        'the process has ended 3 times while v2 was on trial'
    """

    trial: str = ""
    deaths: int = 0
    tried: str = ""
    tries: int = 0
    failed: str = ""
    reason: str = ""
    software: str = ""

    def rollback_reason(self, current: str) -> str:
        """Why the ``current`` set must be rolled back at a start; empty if it stays."""
        if self.failed == current:  # the process ended during a rollback
            return self.reason
        if self.trial == current and self.deaths >= MAX_CRASHES:
            return f"the process has ended {self.deaths} times while {current[:12]} was on trial"
        return ""

    def rejection_reason(self, version: str, software: str) -> str:
        """Why a candidate is not tried; empty if it is."""
        if self.failed == version and self.software == software:
            return self.reason
        if self.tried == version and self.tries >= MAX_CRASHES:
            return f"the process has ended {self.tries} times when {version[:12]} was to answer"
        return ""

    def started(self) -> UpdateRecord:
        """After a start of the process during a trial."""
        return replace(self, deaths=self.deaths + 1)

    def deployed(self, version: str) -> UpdateRecord:
        """After a candidate was handed to the cameras."""
        return replace(self, tried=version, tries=1 + (self.tries if self.tried == version else 0))

    def promoted(self, version: str, on_trial: bool) -> UpdateRecord:
        """After a candidate became current. ``on_trial``: whether there is a previous set."""
        own = self if self.failed != version else replace(self, failed="", reason="", software="")
        return replace(own, trial=version if on_trial else "", deaths=0, tried="", tries=0)

    def committed(self) -> UpdateRecord:
        """After the trial of the current set."""
        return replace(self, trial="", deaths=0)

    def stopped(self, on_trial: bool, deployed: bool) -> UpdateRecord:
        """Before an orderly stop, with the current set ``on_trial`` or with a candidate ``deployed``."""
        deaths, tries = self.deaths - on_trial, self.tries - deployed
        return replace(self, deaths=max(0, deaths), tries=max(0, tries))

    def failure(self, version: str, reason: str, software: str) -> UpdateRecord:
        """After the failure of a set. The trial of another set continues."""
        return replace(self, tried="", tries=0, failed=version, reason=reason, software=software)
