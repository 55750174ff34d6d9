"""What follows from the record of an update, whatever has happened."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.updates.update_record import MAX_CRASHES, UpdateRecord

VERSIONS = st.sampled_from(["v1", "v2", "v3"])
ENDS = st.booleans()


def on_trial(version: str) -> UpdateRecord:
    return UpdateRecord().deployed(version).promoted(version, on_trial=True)


@given(st.lists(ENDS, max_size=20))
def test_a_trial_ends_with_as_many_deaths_as_it_may_have_however_often_it_is_stopped(ends: list[bool]) -> None:
    """``True`` is an end in good order."""
    record, deaths = on_trial("v2"), 0
    for orderly in ends:
        if record.rollback_reason("v2"):
            break
        record = record.started()
        if orderly:
            record = record.stopped(on_trial=True, deployed=False)
        deaths += not orderly
    assert bool(record.rollback_reason("v2")) == (deaths >= MAX_CRASHES)


@given(st.lists(ENDS, max_size=20))
def test_a_candidate_is_rejected_after_as_many_crashes_before_its_first_answer(ends: list[bool]) -> None:
    record, deaths = UpdateRecord(), 0
    for orderly in ends:
        if record.rejection_reason("v2", "software"):
            break
        record = record.deployed("v2")
        if orderly:
            record = record.stopped(on_trial=False, deployed=True)
        deaths += not orderly
    assert bool(record.rejection_reason("v2", "software")) == (deaths >= MAX_CRASHES)


@given(VERSIONS, VERSIONS)
def test_a_failure_is_of_that_version_and_that_software_alone(failed: str, other: str) -> None:
    record = UpdateRecord().failure(failed, "it fails", "now")
    assert (record.rejection_reason(other, "now") == "it fails") == (other == failed)
    assert record.rejection_reason(failed, "later") == ""


@given(VERSIONS)
def test_what_other_software_has_made_current_has_not_failed(version: str) -> None:
    record = UpdateRecord().failure(version, "it fails", "then").deployed(version).promoted(version, on_trial=True)
    assert record.rollback_reason(version) == record.rejection_reason(version, "then") == ""


def test_a_failing_candidate_leaves_the_trial_of_the_current_set_as_it_is() -> None:
    record = on_trial("v2").started().failure("v3", "it fails", "now")
    assert (record.trial, record.deaths, record.rollback_reason("v2")) == ("v2", 1, "")


def test_a_committed_set_is_never_sent_back_for_deaths() -> None:
    record = on_trial("v2").started().started().started().committed()
    assert record.rollback_reason("v2") == ""
