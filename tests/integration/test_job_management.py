"""ListJobTransitions, RequestCancel, filters of ListJobs, leases and new attempts, against a real server."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest

from emitd.v1 import job_pb2 as jobs
from emitd.v1 import log_service_pb2 as pb
from emitd.v1 import record_pb2 as rec
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobUpdate
from emitd_handlers.record import Level, LogRecord
from support.client.in_process import Running, bad_fields, running, status_details
from support.jobs.backends import BACKENDS, JobBackend, make_backend

QUEUED = rec.JOB_STATE_QUEUED
RUNNING = rec.JOB_STATE_RUNNING
COMPLETED = rec.JOB_STATE_COMPLETED
FAILED = rec.JOB_STATE_FAILED
#: So often that a test need not wait.
OFTEN = 0.1


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> JobBackend:
    return make_backend(request)


@pytest.fixture
async def server(backend: JobBackend) -> AsyncIterator[Running]:
    async with serving(backend) as server:
        yield server


def serving(backend: JobBackend, **settings: Any) -> AbstractAsyncContextManager[Running]:
    return running([backend.make_handler(**settings)])


def record(
    job_id: str = "j", status: rec.JobState = RUNNING, *, record_id: str = "", **fields: Any
) -> rec.LogRecord:
    report = rec.JobStatus(job_id=job_id, job_type="sync", status=status, **fields)
    return rec.LogRecord(record_id=record_id, job=report)


async def report(
    server: Running, job_id: str = "j", status: rec.JobState = RUNNING, **fields: Any
) -> pb.Receipt:
    """Send one report, and return its receipt."""
    response = await server.stub.Emit(pb.EmitRequest(record=record(job_id, status, **fields)))
    return response.receipt


async def batch(
    server: Running, *records: rec.LogRecord, want_receipts: bool = False
) -> pb.EmitBatchResponse:
    return await server.stub.EmitBatch(pb.EmitBatchRequest(records=records, want_receipts=want_receipts))


async def get(server: Running, job_id: str = "j") -> jobs.Job:
    return (await server.stub.GetJob(jobs.GetJobRequest(job_id=job_id))).job


async def cancel(server: Running, job_id: str = "j", reason: str = "") -> jobs.Job:
    response = await server.stub.RequestCancel(jobs.RequestCancelRequest(job_id=job_id, reason=reason))
    return response.job


async def transitions(server: Running, job_id: str = "j", **query: Any) -> jobs.ListJobTransitionsResponse:
    return await server.stub.ListJobTransitions(jobs.ListJobTransitionsRequest(job_id=job_id, **query))


async def ids(server: Running, **query: Any) -> list[str]:
    response = await server.stub.ListJobs(jobs.ListJobsRequest(**query))
    return [job.job_id for job in response.jobs]


def watch(server: Running, job_id: str = "j", **query: Any) -> "grpc.aio.UnaryStreamCall":
    return server.stub.WatchJob(jobs.WatchJobRequest(job_id=job_id, **query))


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, list[str]]:
    """The code that a call fails with, and the fields that it names."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    is_invalid = error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return error.code(), bad_fields(status_details(error)) if is_invalid else []


async def test_a_jobs_history_is_listed(server: Running) -> None:
    """Every change of status of every attempt, with all that is known of it, oldest first."""
    await report(server, status=QUEUED)
    await report(server, progress=7)
    await report(server, progress=8)
    await report(server, status=FAILED, failure_reason="OOM", failure_message="out of memory")
    await report(server, status=RUNNING, new_attempt=True)
    response = await transitions(server)
    assert [(t.revision, t.attempt, t.status, t.progress) for t in response.transitions] == [
        (1, 1, QUEUED, 0),
        (2, 1, RUNNING, 7),
        (4, 1, FAILED, 8),
        (5, 2, RUNNING, 0),
    ]
    failed = response.transitions[2]
    assert (failed.failure_reason, failed.failure_message) == ("OOM", "out of memory")
    assert all(t.time_unix_nano > 0 and not t.progress_only for t in response.transitions)
    assert (response.next_page_token, response.history_truncated) == ("", False)
    assert [t.revision for t in (await transitions(server, after_revision=2)).transitions] == [4, 5]
    assert list((await transitions(server, after_revision=2**64 - 1)).transitions) == []


async def test_a_history_comes_in_pages(server: Running) -> None:
    """Each transition once; a token belongs to its request."""
    for attempt in range(1, 8):
        await report(server, attempt=attempt)
    await report(server, "k", attempt=2)
    seen: list[int] = []
    token = ""
    while not seen or token:
        page = await transitions(server, page_size=3, page_token=token)
        seen += [t.revision for t in page.transitions]
        token = page.next_page_token or ""
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    token = (await transitions(server, page_size=3)).next_page_token
    for query in ({"after_revision": 1}, {"job_id": "k"}):
        call = transitions(server, page_token=token, **query)  # type: ignore[arg-type]
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


async def test_a_malformed_question_about_a_history_is_refused_by_field(server: Running) -> None:
    """INVALID_ARGUMENT; an unknown job is NOT_FOUND."""
    await report(server)
    for query, field in (
        ({"job_id": ""}, "job_id"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "nonsense"}, "page_token"),
    ):
        call = transitions(server, **query)  # type: ignore[arg-type]
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert await refusal(transitions(server, "unknown")) == (grpc.StatusCode.NOT_FOUND, [])


async def test_kept_progress_is_listed_and_never_watched(backend: JobBackend) -> None:
    """`progress_only` tells it apart; a watch counts it as coalesced."""
    async with serving(backend, keep_progress=True) as server:
        for progress in range(3):
            await report(server, progress=progress)
        await report(server, status=COMPLETED)
        listed = [(t.revision, t.progress_only) for t in (await transitions(server)).transitions]
        assert listed == [(1, False), (2, True), (3, True), (4, False)]
        message = await watch(server, after_revision=0).read()
        assert [(t.revision, t.progress_only) for t in message.transitions] == [(1, False), (4, False)]
        assert message.coalesced_count == 2


async def test_a_history_that_was_removed_is_said_to_be(backend: JobBackend) -> None:
    """By the list and by a watch that resumes from before; the job is still there."""
    async with serving(backend) as server:
        await report(server, status=QUEUED)
        await report(server, status=COMPLETED)
    await backend.shift_ends(-100_000)
    async with serving(backend, keep_history_days=1.0) as server:
        async with asyncio.timeout(10):
            while (await transitions(server)).transitions:
                await asyncio.sleep(0.01)
        assert (await transitions(server)).history_truncated
        assert not (await transitions(server, after_revision=2)).history_truncated
        message = await watch(server, after_revision=1).read()
        assert (message.job.status, message.history_truncated) == (COMPLETED, True)
        assert not (await watch(server, after_revision=2).read()).history_truncated


async def test_a_wish_to_cancel_is_answered_with_the_job(server: Running) -> None:
    """It changes no status; asking again changes nothing, nor does asking a job that has ended."""
    await report(server, progress=7)
    job = await cancel(server, reason="too slow")
    assert (job.status, job.progress, job.revision) == (RUNNING, 7, 2)
    assert (job.cancel_requested, job.cancel_reason) == (True, "too slow")
    assert job == await get(server) == await cancel(server, reason="again")
    (listed,) = (await server.stub.ListJobs(jobs.ListJobsRequest())).jobs
    assert listed == job
    assert [t.revision for t in (await transitions(server)).transitions] == [1]
    await report(server, "ended", status=FAILED)
    ended = await cancel(server, "ended")
    assert (ended.ended, ended.cancel_requested, ended.revision) == (True, False, 1)


async def test_a_wish_that_cannot_be_is_refused(server: Running) -> None:
    """NOT_FOUND for an unknown job, INVALID_ARGUMENT for no id or too long a reason, by field."""
    await report(server)
    assert await refusal(cancel(server, "unknown")) == (grpc.StatusCode.NOT_FOUND, [])
    assert await refusal(cancel(server, "")) == (grpc.StatusCode.INVALID_ARGUMENT, ["job_id"])
    longest = "ä" * 128
    invalid = cancel(server, reason=longest + "x")
    assert await refusal(invalid) == (grpc.StatusCode.INVALID_ARGUMENT, ["reason"])
    assert not (await get(server)).cancel_requested
    assert (await cancel(server, reason=longest)).cancel_reason == longest


async def test_every_answer_to_a_worker_carries_the_wish(server: Running) -> None:
    """Receipts, and notices also of reports that were applied; other jobs' reports need no word."""
    assert not (await report(server)).job.cancel_requested
    await report(server, "other")
    await cancel(server)
    receipt = await report(server, progress=1)
    assert (receipt.job.applied, receipt.job.cancel_requested, receipt.job.revision) == (True, True, 3)
    response = await batch(
        server,
        record("other", progress=1),
        record(progress=2),
        record(status=QUEUED),
        want_receipts=True,
    )
    assert [
        (n.index, n.job_id, n.stale_reason, n.current_attempt, n.cancel_requested)
        for n in response.job_notices
    ] == [(1, "j", "", 1, True), (2, "j", "OUT_OF_ORDER", 1, True)]
    assert [r.job.cancel_requested for r in response.receipts] == [False, True, True]
    assert response.accepted_count == 3


async def test_every_message_of_a_watch_carries_the_wish(server: Running) -> None:
    """At once, though no status has changed, and from then on; of one job and of many."""
    await report(server)
    one, many = watch(server), server.stub.WatchJobs(jobs.WatchJobsRequest())
    assert not (await one.read()).job.cancel_requested
    assert not (await many.read()).changes[0].job.cancel_requested
    assert (await many.read()).snapshot_end
    await cancel(server, reason="why")
    message, changes = await one.read(), (await many.read()).changes
    assert (message.job.cancel_requested, message.job.cancel_reason) == (True, "why")
    assert list(message.transitions) == []
    assert [(c.job.cancel_requested, c.job.cancel_reason) for c in changes] == [(True, "why")]
    await report(server, status=COMPLETED)
    message = await one.read()
    assert (message.job.status, message.job.cancel_requested) == (COMPLETED, True)
    assert await one.read() is grpc.aio.EOF
    many.cancel()


async def test_jobs_are_listed_by_labels_and_ids(server: Running) -> None:
    """All filters together; a token belongs to them."""
    await report(server, "a", labels={"team": "x", "env": "prod"})
    await report(server, "b", labels={"team": "x"}, status=QUEUED)
    await report(server, "c", labels={"team": "y"})
    assert await ids(server, labels={"team": "x"}) == ["b", "a"]
    assert await ids(server, labels={"team": "x", "env": "prod"}) == ["a"]
    assert await ids(server, job_ids=["c", "a", "unknown"]) == ["c", "a"]
    assert await ids(server, job_ids=["a", "b"], labels={"team": "x"}, statuses=[QUEUED]) == ["b"]
    assert await ids(server, job_ids=[f"x{number}" for number in range(1000)]) == []
    page = await server.stub.ListJobs(jobs.ListJobsRequest(labels={"team": "x"}, page_size=1))
    rest = {"labels": {"team": "x"}, "page_token": page.next_page_token}
    assert await ids(server, **rest) == ["a"]
    for change in ({"labels": {"team": "y"}}, {"labels": {}}, {"job_ids": ["a"]}):
        call = ids(server, **(rest | change))
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


async def test_malformed_filters_are_refused_by_field(server: Running) -> None:
    """An empty id, and too many of them."""
    for query, field in (
        ({"job_ids": ["a", ""]}, "job_ids[1]"),
        ({"job_ids": [f"x{number}" for number in range(1001)]}, "job_ids"),
    ):
        call = ids(server, **query)  # type: ignore[arg-type]
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_worker_that_dies_fails_by_lease_and_one_that_reports_does_not(backend: JobBackend) -> None:
    """The watcher is told and its stream ends; who comes late is told why; the next attempt goes on."""
    async with serving(backend, lease_check_seconds=OFTEN) as server:
        await report(server, "dead", progress=30, lease_seconds=1)
        await report(server, "alive", lease_seconds=1)
        call = watch(server, "dead")
        assert (await call.read()).job.lease_expire_time_unix_nano > 0
        reading = asyncio.create_task(call.read())
        while not reading.done():
            await report(server, "alive")
            await asyncio.sleep(OFTEN)
        message = await reading
        assert [(t.revision, t.status, t.failure_reason) for t in message.transitions] == [
            (2, FAILED, "LEASE_EXPIRED")
        ]
        job = message.job
        assert (job.ended, job.progress, job.failure_reason) == (True, 30, "LEASE_EXPIRED")
        assert job.failure_message == "no report came within the lease of 1 s"
        assert (job.lease_expire_time_unix_nano, job.end_time_unix_nano) == (0, job.update_time_unix_nano)
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert job == await get(server, "dead")
        assert (await get(server, "alive")).status == RUNNING

        response = await batch(server, record("dead", progress=99), record("dead", COMPLETED))
        assert [(n.index, n.stale_reason, n.current_attempt) for n in response.job_notices] == [
            (0, "ATTEMPT_ENDED", 1),
            (1, "ATTEMPT_ENDED", 1),
        ]
        receipt = await report(server, "dead", new_attempt=True)
        assert (receipt.job.attempt, receipt.job.applied) == (2, True)
        receipt = await report(server, "dead", status=COMPLETED)
        assert (receipt.job.applied, receipt.job.stale_reason) == (False, "SUPERSEDED")
        job = await get(server, "dead")
        assert (job.status, job.attempt, job.failure_reason) == (RUNNING, 2, "")
        assert job.lease_expire_time_unix_nano == 0


async def test_a_stop_of_the_service_is_not_held_against_a_worker(backend: JobBackend) -> None:
    """Its lease goes on after the restart with what was left of it, also when the stop was much longer."""
    async with serving(backend, lease_check_seconds=OFTEN) as server:
        await report(server, lease_seconds=100)
        before = await get(server)
    await backend.shift_leases(-5000)
    await backend.shift_last_pass(-5000)
    async with serving(backend, lease_check_seconds=OFTEN) as server:
        async with asyncio.timeout(10):
            while (job := await get(server)).lease_expire_time_unix_nano < before.lease_expire_time_unix_nano:
                await asyncio.sleep(0.01)
        assert (job.status, job.revision) == (RUNNING, 1)
        assert (await report(server, progress=1)).job.applied


async def test_a_retry_of_an_opening_report_opens_nothing_twice(backend: JobBackend) -> None:
    """While the service remembers it, and after a restart; also once a later attempt has been opened."""
    second = {"new_attempt": True, "record_id": "second"}
    async with serving(backend) as server:
        await report(server, record_id="first", new_attempt=True)
        opened = await report(server, **second)
        assert (opened.job.attempt, opened.job.revision, opened.duplicate) == (2, 2, False)
    for turn in range(2):
        async with serving(backend) as server:
            if turn:
                await report(server, new_attempt=True, record_id="third")
            for _ in range(2):
                again = await report(server, **second)
                assert again.duplicate
                assert again.job == opened.job
            response = await batch(server, record(**second))
            assert (response.accepted_count, response.duplicate_count) == (0, 1)
            assert (await get(server)).attempt == 2 + turn


class ReadOnlyJobs(BaseLogHandler):
    """A third party's JobSource that offers no more than that."""

    default_levels = frozenset({Level.JOB_STATUS})

    async def emit(self, record: LogRecord) -> None:
        """Take it."""

    async def get(self, job_id: str) -> Job | None:
        return None

    async def list(self, query: JobQuery) -> JobPage:
        return JobPage((), "")

    async def watch(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[JobUpdate | None, None]:
        yield None


async def test_what_a_source_does_not_offer_is_unimplemented() -> None:
    """The other RPCs of jobs are still served from it."""
    async with running([ReadOnlyJobs(name="own")]) as server:
        for call in (
            transitions(server),
            cancel(server),
            server.stub.WatchJobs(jobs.WatchJobsRequest()).read(),
        ):
            assert (await refusal(call))[0] is grpc.StatusCode.UNIMPLEMENTED
        assert await ids(server) == []
