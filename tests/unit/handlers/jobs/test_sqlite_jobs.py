"""SqliteJobs: batches of reports in transactions."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from emitd_handlers.clock import Clock
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.jobs.merge import merge
from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.jobs.sqlite import writer
from emitd_handlers.jobs.sqlite.schema import migrate
from emitd_handlers.jobs.sqlite.writer import MAX_CACHED_CHARACTERS, SqliteJobs
from emitd_handlers.jobs.store import Retention
from emitd_handlers.jobs.transaction import Rules
from emitd_handlers.jobs.watch.broadcaster import JobHistory
from emitd_handlers.outcome import Committed, JobReceipt, RecentCommit, Refused
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord
from support.jobs.sqlite_queries import get_job, load_history

QUEUED, RUNNING, COMPLETED, FAILED = JobState
#: 2026-11-23 03:39:00.123456 UTC, and 789 nanoseconds.
NOW = int(datetime(2026, 11, 23, 3, 39, tzinfo=UTC).timestamp()) * 1_000_000_000 + 123_456_789
SECOND = 1_000_000_000
_times = count(NOW - SECOND)


def report(job_id: str = "j", status: JobState = RUNNING, *, record_id: str = "", **fields: Any) -> LogRecord:
    """A report like no other: each is later than the one before."""
    received = fields.pop("received", None) or next(_times)
    time = fields.pop("time", received)
    message = fields.pop("message", "")
    fingerprint = fields.pop("fingerprint", 0)
    source = fields.pop("source", "worker")
    return LogRecord(
        Level.JOB_STATUS,
        message,
        record_id,
        time,
        received,
        source,
        payload=JobStatus(job_id, fields.pop("job_type", "sync"), status, **fields),
        fingerprint=fingerprint,
    )


def at(time: Callable[[], int]) -> Clock:
    """Return clocks that are never set."""
    return Clock(time, time)


class Base:
    """A database and its one writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = self.connect()
        migrate(self.connection)
        self.statements: list[str] = []
        self.jobs = self.new_jobs()

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        return connection

    def new_jobs(self, **arguments: Any) -> SqliteJobs:
        return SqliteJobs(**({"cache_size": 100, "clock": at(lambda: NOW)} | arguments))

    def apply(self, *records: LogRecord) -> list[JobReceipt]:
        """Apply reports that must all be accepted."""
        receipts = []
        for outcome in self.jobs.apply(self.connection, records).outcomes:
            assert isinstance(outcome, Committed)
            assert isinstance(outcome.receipt, JobReceipt)
            receipts.append(outcome.receipt)
        return receipts

    def get(self, job_id: str = "j") -> Job:
        job = get_job(self.connection, job_id)
        assert job is not None
        return job

    def rows(self, query: str) -> list[Any]:
        return self.connection.execute(query).fetchall()

    def reads_of(self, *records: LogRecord) -> int:
        """Apply reports and return how many jobs were read from the table for them."""
        statements: list[str] = []
        self.connection.set_trace_callback(statements.append)
        self.apply(*records)
        self.connection.set_trace_callback(None)
        return len([text for text in statements if "FROM job_logs" in text and "WHERE job_id" in text])


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Base]:
    base = Base(tmp_path / "jobs.db")
    yield base
    base.connection.close()


def test_a_row_holds_the_whole_job(base: Base) -> None:
    """What was written is read back, after an insert, an update and a tick alike."""
    base.jobs = base.new_jobs(rules=Rules(max_attempt_jump=2**32))
    base.apply(
        report(
            details_json='{"a":1}',
            labels={"team": "ä", "x": ""},
            message="m\0\n",
            lease_seconds=2**32 - 1,
            progress=5,
            attempt=2**32 - 1,
        )
    )
    job = base.get()
    assert (job.details_json, job.labels, job.message) == ('{"a":1}', {"team": "ä", "x": ""}, "m\0\n")
    assert (job.progress, job.attempt, job.source, job.revision) == (5, 2**32 - 1, "worker", 1)
    assert job.lease_expire_time_unix_nano == NOW - 789 + (2**32 - 1) * 1_000_000_000
    base.apply(report(progress=6, message="tick", attempt=2**32 - 1))
    assert (base.get().progress, base.get().message, base.get().lease_seconds) == (6, "tick", 2**32 - 1)
    base.apply(
        report(status=FAILED, failure_reason="OOM", failure_message="out of memory", attempt=2**32 - 1)
    )
    job = base.get()
    assert (job.status, job.failure_reason, job.failure_message) == (FAILED, "OOM", "out of memory")
    assert (job.lease_expire_time_unix_nano, job.progress, job.revision) == (0, 6, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"progress": 50},
        {"message": "other"},
        {"source": "other"},
        {"details_json": '{"b":2}'},
        {"labels": {"other": ""}},
        {"lease_seconds": 9},
        {"lease_seconds": 0},
        {"status": COMPLETED},
        {"attempt": 2},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("cached", [True, False])
def test_every_change_is_written(base: Base, change: dict[str, Any], cached: bool) -> None:
    """Whatever a report changes is in the row afterwards, and in memory."""
    first = report(details_json='{"a":1}', labels={"k": "v"}, lease_seconds=30)
    second = report(**change)
    base.apply(first)
    if not cached:
        base.jobs = base.new_jobs()
    base.apply(second)
    expected = merge(merge(None, first, NOW).job, second, NOW).job
    assert base.get() == expected
    third = report(attempt=9)
    base.apply(third)
    assert base.get() == merge(expected, third, NOW).job


def test_times_are_datetimes_for_everyone(base: Base) -> None:
    """SQLite's date functions and Python read `created_at`, `updated_at` and `lease_expires_at`."""
    base.apply(report(lease_seconds=60, received=NOW))
    ((created, updated, expires),) = base.rows(
        "SELECT created_at, updated_at, lease_expires_at FROM job_logs"
    )
    assert created == updated == "2026-11-23 03:39:00.123456"
    assert datetime.fromisoformat(created) == datetime(2026, 11, 23, 3, 39, 0, 123456)
    assert expires == "2026-11-23 03:40:00.123456"
    assert base.rows("SELECT CAST(strftime('%s', updated_at) AS INTEGER) FROM job_logs") == [
        (NOW // 1_000_000_000,)
    ]


def test_what_is_not_there_is_null(base: Base) -> None:
    """So that SQLite's JSON functions can be used on `details`, and a failure can be asked for."""
    base.apply(report())
    columns = "details, labels, lease_expires_at, failure_reason, failure_message, cancel_requested"
    assert base.rows(f"SELECT {columns} FROM job_logs") == [(None, "{}", None, None, None, 0)]
    base.apply(report(status=COMPLETED))
    assert base.rows(f"SELECT {columns} FROM job_logs") == [(None, "{}", None, None, None, 0)]


def test_several_reports_of_one_job_in_one_batch(base: Base) -> None:
    """They are merged in order, each with its receipt; the row is written once, with all transitions."""
    receipts = base.apply(
        report(status=QUEUED),
        report(progress=1),
        report("k"),
        report(progress=2),
        report(status=COMPLETED),
        report(),
    )
    assert [(r.job_id, r.revision, r.applied) for r in receipts] == [
        ("j", 1, True),
        ("j", 2, True),
        ("k", 1, True),
        ("j", 3, True),
        ("j", 4, True),
        ("j", 4, False),
    ]
    assert receipts[-1].stale_reason == "ATTEMPT_ENDED"
    assert base.rows("SELECT job_id, revision, status FROM job_transitions ORDER BY 1, 2") == [
        ("j", 1, "QUEUED"),
        ("j", 2, "RUNNING"),
        ("j", 4, "COMPLETED"),
        ("k", 1, "RUNNING"),
    ]
    assert base.get().revision == 4


def test_a_report_that_makes_no_sense_is_refused_alone(base: Base) -> None:
    """By field; its neighbours are committed, and it leaves nothing behind."""
    applied = base.jobs.apply(
        base.connection,
        [
            report("a"),
            report("b", job_type=""),
            report("a", job_type="other"),
            LogRecord(Level.INFO, record_id="x"),
            report("b"),
        ],
    )
    fields = [outcome.error.field if isinstance(outcome, Refused) else "" for outcome in applied.outcomes]
    assert fields == ["", "job.job_type", "job.job_type", "job", ""]
    assert all([isinstance(o.error, RecordInvalid) for o in applied.outcomes if isinstance(o, Refused)])
    assert (base.get("a").revision, base.get("b").revision) == (1, 1)
    assert base.rows("SELECT * FROM job_receipts") == []


def test_a_stale_report_writes_nothing(base: Base) -> None:
    """No revision, no transition; the receipt tells the job as it stands."""
    base.apply(report(status=COMPLETED, attempt=2))
    before = base.rows("SELECT * FROM job_logs")
    assert base.apply(report(attempt=1)) == [JobReceipt("j", 1, 2, False, "SUPERSEDED")]
    assert base.rows("SELECT * FROM job_logs") == before
    assert base.rows("SELECT count(*) FROM job_transitions") == [(1,)]


def test_large_batches_are_written_whole(base: Base) -> None:
    """More jobs, updates, ticks and transitions than one statement takes."""
    ids = [f"j{number}" for number in range(700)]
    base.apply(*[report(job_id, QUEUED) for job_id in ids])
    base.apply(*[report(job_id) for job_id in ids])
    base.apply(*[report(job_id, progress=number % 101) for number, job_id in enumerate(ids)])
    rows = base.rows("SELECT job_id, status, progress, revision FROM job_logs ORDER BY rowid")
    assert rows == [(job_id, "RUNNING", number % 101, 3) for number, job_id in enumerate(ids)]
    assert base.rows("SELECT count(*) FROM job_transitions") == [(1400,)]


def test_a_time_beyond_63_bits_is_kept(base: Base) -> None:
    """A sender's clock may say anything that fits on the wire."""
    for number, time in enumerate((1, 2**63 - 1, 2**63, 2**64 - 1)):
        base.apply(report(f"j{number}", time=time))
        history = load_history(base.connection, f"j{number}", 0)
        assert history is not None
        assert history.transitions[0].time_unix_nano == time


def test_rows_used_lately_are_not_read_again(base: Base) -> None:
    """A job is read once, and one that was just made not at all."""
    assert base.reads_of(report("new")) == 1  # it might exist
    assert base.reads_of(report("new"), report("new")) == 0
    base.jobs = base.new_jobs()
    assert base.reads_of(report("new"), report("new")) == 1
    assert base.reads_of(report("new")) == 0


def test_a_large_job_is_not_kept_in_memory(base: Base) -> None:
    """Whichever of its texts, or its labels, makes it large; the number of jobs bounds the memory."""
    large = "x" * (MAX_CACHED_CHARACTERS + 1)
    for job_id, fields in {
        "message": {"message": large},
        "details": {"details_json": large},
        "failure": {"failure_message": large, "status": FAILED},
        "labels": {"labels": {str(number): "" for number in range(9)}},
    }.items():
        base.apply(report(job_id, **fields))
        assert base.reads_of(report(job_id, **fields)) == 1
        assert base.reads_of(report(job_id, **fields)) == 1
    assert base.reads_of(report("message", message="small")) == 1
    assert base.reads_of(report("message")) == 0
    assert base.reads_of(report("message", message=large)) == 0
    assert base.reads_of(report("message")) == 1
    base.apply(report("grows"))
    assert base.reads_of(report("grows", details_json=large)) == 0
    assert base.reads_of(report("grows")) == 1


def test_what_others_write_is_seen(base: Base) -> None:
    """Another connection's commit drops what is kept in memory: the row in the table counts."""
    base.apply(report(progress=1, record_id="a"))
    other = base.connect()
    other.execute("UPDATE job_logs SET revision = 41, progress = 9")
    other.execute("INSERT INTO job_receipts VALUES (70, x'90', NULL)")
    assert [receipt.revision for receipt in base.apply(report(record_id="b"))] == [42]
    assert base.rows("SELECT max(last_number) FROM job_receipts") == [(71,)]
    other.execute("DELETE FROM job_logs")
    assert [receipt.revision for receipt in base.apply(report(), report("k"))] == [1, 1]
    assert base.rows("SELECT job_id, revision FROM job_transitions") == [("j", 1), ("k", 1)]
    other.execute("VACUUM")  # gives rows without an INTEGER PRIMARY KEY new numbers
    base.apply(report("k", message="the right row"))
    assert (base.get("k").message, base.get("j").message) == ("the right row", "")
    other.close()


def test_a_failed_transaction_leaves_no_trace(base: Base) -> None:
    """Neither in the tables nor in memory: what comes next is merged with what is committed."""
    base.apply(report("a", record_id="1"), report("b"))
    before = [
        base.rows(f"SELECT * FROM {table}") for table in ("job_logs", "job_transitions", "job_receipts")
    ]
    base.connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON job_receipts BEGIN SELECT raise(ABORT, 'disk full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        base.apply(report("a", COMPLETED, record_id="2"), report("new"), report("b", progress=3))
    assert not base.connection.in_transaction
    base.connection.execute("DROP TRIGGER full")
    tables = ("job_logs", "job_transitions", "job_receipts")
    assert [base.rows(f"SELECT * FROM {table}") for table in tables] == before
    receipts = base.apply(report("a", record_id="2"), report("new"), report("b"))
    assert [(r.revision, r.applied) for r in receipts] == [(2, True), (1, True), (2, True)]
    assert base.rows("SELECT last_number FROM job_receipts") == [(1,), (2,)]


def test_a_row_that_has_gone_is_an_error_and_no_silence(base: Base) -> None:
    """An update that meets no row fails the transaction."""
    base.apply(report())
    base.connection.execute("DELETE FROM job_logs")  # by this very connection, so that it goes unnoticed
    for fields in ({"progress": 5}, {"status": COMPLETED}):
        with pytest.raises(sqlite3.DatabaseError, match="gone"):
            base.jobs.apply(base.connection, [report(**fields)])
        assert [receipt.revision for receipt in base.apply(report())] == [1]
        base.connection.execute("DELETE FROM job_logs")


def test_a_clock_that_was_set_back_does_not_turn_times_back(base: Base) -> None:
    """`updated_at` stays, for a tick too."""
    base.apply(report())
    base.jobs = base.new_jobs(clock=at(lambda: NOW - 10**12))
    base.apply(report(progress=3))
    job = base.get()
    assert (job.progress, job.update_time_unix_nano) == (3, NOW - 789)


def test_receipts_survive_a_restart(base: Base) -> None:
    """Those of records with an id, oldest first, as they were given."""
    first = base.apply(
        report("a", record_id="1", fingerprint=2**64 - 1),
        report("b"),
        report("a", record_id="2", source="other"),
    )
    second = base.apply(report("a", attempt=2), report("a", record_id="3"))
    jobs = base.new_jobs()
    assert jobs.recent_commits(base.connection, 100) == [
        RecentCommit("1", "", 2**64 - 1, first[0], "worker"),
        RecentCommit("2", "", 0, first[2], "other"),
        RecentCommit("3", "", 0, second[1], "worker"),
    ]
    assert second[1].stale_reason == "SUPERSEDED"
    assert [commit.record_id for commit in jobs.recent_commits(base.connection, 2)] == ["2", "3"]
    assert jobs.recent_commits(base.connection, 0) == []


def test_receipts_are_pruned_to_the_window(base: Base) -> None:
    """At least the last `limit` stay, and not much more; the numbers go on after a restart."""
    base.jobs.recent_commits(base.connection, 10)
    for number in range(100):
        base.apply(*[report(record_id=f"{number}-{index}") for index in range(3)])
        if number == 50:
            assert base.rows("SELECT count(*), max(last_number) FROM job_receipts") == [(4, 153)]
            base.jobs = base.new_jobs(receipt_limit=10)
    assert base.rows("SELECT count(*), max(last_number) FROM job_receipts") == [(4, 300)]
    ids = [commit.record_id for commit in base.new_jobs().recent_commits(base.connection, 10)]
    assert ids == ["96-2", *[f"{number}-{index}" for number in (97, 98, 99) for index in range(3)]]


def test_only_watched_jobs_are_told(base: Base) -> None:
    """Each with its transitions and the revision before; the set is looked at after the commit."""
    base.apply(report("a"))
    watched: set[str] = set()
    base.connection.set_trace_callback(lambda text: watched.update({"a", "b"}) if text == "COMMIT" else None)
    applied = base.jobs.apply(
        base.connection,
        [report("a"), report("b", time=5), report("c"), report("a", COMPLETED, time=6)],
        watched,
    )
    base.connection.set_trace_callback(None)
    assert sorted(applied.changes, key=lambda change: change.job.job_id) == [
        JobHistory(base.get("a"), [JobTransition(3, 1, COMPLETED, 100, 6)], 1),
        JobHistory(base.get("b"), [JobTransition(1, 1, RUNNING, 0, 5)], 0),
    ]
    assert base.jobs.apply(base.connection, [report("c")], {"a", "b"}).changes == []


class Times:
    """A clock that is moved by hand, and passes over the leases by it."""

    def __init__(self, base: Base) -> None:
        self.now = NOW - NOW % 1000
        self.base = base
        base.jobs = base.new_jobs(clock=at(lambda: self.now))

    def pass_after(self, seconds: float, *, interval: float = 10.0, waited: float = 0.0) -> list[str]:
        """Let time go by, make a pass, and return the ids of the jobs that it ended."""
        self.now += int(seconds * SECOND)
        changes = self.base.jobs.end_expired(self.base.connection, interval, waited, ANY)
        return [change.job.job_id for change in changes]


class _Any:
    def __contains__(self, job_id: object) -> bool:
        return True


ANY = _Any()


@pytest.fixture
def times(base: Base) -> Times:
    times = Times(base)
    assert times.pass_after(0) == []
    return times


def test_a_lease_ends_at_its_very_microsecond(base: Base, times: Times) -> None:
    """Not one before."""
    base.apply(report(lease_seconds=15))
    assert times.pass_after(10) == []
    assert times.pass_after(4.999999) == []
    assert times.pass_after(0.000001) == ["j"]
    job, history = base.get(), load_history(base.connection, "j", 1)
    assert history is not None
    assert [item.time_unix_nano for item in history.transitions] == [times.now]
    assert job.end_time_unix_nano == job.update_time_unix_nano == job.event_time_unix_nano == times.now


@pytest.mark.parametrize(("gap", "is_put_off"), [(19.999999, False), (20.0, False), (20.000001, True)])
def test_a_gap_is_more_than_two_intervals(base: Base, times: Times, gap: float, is_put_off: bool) -> None:
    """To the microsecond; then the whole of it is added."""
    base.apply(report(lease_seconds=60))
    end = base.get().lease_expire_time_unix_nano
    assert times.pass_after(gap) == []
    added = base.get().lease_expire_time_unix_nano - end
    assert added == (round(gap * 1_000_000) * 1000 if is_put_off else 0)


def test_a_lease_that_ran_out_in_a_gap_of_two_intervals_has_run_out(base: Base, times: Times) -> None:
    """And one that ran out in a longer one has not, but does so after what was left of it."""
    base.apply(report("a", lease_seconds=15), report("b", lease_seconds=15))
    assert times.pass_after(20) == ["a", "b"]
    base.apply(report("c", lease_seconds=15))
    assert times.pass_after(20.1) == []
    assert times.pass_after(14.9) == []
    assert times.pass_after(0.2) == ["c"]


def test_the_stamp_is_of_the_last_pass_alone(base: Base, times: Times) -> None:
    """One row, by the server's clock, also where nothing was to be done."""
    base.apply(report("a", lease_seconds=60))
    times.pass_after(3)
    times.pass_after(4)
    assert base.rows("SELECT passed_at FROM job_lease_watch") == [("2026-11-23 03:39:07.123456",)]


def test_a_pass_without_a_lease_writes_nothing(base: Base, times: Times) -> None:
    """Not even its stamp; a lease that begins later is watched from its beginning all the same."""
    times.pass_after(3)
    stamp = base.rows("SELECT passed_at FROM job_lease_watch")
    for _ in range(10):
        assert times.pass_after(10) == []
    assert base.rows("SELECT passed_at FROM job_lease_watch") == stamp
    base.apply(report("a", lease_seconds=15, received=times.now))
    assert times.pass_after(14) == []
    assert times.pass_after(2) == ["a"]


def test_a_pass_writes_after_a_failure(base: Base, times: Times) -> None:
    """Only a write shows that the database takes reports again."""
    times.pass_after(3)
    base.connection.execute("CREATE TRIGGER t BEFORE INSERT ON job_logs BEGIN SELECT raise(FAIL, 'no'); END")
    with pytest.raises(sqlite3.Error):
        base.apply(report("a"))
    stamp = base.rows("SELECT passed_at FROM job_lease_watch")
    times.pass_after(3)
    assert base.rows("SELECT passed_at FROM job_lease_watch") != stamp


def test_a_clock_that_was_set_back_ends_no_lease_early(base: Base, times: Times) -> None:
    """The passes go on by the new time, and so do the leases that begin by it."""
    base.apply(report("a", lease_seconds=15))
    assert times.pass_after(-3600) == []
    assert base.rows("SELECT passed_at FROM job_lease_watch") == [("2026-11-23 02:39:00.123456",)]
    base.apply(report("b", lease_seconds=15, received=times.now))
    assert times.pass_after(14) == []
    assert times.pass_after(2) == ["b"]


def test_a_clock_that_was_set_forward_is_a_gap(base: Base, times: Times) -> None:
    """It ends no job whose worker reports in time."""
    base.apply(report(lease_seconds=15))
    assert times.pass_after(3600) == []
    assert times.pass_after(14) == []
    assert times.pass_after(2) == ["j"]


def test_what_a_pass_puts_off_is_what_is_kept_in_memory(base: Base, times: Times) -> None:
    """The row, the memory and the next pass agree on when the lease ends."""
    base.apply(report(lease_seconds=15), report("unleased"))
    assert base.reads_of(report()) == 0
    assert times.pass_after(100) == []
    end = base.get().lease_expire_time_unix_nano
    assert end == NOW - 789 + 115 * SECOND
    job, _ = base.jobs.request_cancel(base.connection, "j", "")
    assert job is not None
    assert job.lease_expire_time_unix_nano == end == base.get().lease_expire_time_unix_nano
    assert base.get("unleased").lease_expire_time_unix_nano == 0


def test_a_pass_that_is_undone_puts_nothing_off(base: Base, times: Times) -> None:
    """Neither in the tables nor in memory, and no stamp stays; the next pass does it."""
    base.apply(report("a", lease_seconds=15), report("b", lease_seconds=900))
    tables = ("job_logs", "job_transitions", "job_lease_watch")
    before = [base.rows(f"SELECT * FROM {table}") for table in tables]
    base.connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON job_transitions BEGIN SELECT raise(ABORT, 'disk full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        times.pass_after(16)
    assert not base.connection.in_transaction
    assert [base.rows(f"SELECT * FROM {table}") for table in tables] == before
    base.connection.execute("DROP TRIGGER full")
    assert times.pass_after(1) == ["a"]
    assert [receipt.applied for receipt in base.apply(report("a"), report("b"))] == [False, True]


def test_a_pass_ends_the_oldest_leases_first(
    base: Base, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as one pass takes; none is passed over for ever."""
    monkeypatch.setattr(writer, "MAX_EXPIRED", 2)
    for number, job_id in enumerate("edcba"):
        base.apply(report(job_id, lease_seconds=number + 1))
    assert times.pass_after(8) == ["e", "d"]
    assert times.pass_after(0) == ["c", "b"]
    assert times.pass_after(0) == ["a"]


def test_a_pass_over_rows_that_are_in_memory_reads_none(base: Base, times: Times) -> None:
    """And leaves there what it made of them: a late report is told so at once."""
    base.apply(report(lease_seconds=5))
    times.pass_after(6)
    assert base.reads_of(report()) == 0
    base.jobs = base.new_jobs(clock=at(lambda: times.now))
    base.apply(report("k", lease_seconds=1))
    base.jobs = base.new_jobs(clock=at(lambda: times.now))
    assert times.pass_after(2) == ["k"]
    assert base.reads_of(report("k")) == 0


def test_time_in_which_another_process_held_the_database_ends_no_lease(base: Base, times: Times) -> None:
    """Reports may have come meanwhile: what ran out since the pass began is left for the next."""
    base.apply(report("a", lease_seconds=5), report("b", lease_seconds=12))

    def wait(statement: str) -> None:
        if statement.startswith("BEGIN"):
            times.now += 7 * SECOND

    base.connection.set_trace_callback(wait)
    assert times.pass_after(6) == ["a"]
    base.connection.set_trace_callback(None)
    assert base.rows("SELECT passed_at FROM job_lease_watch") == [("2026-11-23 03:39:13.123456",)]
    assert times.pass_after(0) == ["b"]


@pytest.mark.parametrize(("waited", "expected"), [(5.0, ["j"]), (5.000001, [])])
def test_the_time_that_a_pass_has_waited_counts_to_the_microsecond(
    base: Base, times: Times, waited: float, expected: list[str]
) -> None:
    """What ran out before it was asked for has run out."""
    base.apply(report(lease_seconds=5))
    assert times.pass_after(10, waited=waited) == expected


def test_a_wish_to_cancel_is_in_the_row_and_in_memory(base: Base) -> None:
    """In whatever way the job is written next."""
    base.apply(report(lease_seconds=60))
    asked, _ = base.jobs.request_cancel(base.connection, "j", "too slow")
    assert base.rows("SELECT cancel_requested, cancel_reason, revision FROM job_logs") == [(1, "too slow", 2)]
    assert base.get() == asked
    base.apply(report(progress=5))
    assert base.reads_of(report(progress=6)) == 0
    base.apply(report(status=COMPLETED))
    assert base.rows("SELECT cancel_requested, cancel_reason FROM job_logs") == [(1, "too slow")]
    base.apply(report(attempt=2))
    assert base.rows("SELECT cancel_requested, cancel_reason FROM job_logs") == [(0, None)]
    base.jobs = base.new_jobs()
    base.jobs.request_cancel(base.connection, "j", "")
    assert base.rows("SELECT cancel_requested, cancel_reason FROM job_logs") == [(1, None)]


def test_a_wish_has_its_time(base: Base, times: Times) -> None:
    """By the server's clock, as a report's receipt has; the time of the last event stays."""
    base.apply(report(time=5))
    times.now += SECOND
    job, _ = base.jobs.request_cancel(base.connection, "j", "")
    assert job is not None
    assert (job.update_time_unix_nano, job.event_time_unix_nano) == (times.now, 5)


def test_a_wish_that_is_undone_is_none(base: Base) -> None:
    """Neither in the table nor in memory."""
    base.apply(report())
    base.connection.execute(
        "CREATE TRIGGER full BEFORE UPDATE ON job_logs BEGIN SELECT raise(ABORT, 'disk full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        base.jobs.request_cancel(base.connection, "j", "why")
    base.connection.execute("DROP TRIGGER full")
    assert base.apply(report(progress=1)) == [JobReceipt("j", 2, 1, True)]
    assert not base.get().cancel_requested


def test_a_job_that_was_removed_is_forgotten(base: Base) -> None:
    """In memory too, and one that is made anew is written into a row of its own."""
    base.apply(report("a"), report("a", COMPLETED), report("b"), report("c"), report("c", COMPLETED))
    assert sorted(base.jobs.remove_ended(base.connection, Retention(ended_count=0), 9).job_ids) == ["a", "c"]
    assert base.rows("SELECT job_id FROM job_transitions") == [("b",)]
    base.apply(report("c", QUEUED), report("b", message="b"), report("a", QUEUED))
    rows = base.rows("SELECT job_id, status, message, revision FROM job_logs ORDER BY job_id")
    assert rows == [("a", "QUEUED", "", 1), ("b", "RUNNING", "b", 2), ("c", "QUEUED", "", 1)]


def test_a_removal_that_is_undone_removes_nothing(base: Base) -> None:
    """Neither jobs nor histories."""
    base.apply(report("a"), report("a", COMPLETED), report("b"), report("b", COMPLETED))
    tables = ("job_logs", "job_transitions")
    before = [base.rows(f"SELECT * FROM {table}") for table in tables]
    base.connection.execute(
        "CREATE TRIGGER full BEFORE UPDATE ON job_logs BEGIN SELECT raise(ABORT, 'disk full'); END"
    )
    base.jobs = base.new_jobs(clock=at(lambda: NOW + 10**12))
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        base.jobs.remove_ended(base.connection, Retention(ended_count=1, history_seconds=1.0), 9)
    assert [base.rows(f"SELECT * FROM {table}") for table in tables] == before


def test_an_age_is_counted_to_the_microsecond(base: Base) -> None:
    """From the end, by the server's clock; an age before 1970 is none."""
    base.apply(report(status=COMPLETED))
    for kind in ("history_seconds", "ended_seconds"):
        for later, expected in ((9_999_999, []), (10_000_000, ["j"])):
            base.jobs = base.new_jobs(clock=at(lambda later=later: NOW + later * 1000))
            retention = Retention(**{kind: 10.0})
            assert base.jobs.remove_ended(base.connection, Retention(**{kind: 1e12}), 9).job_ids == []
            gone = base.jobs.remove_ended(base.connection, retention, 9).job_ids
            assert gone == (expected if kind == "ended_seconds" else [])
            trimmed = base.rows("SELECT count(*) FROM job_transitions") == [(0,)]
            assert trimmed == (bool(expected) or kind == "ended_seconds")


def test_kept_progress_is_written_with_its_batch(base: Base) -> None:
    """By a tick, by several of one job, and by one with more than a tick changes; never told to watchers."""
    base.jobs = base.new_jobs(rules=Rules(keep_progress=True))
    base.apply(report())
    applied = base.jobs.apply(
        base.connection,
        [report(progress=1, time=7), report(progress=0, time=6), report(progress=2, details_json="{}")],
        {"j"},
    )
    assert [change.transitions for change in applied.changes] == [()]
    assert base.rows("SELECT revision, progress, progress_only FROM job_transitions") == [
        (1, 0, 0),
        (2, 2, 1),
    ]


def test_the_jobs_in_memory_are_bounded(base: Base) -> None:
    """Whatever was dropped is read again."""
    base.jobs = base.new_jobs(cache_size=10)
    for number in range(100):
        base.apply(report(f"j{number}", progress=1))
        assert len(base.jobs._cache) <= 10
    base.apply(*[report(f"j{number}", progress=2) for number in range(100)])
    assert len(base.jobs._cache) <= 10
    assert [base.get(f"j{number}").progress for number in range(100)] == [2] * 100
