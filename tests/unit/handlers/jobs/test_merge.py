"""The merge rule, case by case."""

from typing import Any

import pytest
from msgspec.structs import replace

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.jobs.merge import (
    ATTEMPT_ENDED,
    LEASE_EXPIRED,
    MAX_ATTEMPT,
    MAX_ATTEMPT_JUMP,
    OUT_OF_ORDER,
    SUPERSEDED,
    Merged,
    expire,
    merge,
    put_off,
    request_cancel,
)
from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord

QUEUED, RUNNING, COMPLETED, FAILED = JobState
SECOND = 1_000_000_000
#: When the reports of these tests come in, unless they say otherwise.
RECEIVED = 1_000 * SECOND


def report(
    status: JobState = RUNNING,
    *,
    time: int = 0,
    received: int = RECEIVED,
    message: str = "",
    source: str = "",
    job_type: str = "sync",
    record_id: str = "",
    **fields: Any,
) -> LogRecord:
    """A report of job `j`; time 0: that of its receipt."""
    return LogRecord(
        Level.JOB_STATUS,
        message,
        time_unix_nano=time or received,
        received_unix_nano=received,
        source=source,
        record_id=record_id,
        payload=JobStatus("j", job_type, status, **fields),
    )


def apply(job: Job | None, *records: LogRecord) -> Job:
    """Merge reports that must all be applied, each at its receipt."""
    for record in records:
        merged = merge(job, record, record.received_unix_nano)
        assert merged.applied, merged.stale_reason
        job = merged.job
    assert job is not None
    return job


def stale(job: Job, record: LogRecord) -> str:
    """Merge a report that must change nothing; return the reason."""
    merged = merge(job, record, record.received_unix_nano)
    assert merged == Merged(job, None, merged.stale_reason)
    assert merged.job is job
    assert not merged.applied
    return merged.stale_reason


def test_the_first_report_makes_the_job() -> None:
    """Everything comes from the report, the times from the server's clock to the microsecond."""
    record = report(
        RUNNING,
        time=5,
        received=RECEIVED + 1_234_567,
        message="copying",
        source="worker",
        progress=7,
        details_json="{}",
        labels={"team": "a"},
        attempt=3,
    )
    merged = merge(None, record, RECEIVED + 2_345_678)
    assert merged.job == Job(
        job_id="j",
        job_type="sync",
        status=RUNNING,
        progress=7,
        message="copying",
        details_json="{}",
        labels={"team": "a"},
        source="worker",
        attempt=3,
        revision=1,
        create_time_unix_nano=RECEIVED + 1_234_000,
        update_time_unix_nano=RECEIVED + 2_345_000,
        event_time_unix_nano=5,
        start_time_unix_nano=RECEIVED + 2_345_000,
    )
    assert merged.transition == JobTransition(1, 3, RUNNING, 7, 5)


def test_the_first_report_must_name_the_type() -> None:
    """Without `job_type` it is refused; later ones may leave it out, and none may change it."""
    with pytest.raises(RecordInvalid) as caught:
        merge(None, report(job_type=""), RECEIVED)
    assert caught.value.field == "job.job_type"
    job = apply(None, report())
    assert apply(job, report(job_type="", time=RECEIVED + 1, received=RECEIVED + 1)).job_type == "sync"
    for status in JobState:
        with pytest.raises(RecordInvalid) as caught:
            merge(job, report(status, job_type="backup"), RECEIVED)
        assert caught.value.field == "job.job_type"
        assert caught.value.problem == "'backup' differs from the job's, 'sync'"


def test_what_is_no_report_is_refused() -> None:
    """A record without a report, without an id, or with a progress that is none: by field."""
    for record, field in (
        (LogRecord(Level.INFO), "job"),
        (LogRecord(Level.JOB_STATUS, payload=JobStatus("", "sync", RUNNING)), "job.job_id"),
        (report(progress=-1), "job.progress"),
        (report(progress=101), "job.progress"),
    ):
        with pytest.raises(RecordInvalid) as caught:
            merge(None, record, RECEIVED)
        assert caught.value.field == field


def test_what_a_report_leaves_out_stays() -> None:
    """Absent progress and lease, empty message, details and labels keep the job's; the source is the last's."""
    first = report(time=1, progress=10, details_json='{"a":1}', labels={"k": "v"}, lease_seconds=30)
    job = apply(None, first, report(time=2, message="m", source="s"))
    assert (job.progress, job.details_json, job.labels, job.lease_seconds) == (10, '{"a":1}', {"k": "v"}, 30)
    assert (job.message, job.source, job.revision) == ("m", "s", 2)
    job = apply(job, report(time=3, details_json='{"b":2}', labels={"x": "y"}))
    assert (job.details_json, job.labels, job.message) == ('{"b":2}', {"x": "y"}, "m")


def test_the_rank_only_rises() -> None:
    """QUEUED, RUNNING, ended: a lower rank is out of order, also with a later time; a higher one wins, also with an
    earlier time.
    """
    job = apply(None, report(RUNNING, time=10))
    assert stale(job, report(QUEUED, time=20)) == OUT_OF_ORDER
    ended = merge(job, report(COMPLETED, time=5), RECEIVED)
    assert ended.job.status is COMPLETED
    assert ended.transition == JobTransition(2, 1, COMPLETED, 100, 5)


@pytest.mark.parametrize("end", [COMPLETED, FAILED])
@pytest.mark.parametrize("status", list(JobState))
def test_an_ended_attempt_stays_as_it_is(end: JobState, status: JobState) -> None:
    """Every further report of it is stale, the other end included."""
    job = apply(None, report(end, time=1))
    assert stale(job, report(status, time=2, progress=99)) == ATTEMPT_ENDED


def test_among_equals_the_later_event_wins() -> None:
    """An earlier one is out of order whatever its progress, and progress may go back with time."""
    job = apply(None, report(time=10, progress=50))
    assert stale(job, report(time=9, progress=90)) == OUT_OF_ORDER
    assert apply(job, report(time=11, progress=20)).progress == 20


def test_at_the_same_time_the_higher_progress_wins() -> None:
    """What is neither later nor further is out of order: so is an identical copy."""
    first = report(time=10, progress=50)
    job = apply(None, first)
    assert stale(job, first) == OUT_OF_ORDER
    assert stale(job, report(time=10, progress=49)) == OUT_OF_ORDER
    assert stale(job, report(time=10, message="only a message")) == OUT_OF_ORDER
    assert apply(job, report(time=10, progress=51)).progress == 51


def test_a_time_after_receipt_counts_as_receipt() -> None:
    """A clock that is ahead does not shut out what is reported later by others."""
    job = apply(None, report(time=RECEIVED * 9, received=RECEIVED, progress=1))
    assert job.event_time_unix_nano == RECEIVED
    job = apply(job, report(time=RECEIVED + 5, received=RECEIVED + 9, progress=2))
    assert job.event_time_unix_nano == RECEIVED + 5


def test_a_transition_keeps_the_time_as_sent() -> None:
    """Also one far in the future."""
    merged = merge(None, report(time=2**64 - 1), RECEIVED)
    assert merged.transition is not None
    assert merged.transition.time_unix_nano == 2**64 - 1


def test_a_report_without_a_time_comes_after_what_was_applied() -> None:
    """A message alone is applied; also after the server's clock was set back."""
    job = apply(None, report(received=RECEIVED, progress=50))
    job = apply(job, report(received=RECEIVED + 1, message="still here"))
    assert (job.message, job.progress) == ("still here", 50)
    job = apply(job, report(received=RECEIVED - 60 * SECOND, message="the clock was set back"))
    assert job.message == "the clock was set back"
    assert job.event_time_unix_nano == RECEIVED + 2
    assert job.update_time_unix_nano == RECEIVED


def test_completed_means_all_of_it_and_failed_keeps_the_last() -> None:
    """COMPLETED without progress is 100 %, with progress what it says; FAILED stays where it was."""
    job = apply(None, report(progress=40))
    assert apply(job, report(COMPLETED)).progress == 100
    assert apply(job, report(COMPLETED, progress=90)).progress == 90
    assert apply(job, report(FAILED)).progress == 40
    assert apply(job, report(FAILED, progress=45)).progress == 45


def test_only_a_failure_has_reasons() -> None:
    """`failure_reason` and `failure_message` are kept with FAILED alone."""
    reasons = {"failure_reason": "OOM", "failure_message": "out of memory"}
    job = apply(None, report(**reasons))
    assert (job.failure_reason, job.failure_message) == ("", "")
    completed = apply(job, report(COMPLETED, **reasons))
    assert (completed.failure_reason, completed.failure_message) == ("", "")
    job = apply(job, report(FAILED, **reasons))
    assert (job.failure_reason, job.failure_message) == ("OOM", "out of memory")


def test_a_lower_attempt_is_superseded() -> None:
    """Whatever it says: the newer attempt stands."""
    job = apply(None, report(QUEUED, attempt=2))
    assert stale(job, report(COMPLETED, attempt=1)) == SUPERSEDED


@pytest.mark.parametrize("next_attempt", [{"attempt": 5}, {"new_attempt": True}])
def test_a_new_attempt_starts_afresh(next_attempt: dict[str, Any]) -> None:
    """From a lower rank and an earlier time; type, creation and labels stay."""
    first = report(
        FAILED,
        time=9,
        progress=40,
        details_json="{}",
        labels={"k": "v"},
        lease_seconds=9,
        message="copying",
        failure_reason="OOM",
        failure_message="out of memory",
    )
    job = replace(
        apply(None, first),
        cancel_requested=True,
        cancel_reason="not needed",
    )
    merged = merge(job, report(QUEUED, time=1, job_type="", **next_attempt), RECEIVED + SECOND)
    attempt = next_attempt.get("attempt", 2)
    assert merged.job == Job(
        job_id="j",
        job_type="sync",
        status=QUEUED,
        labels={"k": "v"},
        attempt=attempt,
        revision=2,
        create_time_unix_nano=RECEIVED,
        update_time_unix_nano=RECEIVED + SECOND,
        event_time_unix_nano=1,
    )
    assert merged.transition == JobTransition(2, attempt, QUEUED, 0, 1)


def test_an_attempt_that_begins_in_the_same_status_is_a_transition() -> None:
    """RUNNING after RUNNING, in the next attempt."""
    merged = merge(apply(None, report(RUNNING)), report(RUNNING, new_attempt=True), RECEIVED)
    assert merged.transition is not None
    assert (merged.transition.attempt, merged.transition.status) == (2, RUNNING)


def test_a_new_attempt_of_an_unknown_job_is_the_first() -> None:
    """`new_attempt` does not need to know whether the job exists."""
    assert apply(None, report(new_attempt=True, attempt=5)).attempt == 1


def test_attempts_end_where_the_wire_ends() -> None:
    """A new attempt after the last number is refused, and wraps around to nothing."""
    job = merge(None, report(attempt=MAX_ATTEMPT), RECEIVED, MAX_ATTEMPT).job
    with pytest.raises(RecordInvalid) as caught:
        merge(job, report(new_attempt=True), RECEIVED)
    assert caught.value.field == "job.new_attempt"


@pytest.mark.parametrize("jump", [1, 7, MAX_ATTEMPT_JUMP])
@pytest.mark.parametrize("start", [0, 1, 5000])
def test_an_attempt_does_not_jump_far(start: int, jump: int) -> None:
    """It may be higher by the limit than the job's last, or than 0 in a first report; one more is a mistake."""
    job = merge(None, report(attempt=start), RECEIVED, MAX_ATTEMPT).job if start else None
    assert merge(job, report(attempt=start + jump), RECEIVED, jump).job.attempt == start + jump
    for attempt in (start + jump + 1, MAX_ATTEMPT):
        told = rf"{attempt} is more than {jump} above .* {start}: .* max_attempt_jump"
        with pytest.raises(RecordInvalid, match=told) as caught:
            merge(job, report(attempt=attempt), RECEIVED, jump)
        assert caught.value.field == "job.attempt"
    # Asked for by the number that does not matter.
    assert merge(job, report(attempt=MAX_ATTEMPT, new_attempt=True), RECEIVED, jump).job.attempt == start + 1


def test_a_tick_is_no_transition() -> None:
    """Progress alone leaves the history as it is."""
    merged = merge(apply(None, report(time=1, progress=1)), report(time=2, progress=2), RECEIVED)
    assert merged.applied
    assert merged.transition is None


def test_a_lease_lasts_from_when_the_report_is_applied() -> None:
    """Each report renews it; 0 ends it, and so does the end of the job; a new attempt has none of its own."""
    job = merge(None, report(lease_seconds=30), RECEIVED + SECOND).job
    assert job.lease_expire_time_unix_nano == RECEIVED + 31 * SECOND
    renewed = merge(job, report(time=RECEIVED - 1, attempt=2, lease_seconds=5), RECEIVED).job
    assert renewed.lease_expire_time_unix_nano == RECEIVED + 6 * SECOND  # time does not go back
    job = merge(job, report(received=RECEIVED + 2), RECEIVED + 10 * SECOND).job
    assert job.lease_expire_time_unix_nano == RECEIVED + 40 * SECOND
    ended = apply(job, report(COMPLETED))
    assert (ended.lease_seconds, ended.lease_expire_time_unix_nano) == (30, 0)
    unleased = apply(job, report(received=RECEIVED + 3, lease_seconds=0))
    assert (unleased.lease_seconds, unleased.lease_expire_time_unix_nano) == (0, 0)
    again = apply(ended, report(new_attempt=True))
    assert (again.lease_seconds, again.lease_expire_time_unix_nano) == (0, 0)


@pytest.mark.parametrize("next_attempt", [{"attempt": 2}, {"new_attempt": True}])
def test_a_wish_to_cancel_outlives_an_attempt_that_has_not_ended(next_attempt: dict[str, Any]) -> None:
    """Who wished it still does when a worker that was lost is replaced; after the end the job begins without it."""
    job = request_cancel(apply(None, report()), "too slow", RECEIVED)
    job = apply(job, report(**next_attempt))
    assert (job.attempt, job.cancel_requested, job.cancel_reason) == (2, True, "too slow")
    job = apply(apply(job, report(COMPLETED, attempt=2)), report(attempt=3))
    assert (job.cancel_requested, job.cancel_reason) == (False, "")


def test_a_wish_to_cancel_is_recorded_once_and_only_while_there_is_something_to_cancel() -> None:
    """One more revision, no other status, the first reason stays; a job that has ended stays as it is."""
    job = apply(None, report(progress=30, lease_seconds=9))
    asked = request_cancel(job, "too slow", RECEIVED + SECOND)
    assert asked == replace(
        job,
        revision=2,
        update_time_unix_nano=RECEIVED + SECOND,
        cancel_requested=True,
        cancel_reason="too slow",
    )
    assert request_cancel(asked, "again", RECEIVED + 2 * SECOND) is asked
    for end in (COMPLETED, FAILED):
        ended = apply(job, report(end))
        assert request_cancel(ended, "too late", RECEIVED) is ended


def test_a_lease_that_runs_out_ends_the_attempt() -> None:
    """FAILED with LEASE_EXPIRED, as a change of status like any other; the rest stays as last reported."""
    job = apply(None, report(progress=30, message="copying", lease_seconds=9, source="w"))
    merged = expire(job, RECEIVED + 9 * SECOND + 1)
    assert merged.job == replace(
        job,
        status=FAILED,
        revision=2,
        update_time_unix_nano=RECEIVED + 9 * SECOND,
        event_time_unix_nano=RECEIVED + 9 * SECOND + 1,
        lease_expire_time_unix_nano=0,
        failure_reason=LEASE_EXPIRED,
        failure_message="no report came within the lease of 9 s",
        end_time_unix_nano=RECEIVED + 9 * SECOND,
    )
    assert merged.transition == JobTransition(
        2, 1, FAILED, 30, RECEIVED + 9 * SECOND + 1, LEASE_EXPIRED, "no report came within the lease of 9 s"
    )
    assert stale(merged.job, report(COMPLETED, lease_seconds=9)) == ATTEMPT_ENDED


def test_a_transition_says_which_report_opened_the_attempt() -> None:
    """By its record_id, so that a copy can be told from another one; a report of a named attempt opens none."""
    job = apply(None, report())
    merged = merge(job, report(new_attempt=True, record_id="r1"), RECEIVED)
    assert merged.transition == JobTransition(2, 2, RUNNING, 0, RECEIVED, opened_by="r1")
    named = merge(job, report(attempt=2, record_id="r1"), RECEIVED)
    assert named.transition == JobTransition(2, 2, RUNNING, 0, RECEIVED)


def test_start_and_end_are_those_of_the_newest_attempt() -> None:
    """The first RUNNING and the end, by the server's clock; a job that was never RUNNING has no start."""
    job = apply(None, report(QUEUED))
    assert (job.start_time_unix_nano, job.end_time_unix_nano) == (0, 0)
    job = merge(job, report(RUNNING), RECEIVED + SECOND).job
    job = merge(job, report(RUNNING, progress=5), RECEIVED + 2 * SECOND).job
    assert (job.start_time_unix_nano, job.end_time_unix_nano) == (RECEIVED + SECOND, 0)
    job = merge(job, report(FAILED), RECEIVED + 3 * SECOND).job
    assert (job.start_time_unix_nano, job.end_time_unix_nano) == (RECEIVED + SECOND, RECEIVED + 3 * SECOND)
    job = merge(job, report(QUEUED, attempt=2), RECEIVED + 4 * SECOND).job
    assert (job.start_time_unix_nano, job.end_time_unix_nano) == (0, 0)
    assert apply(job, report(COMPLETED, attempt=2)).start_time_unix_nano == 0


def test_a_failure_is_told_with_its_transition() -> None:
    """So that the history says why each attempt failed, also when a later one has replaced it."""
    job = apply(None, report())
    merged = merge(job, report(FAILED, failure_reason="OOM", failure_message="out of memory"), RECEIVED)
    assert merged.transition == JobTransition(2, 1, FAILED, 0, RECEIVED, "OOM", "out of memory")


def test_a_lease_that_runs_out_is_the_last_event_of_its_attempt() -> None:
    """Also where the clock was set back after the last report: no event comes before those that it follows."""
    job = apply(None, report(lease_seconds=9))
    failed = expire(job, RECEIVED - SECOND).job
    assert (
        failed.event_time_unix_nano == failed.update_time_unix_nano == failed.end_time_unix_nano == RECEIVED
    )
    assert request_cancel(job, "", RECEIVED - SECOND).update_time_unix_nano == RECEIVED


def test_a_job_is_not_updated_before_it_was_created() -> None:
    """When the clock is set back between receipt and merge."""
    job = merge(None, report(received=RECEIVED + 5 * SECOND), RECEIVED).job
    assert job.update_time_unix_nano == job.create_time_unix_nano == RECEIVED + 5 * SECOND


@pytest.mark.parametrize(
    ("expires_at", "unwatched_since", "expected"),
    [
        (130, 110, 150),  # renewed at 100, watched until 110: 20 s are left
        (130, 90, 160),  # renewed while nobody watched: all of it is left
        (130, 0, 160),  # nobody has ever watched
        (108, 105, 133),  # renewed at 78: 3 s are left
    ],
)
def test_time_in_which_nobody_watched_is_given_back(
    expires_at: int, unwatched_since: int, expected: int
) -> None:
    """A lease of 30 s that is looked at again at 130 has left what it had when it was last looked at, or renewed."""
    times = (expires_at * SECOND, 30, unwatched_since * SECOND, 130 * SECOND)
    assert put_off(*times) == expected * SECOND
