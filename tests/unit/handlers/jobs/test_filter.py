"""JobFilter: ListJobs, WatchJobs and `matches` mean the same by it."""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.jobs.source import Job, JobFilter, JobPage, JobQuery
from emitd_handlers.jobs.sqlite.schema import migrate
from emitd_handlers.jobs.sqlite.writer import SqliteJobs
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.watch.filtered import FilteredWatch
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord
from support.jobs.sqlite_queries import list_jobs

#: Few, so that filters and jobs often agree; some look like parts of JSON, SQL or JSON paths.
WORDS = ("a", "A", "ä", "", '"', "'", "\\", "$.a", "a.b", "%", "1", "null", "\n", "\0", "a\0b", "😀")
words = st.sampled_from(WORDS) | st.text(max_size=3)
ids = st.sampled_from([word for word in WORDS if word]) | st.text(min_size=1, max_size=3)
labels = st.dictionaries(words, words, max_size=3)
reports = st.lists(
    st.builds(JobStatus, ids, words, st.sampled_from(JobState), labels=labels, attempt=st.integers(0, 3)),
    max_size=12,
)
filters = st.builds(
    JobFilter,
    job_type=words,
    statuses=st.lists(st.sampled_from(JobState), max_size=3).map(tuple),
    job_ids=st.lists(ids, max_size=4).map(tuple),
    labels=labels,
)


class Base:
    """Jobs in an SQLite database in memory, and a filtered_watch over it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.jobs = SqliteJobs(cache_size=100)
        self.filtered_watch = FilteredWatch(self.list)
        self.times = count(10**18, 1000)

    def apply(self, statuses: Sequence[JobStatus]) -> Sequence[JobHistory]:
        """Apply reports in one transaction and return what they did."""
        records = [
            LogRecord(Level.JOB_STATUS, time_unix_nano=now, received_unix_nano=now, payload=status)
            for status, now in zip(statuses, self.times, strict=False)
        ]
        return self.jobs.apply(self.connection, records, {status.job_id for status in statuses}).changes

    async def list(self, query: JobQuery) -> JobPage:
        return list_jobs(self.connection, query)

    def listed(self, job_filter: JobFilter) -> dict[str, Job]:
        """All jobs that match, page by page."""
        found: dict[str, Job] = {}
        token = ""
        while True:
            query = JobQuery(
                job_type=job_filter.job_type,
                statuses=job_filter.statuses,
                job_ids=job_filter.job_ids,
                labels=job_filter.labels,
                page_size=3,
                page_token=token,
            )
            page = list_jobs(self.connection, query)
            found |= {job.job_id: job for job in page.jobs}
            token = page.next_page_token
            if not token:
                return found


@contextmanager
def new_base() -> Iterator[Base]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        yield Base(connection)


@given(reports, filters)
def test_a_list_has_what_matches(before: list[JobStatus], job_filter: JobFilter) -> None:
    """The database's conditions and `matches` choose the same jobs, whatever the texts are."""
    with new_base() as base:
        base.apply(before)
        every = base.listed(JobFilter())
        assert base.listed(job_filter) == {
            job_id: job for job_id, job in every.items() if job_filter.matches(job)
        }


@given(reports, st.lists(reports, max_size=4), filters, st.data())
def test_a_watch_knows_what_a_list_has(
    before: list[JobStatus], changes: list[list[JobStatus]], job_filter: JobFilter, data: st.DataObject
) -> None:
    """Whoever watches, and merges what is told, has at every pause what ListJobs has with the same filter."""
    with new_base() as base:
        base.apply(before)
        asyncio.run(_watch(base, changes, job_filter, data))


async def _watch(
    base: Base, changes: list[list[JobStatus]], job_filter: JobFilter, data: st.DataObject
) -> None:
    known: dict[str, Job] = {}
    parts = base.filtered_watch.watch(job_filter, max_jobs=100, idle_seconds=0.0)
    async with aclosing(parts):
        while part := await anext(parts):
            known |= {change.job_id: change.job for change in part if change.job is not None}
        for statuses in changes:
            for history in base.apply(statuses):
                base.filtered_watch.publish(history.job)
            if data.draw(st.booleans(), label="reads"):
                while part := await anext(parts):
                    for change in part:
                        if change.left_filter:
                            del known[change.job_id]
                        else:
                            assert change.job is not None
                            known[change.job_id] = change.job
                assert known == base.listed(job_filter)


@pytest.mark.parametrize(
    ("job_filter", "expected"),
    [
        (JobFilter(), True),
        (JobFilter(job_type="sync"), True),
        (JobFilter(job_type="syn"), False),
        (JobFilter(statuses=(JobState.QUEUED, JobState.RUNNING)), True),
        (JobFilter(statuses=(JobState.QUEUED,)), False),
        (JobFilter(job_ids=("x", "j")), True),
        (JobFilter(job_ids=("x",)), False),
        (JobFilter(labels={"team": "a"}), True),
        (JobFilter(labels={"team": "a", "host": "h"}), True),
        (JobFilter(labels={"team": "b"}), False),
        (JobFilter(labels={"team": "a", "zone": ""}), False),
        (
            JobFilter(job_type="sync", statuses=(JobState.RUNNING,), job_ids=("j",), labels={"host": "h"}),
            True,
        ),
        (
            JobFilter(job_type="sync", statuses=(JobState.RUNNING,), job_ids=("j",), labels={"host": "x"}),
            False,
        ),
    ],
)
def test_a_job_matches_in_every_respect_or_not_at_all(job_filter: JobFilter, expected: bool) -> None:
    """What is left out matches anything; of several labels a job must have all."""
    job = Job(job_id="j", job_type="sync", status=JobState.RUNNING, labels={"team": "a", "host": "h"})
    assert job_filter.matches(job) is expected
