"""The merge rule, for any reports in any order."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.jobs.merge import merge
from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord

NOW = 1_000

reports = st.builds(
    lambda status, progress, attempt, time, received, details, message: LogRecord(
        Level.JOB_STATUS,
        message,
        time_unix_nano=time,
        received_unix_nano=received,
        payload=JobStatus("j", "t", status, progress, details, attempt=attempt),
    ),
    st.sampled_from(JobState),
    st.none() | st.integers(0, 100),
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(["", "{}"]),
    st.sampled_from(["", "m1", "m2"]),
)


def fold(records: Sequence[LogRecord]) -> tuple[Job, list[JobTransition]]:
    """Merge reports into a job, and check each step."""
    job: Job | None = None
    transitions: list[JobTransition] = []
    for record in records:
        merged = merge(job, record, NOW)
        assert merge(job, record, NOW) == merged, "the rule is not pure"
        if merged.applied:
            assert merged.job.revision == (job.revision if job else 0) + 1
        else:
            assert merged.job is job
            assert merged.transition is None
        changed = job is None or (job.status, job.attempt) != (merged.job.status, merged.job.attempt)
        assert (merged.transition is not None) == changed
        if job is not None:
            assert merged.job.attempt >= job.attempt
            assert merged.job.attempt > job.attempt or rank(merged.job.status) >= rank(job.status)
            assert merged.job.create_time_unix_nano == job.create_time_unix_nano
            assert merged.job.update_time_unix_nano >= job.update_time_unix_nano
        assert 0 <= merged.job.progress <= 100
        job = merged.job
        if merged.transition is not None:
            transitions.append(merged.transition)
    assert job is not None
    return job, transitions


def rank(status: JobState) -> int:
    return min(status, JobState.COMPLETED)


@given(st.lists(reports, min_size=1, max_size=30))
def test_every_step_keeps_the_promises(records: list[LogRecord]) -> None:
    """Revisions grow by one with each applied report; attempts, ranks and times never go back; transitions are
    exactly the changes of status and the starts of attempts.
    """
    job, transitions = fold(records)
    assert transitions[0].revision == 1
    assert (transitions[-1].status, transitions[-1].attempt) == (job.status, job.attempt)


@given(st.data())
def test_one_end_wins_in_any_order(data: st.DataObject) -> None:
    """Reports of an attempt of which one kind ends it all end in that status, whatever their order and however often
    each comes.
    """
    end = data.draw(st.sampled_from([JobState.COMPLETED, JobState.FAILED]))
    attempt = data.draw(st.integers(1, 3))
    records = data.draw(st.lists(reports, max_size=12))
    records = [record for record in records if may_end(record, attempt, end)]
    records.append(
        LogRecord(
            Level.JOB_STATUS,
            time_unix_nano=data.draw(st.integers(1, 20)),
            received_unix_nano=10,
            payload=JobStatus("j", "t", end, attempt=attempt),
        )
    )
    records += data.draw(st.lists(st.sampled_from(records), max_size=6))
    job, _ = fold(data.draw(st.permutations(records)))
    assert (job.attempt, job.status) == (attempt, end)


def may_end(record: LogRecord, attempt: int, end: JobState) -> bool:
    status = record.payload
    assert isinstance(status, JobStatus)
    if status.attempt != attempt:
        return status.attempt < attempt
    return status.status is end or not status.status.ended


@given(st.data())
def test_ticks_with_times_end_alike_in_any_order(data: st.DataObject) -> None:
    """Of reports of one status, none later than its receipt, the same one stands at the end in any order: the latest,
    of those the furthest.
    """
    ticks = data.draw(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 100)), min_size=1, max_size=10))
    records = [
        LogRecord(
            Level.JOB_STATUS,
            time_unix_nano=time,
            received_unix_nano=100,
            payload=JobStatus("j", "t", JobState.RUNNING, progress),
        )
        for time, progress in ticks
    ]
    job, _ = fold(data.draw(st.permutations(records)))
    assert (job.event_time_unix_nano, job.progress) == max(ticks)


@given(st.lists(reports, min_size=1, max_size=30))
def test_the_message_is_the_last_that_was_applied_in_the_attempt(records: list[LogRecord]) -> None:
    """A report without one leaves it; a new attempt begins with its own, or none."""
    job: Job | None = None
    expected = ""
    for record in records:
        merged = merge(job, record, NOW)
        if merged.applied:
            is_new = job is None or merged.job.attempt > job.attempt
            expected = record.message or ("" if is_new else expected)
        job = merged.job
        assert job.message == expected


@given(st.lists(reports, min_size=1, max_size=20))
def test_a_copy_with_a_time_changes_nothing(records: list[LogRecord]) -> None:
    """A report that happened before its receipt, sent again at once, is stale."""
    job: Job | None = None
    for record in records:
        job = merge(job, record, NOW).job
        if record.time_unix_nano < record.received_unix_nano:
            assert not merge(job, record, NOW).applied
