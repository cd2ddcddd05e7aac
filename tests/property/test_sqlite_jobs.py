"""SqliteJobs against the merge rule alone, for any batches, failures and restarts."""

import sqlite3
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from emitd_handlers.clock import Clock
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.jobs.merge import merge
from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.jobs.sqlite.schema import migrate
from emitd_handlers.jobs.sqlite.writer import SqliteJobs
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, Refused
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord
from support.jobs.sqlite_queries import get_job, load_history

NOW = 10**18
JOB_IDS = ("a", "b", "c", "d")
DROP_TRIGGER = "DROP TRIGGER IF EXISTS failing"
FAIL = "CREATE TRIGGER failing AFTER UPDATE ON job_logs BEGIN SELECT raise(ABORT, 'told to fail'); END"

reports = st.builds(
    lambda job_id, job_type, status, progress, details, labels, reason, attempt, new, lease, time, message: (
        LogRecord(
            Level.JOB_STATUS,
            message,
            time_unix_nano=NOW + time,
            received_unix_nano=NOW + 20,
            source="s",
            payload=JobStatus(
                job_id, job_type, status, progress, details, labels, reason, reason, attempt, new, lease
            ),
        )
    ),
    st.sampled_from(JOB_IDS),
    st.sampled_from(["t", "t", "t", "", "u"]),
    st.sampled_from([JobState.QUEUED, *[JobState.RUNNING] * 4, JobState.COMPLETED, JobState.FAILED]),
    st.none() | st.integers(0, 100),
    st.sampled_from(["", "", '{"x":1}', '{"x":"' + "y" * 5000 + '"}']),
    st.sampled_from([{}, {"k": "v"}]),
    st.sampled_from(["", "OOM"]),
    st.sampled_from([1, 1, 1, 2, 3]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([None, None, 0, 60]),
    st.integers(0, 2**63),
    st.sampled_from(["", "m"]),
)
#: A batch, one that the database fails, a write by somebody else, or a restart.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), st.lists(reports, min_size=1, max_size=12)),
        st.tuples(st.just("failing batch"), st.lists(reports, min_size=1, max_size=12)),
        st.tuples(st.just("delete"), st.sampled_from(JOB_IDS)),
        st.just(("restart", "")),
    ),
    min_size=1,
    max_size=12,
)


class Model:
    """What must be in the tables."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.transitions: dict[str, list[JobTransition]] = {}

    def apply(self, record: LogRecord, now: int) -> Outcome:
        assert isinstance(record.payload, JobStatus)
        job_id = record.payload.job_id
        try:
            merged = merge(self.jobs.get(job_id), record, now)
        except RecordInvalid as error:
            return Refused(error)
        if merged.applied:
            self.jobs[job_id] = merged.job
        if merged.transition is not None:
            self.transitions.setdefault(job_id, []).append(merged.transition)
        job = merged.job
        return Committed(JobReceipt(job_id, job.revision, job.attempt, merged.applied, merged.stale_reason))


def same(outcomes: Sequence[Outcome], expected: Sequence[Outcome]) -> bool:
    """Compare outcomes; two errors are the same if they say the same."""
    return [str(o.error) if isinstance(o, Refused) else o for o in outcomes] == [
        str(o.error) if isinstance(o, Refused) else o for o in expected
    ]


@settings(deadline=None, max_examples=50)
@given(steps, st.sampled_from([0, 2, 100]))
def test_the_tables_are_what_the_rule_says(happenings: list[tuple[str, object]], cache_size: int) -> None:
    """Whatever is cached, written by others, or undone: jobs, transitions and receipts are those of the rule, report by
    report.
    """
    clock = count(NOW + 1000, 1_000_000)
    now = 0

    def jobs() -> SqliteJobs:
        return SqliteJobs(cache_size=cache_size, clock=Clock(lambda: now, lambda: now))

    with tempfile.TemporaryDirectory() as folder:
        connections = [sqlite3.connect(Path(folder, "j.db"), isolation_level=None) for _ in range(2)]
        ours, others = connections
        ours.execute("PRAGMA journal_mode = WAL")
        ours.execute("PRAGMA synchronous = OFF")
        migrate(ours)
        store, model = jobs(), Model()
        for name, argument in happenings:
            now = next(clock)
            if name == "restart":
                store = jobs()
            elif name == "delete":
                others.execute("DELETE FROM job_logs WHERE job_id = ?", (argument,))
                model.jobs.pop(str(argument), None)
                model.transitions.pop(str(argument), None)
            elif name == "batch":
                outcomes = store.apply(ours, argument).outcomes  # type: ignore[arg-type]
                assert same(outcomes, [model.apply(record, now) for record in argument])  # type: ignore[attr-defined]
            else:
                check_failure(ours, store, model, argument, now)  # type: ignore[arg-type]
            for job_id in JOB_IDS:
                assert get_job(ours, job_id) == model.jobs.get(job_id)
                history = load_history(others, job_id, 0)
                assert (list(history.transitions) if history else []) == model.transitions.get(job_id, [])
        for connection in connections:
            connection.close()


def check_failure(
    connection: sqlite3.Connection, store: SqliteJobs, model: Model, batch: Sequence[LogRecord], now: int
) -> None:
    """Apply a batch while every update of a row fails; if any is needed, nothing of the batch may stay."""
    connection.execute(FAIL)
    try:
        outcomes = store.apply(connection, batch).outcomes
    except sqlite3.IntegrityError:
        assert not connection.in_transaction
    else:
        assert same(outcomes, [model.apply(record, now) for record in batch])
    finally:
        connection.execute(DROP_TRIGGER)
