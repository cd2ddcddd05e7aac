"""Reading jobs from SQLite: one, its history, and pages of many."""

import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from itertools import count

import msgspec
import pytest

from emitd_handlers.clock import Clock
from emitd_handlers.errors import JobQueryInvalid
from emitd_handlers.jobs.source import JobPage, JobQuery, TransitionQuery
from emitd_handlers.jobs.sqlite.schema import migrate
from emitd_handlers.jobs.sqlite.writer import SqliteJobs
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord
from emitd_handlers.room import MAX_PAGE_BYTES
from support.jobs.sqlite_queries import get_job, list_jobs, list_transitions, load_history

QUEUED, RUNNING, COMPLETED, FAILED = JobState
MICROSECOND = 1_000


class Base:
    """Jobs in memory, each report a microsecond after the one before."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        migrate(self.connection)
        self.clock = count(10**18, MICROSECOND)
        self.now = 0
        self.jobs = SqliteJobs(cache_size=100, clock=Clock(lambda: self.now, lambda: self.now))

    def report(
        self, job_id: str, status: JobState = RUNNING, *, details: str = "", job_type: str = "t"
    ) -> None:
        self.now = next(self.clock)
        job = JobStatus(job_id, job_type, status, details_json=details)
        self.jobs.apply(
            self.connection,
            [LogRecord(Level.JOB_STATUS, time_unix_nano=self.now, received_unix_nano=self.now, payload=job)],
        )

    def page(self, **query: object) -> JobPage:
        return list_jobs(self.connection, msgspec.convert(query, JobQuery))

    def ids(self, **query: object) -> list[str]:
        return [job.job_id for job in self.page(**query).jobs]


@pytest.fixture
def base() -> Iterator[Base]:
    base = Base()
    yield base
    base.connection.close()


def test_one_job_is_read(base: Base) -> None:
    """Or None."""
    base.report("j")
    job = get_job(base.connection, "j")
    assert job is not None
    assert (job.job_id, job.create_time_unix_nano, job.update_time_unix_nano) == ("j", 10**18, 10**18)
    assert get_job(base.connection, "unknown") is None


def test_the_history_is_of_one_moment(base: Base) -> None:
    """All transitions after a revision; none where none are asked for, or the revision lies beyond."""
    for status in (QUEUED, RUNNING, RUNNING, COMPLETED):
        base.report("j", status)
    base.report("other")
    for after, expected, complete_after in (
        (None, [], 4),
        (0, [1, 2, 4], 0),
        (2, [4], 2),
        (4, [], 4),
        (9, [], 4),
    ):
        history = load_history(base.connection, "j", after)
        assert history is not None
        assert history.job == get_job(base.connection, "j")
        assert [transition.revision for transition in history.transitions] == expected
        assert history.after_revision == complete_after
    assert load_history(base.connection, "unknown", 0) is None
    assert not base.connection.in_transaction


def test_a_history_that_was_removed_is_complete_from_there_on(base: Base) -> None:
    """Whoever asks from before is told from where; who asks from there or later gets all."""
    for status in (QUEUED, RUNNING, COMPLETED):
        base.report("j", status)
    base.connection.execute("DELETE FROM job_transitions WHERE revision <= 2")
    base.connection.execute("UPDATE job_logs SET history_revision = 2")
    for after, complete_after in ((None, 3), (0, 2), (1, 2), (2, 2), (3, 3), (2**64 - 1, 3)):
        history = load_history(base.connection, "j", after)
        assert history is not None
        assert history.after_revision == complete_after
        assert [item.revision for item in history.transitions] == ([3] if complete_after == 2 else [])


def test_a_reader_leaves_no_transaction_open(base: Base) -> None:
    """Else what is written later would stay out of its sight, also after a query that came to nothing."""
    base.report("j")
    query = TransitionQuery(job_id="unknown")
    assert list_transitions(base.connection, query) is None
    assert not base.connection.in_transaction
    base.connection.execute("UPDATE job_transitions SET status = 'nonsense'")
    with pytest.raises(KeyError):
        load_history(base.connection, "j", 0)
    with pytest.raises(KeyError):
        list_transitions(base.connection, TransitionQuery(job_id="j"))
    assert not base.connection.in_transaction


def test_the_newest_come_first(base: Base) -> None:
    """By creation, then by id, whatever has been reported since."""
    for job_id in ("b", "a", "c"):
        base.report(job_id)
    base.report("b")
    assert base.ids() == ["c", "a", "b"]


def test_filters_narrow_the_list(base: Base) -> None:
    """By type, by several statuses, by time of update, and all together."""
    base.report("a", QUEUED, job_type="x")
    base.report("b", RUNNING, job_type="x")
    base.report("c", COMPLETED, job_type="y")
    moment = base.now
    base.report("d", FAILED, job_type="x")
    base.report("a", RUNNING, job_type="x")
    assert base.ids(job_type="x") == ["d", "b", "a"]
    assert base.ids(statuses=(RUNNING, COMPLETED)) == ["c", "b", "a"]
    assert base.ids(updated_after_unix_nano=moment) == ["d", "a"]
    assert base.ids(updated_after_unix_nano=moment - 1) == ["d", "c", "a"]
    assert base.ids(updated_after_unix_nano=2**64 - 1) == []
    assert base.ids(job_type="x", statuses=(RUNNING,), updated_after_unix_nano=moment) == ["a"]
    assert base.ids(job_type="nothing") == []


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 8, 100])
def test_pages_neither_repeat_nor_hide_a_job_that_nobody_touches(base: Base, page_size: int) -> None:
    """While between any two pages jobs are made, changed and ended."""
    ids = [f"j{number}" for number in range(7)]
    for job_id in ids:
        base.report(job_id)
    seen: list[str] = []
    token = ""
    for turn in range(100):
        page = base.page(page_size=page_size, page_token=token)
        assert len(page.jobs) <= page_size
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
        base.report(f"new{turn}")
        base.report(ids[turn % 7], COMPLETED if turn % 3 == 0 else RUNNING)
    assert seen == ids[::-1]


def test_jobs_of_one_moment_are_told_apart_by_id(base: Base) -> None:
    """A page may end between two jobs that were made in the same microsecond."""
    records = [
        LogRecord(Level.JOB_STATUS, received_unix_nano=10**18, payload=JobStatus(job_id, "t", RUNNING))
        for job_id in ("a", "c", "b", "ä")
    ]
    base.jobs.apply(base.connection, records)
    first = base.page(page_size=2)
    assert [job.job_id for job in first.jobs] == ["ä", "c"]
    assert base.ids(page_token=first.next_page_token) == ["b", "a"]


def test_a_page_of_large_jobs_ends_early(base: Base) -> None:
    """Near 2 MiB as they are sent, with a token for the rest; the last page has none."""
    details = '{"x":"' + "ä" * 30_000 + '"}'
    for number in range(50):
        base.report(f"j{number:02}", details=details)
    first = base.page(page_size=100)
    assert MAX_PAGE_BYTES - 70_000 < len(first.jobs) * (len(details.encode()) + 200) < MAX_PAGE_BYTES
    second = base.page(page_size=100, page_token=first.next_page_token)
    assert len(first.jobs) + len(second.jobs) == 50
    assert second.next_page_token == ""


def test_a_job_larger_than_a_page_has_one_of_its_own(base: Base) -> None:
    """No page is empty, so that a reader always comes further."""
    for job_id in ("a", "b"):
        base.report(job_id, details="x" * (MAX_PAGE_BYTES + 1))
    first = base.page()
    assert [job.job_id for job in first.jobs] == ["b"]
    assert base.ids(page_token=first.next_page_token) == ["a"]


def test_a_token_belongs_to_its_filters(base: Base) -> None:
    """Another page size is another matter; statuses may come in any order."""
    for number in range(4):
        base.report(f"j{number}")
    token = base.page(page_size=1, statuses=(RUNNING, QUEUED)).next_page_token
    assert base.ids(page_size=2, statuses=(QUEUED, RUNNING, QUEUED), page_token=token) == ["j2", "j1"]
    for filters in (
        {},
        {"statuses": (RUNNING,)},
        {"statuses": (RUNNING, QUEUED), "job_type": "t"},
        {"statuses": (RUNNING, QUEUED), "updated_after_unix_nano": 1},
    ):
        with pytest.raises(JobQueryInvalid) as caught:
            base.page(page_token=token, **filters)
        assert caught.value.field == "page_token"
        assert "other filters" in caught.value.problem


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "ünsinn",
        "AAAA",
        "=",
        urlsafe_b64encode(msgspec.msgpack.encode((b"", "", 1))).decode(),
        urlsafe_b64encode(msgspec.msgpack.encode([b"x"])).decode(),
    ],
)
def test_a_made_up_token_is_refused(base: Base, token: str) -> None:
    """By field, whatever is wrong with it."""
    with pytest.raises(JobQueryInvalid) as caught:
        base.page(page_token=token)
    assert caught.value.field == "page_token"


def test_pages_are_read_along_the_index(base: Base) -> None:
    """The newest page of a large table costs no sort."""
    plan = base.connection.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM job_logs WHERE (created_at, job_id) < ('x', 'y') "
        "ORDER BY created_at DESC, job_id DESC LIMIT 100"
    ).fetchall()
    assert "USING INDEX job_logs_by_creation" in plan[0][3]
    assert len(plan) == 1
