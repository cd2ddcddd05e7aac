"""GetJob, ListJobs and WatchJob against a real server."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc
import pytest

from emitd.v1 import job_pb2 as jobs
from emitd.v1 import log_service_pb2 as pb
from emitd.v1 import record_pb2 as rec
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobUpdate
from emitd_handlers.record import JobState, Level, LogRecord
from emitd_server.settings import ServerSettings, WatchSettings
from support.client.in_process import Running, bad_fields, in_memory, running, status_details
from support.jobs.backends import BACKENDS, make_backend

RUNNING = rec.JOB_STATE_RUNNING
COMPLETED = rec.JOB_STATE_COMPLETED
FAILED = rec.JOB_STATE_FAILED


@pytest.fixture(params=BACKENDS)
def handlers(request: pytest.FixtureRequest) -> list[BaseLogHandler]:
    """The handlers of a service, with the jobs in one database or another."""
    return [in_memory(), make_backend(request).make_handler()]


@pytest.fixture
async def server(handlers: list[BaseLogHandler]) -> AsyncIterator[Running]:
    async with running(handlers) as server:
        yield server


async def report(
    server: Running, job_id: str = "j1", status: rec.JobState = RUNNING, **fields: object
) -> None:
    message = str(fields.pop("message", ""))
    status_report = rec.JobStatus(job_id=job_id, job_type="sync", status=status, **fields)  # type: ignore[arg-type]
    await server.stub.Emit(pb.EmitRequest(record=rec.LogRecord(message=message, job=status_report)))


def watch(server: Running, job_id: str = "j1", **fields: object) -> "grpc.aio.UnaryStreamCall":
    return server.stub.WatchJob(jobs.WatchJobRequest(job_id=job_id, **fields))  # type: ignore[arg-type]


async def all_of(call: "grpc.aio.UnaryStreamCall") -> list[jobs.WatchJobResponse]:
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def test_a_job_is_read_as_reported(server: Running) -> None:
    """GetJob gives the merged state with every field."""
    await report(server, progress=10, labels={"team": "a"}, details_json='{"rows":1}', message="copying")
    await report(server, status=FAILED, failure_reason="OOM", failure_message="out of memory")
    response: jobs.GetJobResponse = await server.stub.GetJob(jobs.GetJobRequest(job_id="j1"))
    job = response.job
    assert (job.job_id, job.job_type, job.status, job.ended) == ("j1", "sync", FAILED, True)
    assert (job.progress, job.revision, job.attempt) == (10, 2, 1)
    assert (job.failure_reason, job.failure_message) == ("OOM", "out of memory")
    assert dict(job.labels) == {"team": "a"}
    assert job.details_json == '{"rows":1}'
    assert 0 < job.create_time_unix_nano <= job.update_time_unix_nano


async def test_a_report_without_a_message_keeps_the_jobs(server: Running) -> None:
    """Whatever it says besides, to its end and to the watchers; a new attempt begins without it."""
    await report(server, message="copying")
    call = watch(server)
    seen = [(await call.read()).job.message]
    for fields in ({"progress": 10}, {"details_json": "{}"}, {"lease_seconds": 60}, {"status": FAILED}):
        await report(server, **fields)  # type: ignore[arg-type]
        seen.append((await server.stub.GetJob(jobs.GetJobRequest(job_id="j1"))).job.message)
    seen += [message.job.message for message in await all_of(call)]
    assert set(seen) == {"copying"}
    await report(server, new_attempt=True)
    assert (await server.stub.GetJob(jobs.GetJobRequest(job_id="j1"))).job.message == ""
    await report(server, attempt=2, message="again")
    await report(server, attempt=2, status=COMPLETED)
    assert (await server.stub.GetJob(jobs.GetJobRequest(job_id="j1"))).job.message == "again"


async def test_an_unknown_job_is_not_found(server: Running) -> None:
    """NOT_FOUND from GetJob and WatchJob; an empty id is INVALID_ARGUMENT."""
    for call in (server.stub.GetJob(jobs.GetJobRequest(job_id="x")), all_of(watch(server, "x"))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.GetJob(jobs.GetJobRequest())
    assert bad_fields(status_details(caught.value)) == ["job_id"]


async def test_pages_are_stable_while_jobs_are_written(server: Running) -> None:
    """No untouched job is repeated or hidden, whatever is reported between two pages."""
    for number in range(25):
        await report(server, f"j{number:02}")
    seen: list[str] = []
    token = ""
    for turn in range(100):
        page: jobs.ListJobsResponse = await server.stub.ListJobs(
            jobs.ListJobsRequest(page_size=4, page_token=token)
        )
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
        await report(server, f"new{turn}")
        await report(server, f"j{turn:02}", progress=50)
    assert [job_id for job_id in seen if job_id.startswith("j")] == [f"j{n:02}" for n in reversed(range(25))]


async def test_list_filters(server: Running) -> None:
    """By status and by time of update; a token of other filters, or a made-up one, is refused."""
    for number in range(4):
        await report(server, f"a{number}")
    await report(server, "b", status=COMPLETED)
    response: jobs.ListJobsResponse = await server.stub.ListJobs(jobs.ListJobsRequest(statuses=[COMPLETED]))
    assert [job.job_id for job in response.jobs] == ["b"]
    after = response.jobs[0].update_time_unix_nano
    response = await server.stub.ListJobs(jobs.ListJobsRequest(updated_after_unix_nano=after))
    assert list(response.jobs) == []
    response = await server.stub.ListJobs(jobs.ListJobsRequest(page_size=2))
    for request, field in (
        (jobs.ListJobsRequest(statuses=[RUNNING], page_token=response.next_page_token), "page_token"),
        (jobs.ListJobsRequest(page_token="nonsense"), "page_token"),
        (jobs.ListJobsRequest(page_size=-1), "page_size"),
        (jobs.ListJobsRequest(statuses=[99]), "statuses[0]"),  # type: ignore[list-item]
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.ListJobs(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(status_details(caught.value)) == [field]


async def test_a_watch_brings_the_current_state_then_every_change(server: Running) -> None:
    """The stream ends with OK after the terminal state; transitions are complete and in order."""
    await report(server, status=rec.JOB_STATE_QUEUED)
    call = watch(server)
    first = await call.read()
    assert (first.job.status, first.job.revision) == (rec.JOB_STATE_QUEUED, 1)
    assert list(first.transitions) == []
    await report(server, status=RUNNING)
    second = await call.read()
    assert [(t.revision, t.status) for t in second.transitions] == [(2, RUNNING)]
    await report(server, status=COMPLETED)
    third = await call.read()
    assert [(t.revision, t.status, t.progress) for t in third.transitions] == [(3, COMPLETED, 100)]
    assert third.job.ended
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_watch_of_an_ended_job_ends_at_once(server: Running) -> None:
    """The state comes, and the stream ends."""
    await report(server, status=COMPLETED)
    (message,) = await all_of(watch(server))
    assert message.job.ended


async def test_a_watch_resumes_from_a_revision(server: Running) -> None:
    """`after_revision` brings the transitions missed; 0 brings all; beyond the job says so."""
    await report(server, status=rec.JOB_STATE_QUEUED)
    await report(server, status=RUNNING)
    await report(server, status=RUNNING, progress=5)
    await report(server, status=COMPLETED)
    for after, expected in ((0, [1, 2, 4]), (1, [2, 4]), (4, [])):
        (message,) = await all_of(watch(server, after_revision=after))
        assert [t.revision for t in message.transitions] == expected
        assert not message.history_truncated
    (message,) = await all_of(watch(server, after_revision=9))
    assert message.history_truncated
    assert message.job.revision == 4


async def test_a_watch_waits_for_creation(server: Running) -> None:
    """With `wait_for_creation` the first message comes with the first report."""
    call = watch(server, wait_for_creation=True)
    reading = asyncio.create_task(call.read())
    await asyncio.sleep(0.05)
    assert not reading.done()
    await report(server)
    assert (await reading).job.revision == 1
    call.cancel()


async def test_a_watch_that_follows_sees_the_next_attempt(server: Running) -> None:
    """With `follow` the stream stays after the end."""
    await report(server, status=FAILED)
    call = watch(server, follow=True)
    assert (await call.read()).job.ended
    await report(server, status=RUNNING, new_attempt=True)
    message = await call.read()
    assert (message.job.attempt, message.job.status) == (2, RUNNING)
    call.cancel()


async def test_an_idle_watch_beats(handlers: list[BaseLogHandler]) -> None:
    """Heartbeats carry the current state, and lose no change."""
    settings = ServerSettings(listen="127.0.0.1:0", watch=WatchSettings(heartbeat_seconds=0.05))
    async with running(handlers, settings) as server:
        await report(server)
        call = watch(server)
        await call.read()
        beat = await call.read()
        assert beat.heartbeat
        assert beat.job.job_id == "j1"
        await report(server, status=COMPLETED)
        rest = [message for message in await all_of(call) if not message.heartbeat]
        assert [t.status for m in rest for t in m.transitions] == [COMPLETED]


async def test_a_slow_reader_costs_bounded_memory_and_misses_no_transition(server: Running) -> None:
    """A reader that stalls past 8 MB of messages gets progress coalesced, and each transition once."""
    padding = '{"x":"' + "p" * 60_000 + '"}'
    await report(server, status=rec.JOB_STATE_QUEUED, details_json=padding)
    call = watch(server, min_interval_ms=1)
    first = await call.read()
    revisions = 1
    for attempt in range(1, 5):
        for progress in range(100):
            await report(server, progress=progress, attempt=attempt, details_json=padding)
        revisions += 100
    await report(server, status=COMPLETED, attempt=4)
    revisions += 1
    messages = [first, *await all_of(call)]
    transitions = [t for message in messages for t in message.transitions]
    assert [(t.attempt, t.status) for t in transitions] == [
        (1, RUNNING),
        (2, RUNNING),
        (3, RUNNING),
        (4, RUNNING),
        (4, COMPLETED),
    ]
    told = sum(
        message.coalesced_count + max(1, len(message.transitions))
        for message in messages
        if not message.heartbeat
    )
    assert told >= revisions
    assert sum(message.coalesced_count for message in messages) > 0
    assert messages[-1].job.revision == revisions


async def test_watchers_share_one_serialisation(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each revision is serialised once, whatever the number of watchers."""
    from emitd_server.rpc import job_streams as job_watch

    serialised: list[int] = []
    original = job_watch.update_to_wire

    def counting(update: JobUpdate) -> jobs.WatchJobResponse:
        serialised.append(update.job.revision)
        return original(update)

    monkeypatch.setattr(job_watch, "update_to_wire", counting)
    await report(server)
    calls = [watch(server) for _ in range(20)]
    for call in calls:
        await call.read()
    serialised.clear()
    await report(server, status=COMPLETED)
    for call in calls:
        assert (await call.read()).job.ended
    assert serialised == [2]


async def test_watches_end_when_the_server_goes_down(handlers: list[BaseLogHandler]) -> None:
    """Idle watchers and health watchers get UNAVAILABLE, and the server stops in under 2 s."""
    async with running(handlers) as server:
        await report(server)
        calls = [watch(server) for _ in range(10)]
        for call in calls:
            await call.read()
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await server.server.stop()
        assert loop.time() - begin < 2
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_too_many_watchers_are_refused(handlers: list[BaseLogHandler]) -> None:
    """RESOURCE_EXHAUSTED beyond `max_watchers`; a place is free again when a watcher leaves."""
    settings = ServerSettings(listen="127.0.0.1:0", watch=WatchSettings(max_watchers=1))
    async with running(handlers, settings) as server:
        await report(server)
        first = watch(server)
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(server).read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        for _ in range(100):
            try:
                assert (await watch(server).read()).job.job_id == "j1"
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
        else:
            pytest.fail("the place of a watcher that left is not free")


class OwnJobs(BaseLogHandler):
    """A third party's JobSource, in a few lines: keeps the last state of each job in memory."""

    default_levels = frozenset({Level.JOB_STATUS})

    def __init__(self) -> None:
        super().__init__(name="own")
        self.jobs: dict[str, Job] = {}
        self.changed = asyncio.Condition()

    async def emit(self, record: LogRecord) -> None:
        status = record.payload
        revision = self.jobs[status.job_id].revision + 1 if status.job_id in self.jobs else 1  # type: ignore[union-attr]
        async with self.changed:
            self.jobs[status.job_id] = Job(  # type: ignore[union-attr]
                job_id=status.job_id,  # type: ignore[union-attr]
                job_type=status.job_type,  # type: ignore[union-attr]
                status=status.status,  # type: ignore[union-attr]
                revision=revision,
            )
            self.changed.notify_all()

    async def get(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)

    async def list(self, query: JobQuery) -> JobPage:
        return JobPage(tuple(self.jobs.values()), "")

    async def watch(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[JobUpdate | None, None]:
        seen: Job | None = None
        while True:
            try:
                async with asyncio.timeout(idle_seconds), self.changed:
                    while self.jobs.get(job_id) is seen:
                        await self.changed.wait()
            except TimeoutError:
                yield None
                continue
            seen = self.jobs[job_id]
            yield JobUpdate(seen)


async def test_a_third_partys_jobs_can_be_watched() -> None:
    """Any handler that implements JobSource serves GetJob, ListJobs and WatchJob."""
    async with running([OwnJobs()]) as server:
        await report(server)
        call = watch(server)
        assert (await call.read()).job.status == RUNNING
        await report(server, status=COMPLETED)
        while (await server.stub.GetJob(jobs.GetJobRequest(job_id="j1"))).job.status != COMPLETED:
            await asyncio.sleep(0.01)
        assert [message.job.status for message in await all_of(call)] == [COMPLETED]
        listed = await server.stub.ListJobs(jobs.ListJobsRequest())
        assert [job.status for job in listed.jobs] == [JobState.COMPLETED]


async def test_without_a_job_source_jobs_are_unimplemented() -> None:
    """UNIMPLEMENTED says what to configure."""
    async with running([in_memory()]) as server:
        for call in (server.stub.GetJob(jobs.GetJobRequest(job_id="x")), all_of(watch(server, "x"))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "database_job" in (caught.value.details() or "")
