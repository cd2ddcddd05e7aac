"""WatchJobs against a real server: what a dashboard is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd.v1 import job_pb2 as jobs
from emitd.v1 import log_service_pb2 as pb
from emitd.v1 import record_pb2 as rec
from emitd_server.settings import ServerSettings, WatchSettings
from support.client.in_process import Running, bad_fields, in_memory, running, status_details, three_handlers

QUEUED, RUNNING, COMPLETED = rec.JOB_STATE_QUEUED, rec.JOB_STATE_RUNNING, rec.JOB_STATE_COMPLETED

#: Job, revision, and whether it left.
Told = tuple[str, int, bool]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(three_handlers(tmp_path)) as server:
        yield server


def settings(**watch: Any) -> ServerSettings:
    return ServerSettings(listen="127.0.0.1:0", watch=WatchSettings(**watch))


async def report(server: Running, job_id: str, status: rec.JobState = RUNNING, **fields: Any) -> None:
    job = rec.JobStatus(job_id=job_id, **{"job_type": "sync", "status": status} | fields)
    await server.stub.Emit(pb.EmitRequest(record=rec.LogRecord(job=job)))


class Board:
    """A reader of WatchJobs: what it knows, merged by (`job_id`, `revision`) over all of its streams."""

    def __init__(self, server: Running, **wanted: Any) -> None:
        self.wanted = wanted
        self.known: dict[str, jobs.Job] = {}
        self.messages: list[jobs.WatchJobsResponse] = []
        self.call = self.open(server)

    def open(self, server: Running) -> "grpc.aio.UnaryStreamCall":
        """Watch, or watch again."""
        self.in_snapshot: set[str] | None = set()
        self.call = server.stub.WatchJobs(jobs.WatchJobsRequest(**self.wanted))
        return self.call

    async def read(self) -> jobs.WatchJobsResponse:
        """The next message, which there must be."""
        async with asyncio.timeout(10):
            message: jobs.WatchJobsResponse = await self.call.read()
        assert message is not grpc.aio.EOF
        self.messages.append(message)
        self.merge(message)
        return message

    def merge(self, message: jobs.WatchJobsResponse) -> None:
        """Take in what a message says."""
        for change in message.changes:
            job = change.job
            if self.in_snapshot is not None:
                self.in_snapshot.add(job.job_id)
            if change.left_filter:
                del self.known[job.job_id]
            elif job.job_id not in self.known or job.revision >= self.known[job.job_id].revision:
                self.known[job.job_id] = job
        if message.snapshot_end:
            assert self.in_snapshot is not None
            for job_id in self.known.keys() - self.in_snapshot:
                del self.known[job_id]
            self.in_snapshot = None

    async def next(self) -> list[Told]:
        """The changes of the next message."""
        return told(await self.read())

    async def snapshot(self) -> list[Told]:
        """All up to the mark."""
        found: list[Told] = []
        while not (message := await self.read()).snapshot_end:
            found += told(message)
        return found

    async def until(self, knows: "set[tuple[str, int]]") -> None:
        """Read until it knows just these jobs, in these revisions."""
        while {(job.job_id, job.revision) for job in self.known.values()} != knows:
            await self.read()

    async def error(self) -> grpc.aio.AioRpcError:
        """What the stream ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while True:
                await self.read()
        return caught.value


def told(message: jobs.WatchJobsResponse) -> list[Told]:
    return [(change.job.job_id, change.job.revision, change.left_filter) for change in message.changes]


async def test_a_snapshot_a_mark_then_changes(server: Running) -> None:
    """The whole state comes each time; the mark is a message of its own."""
    await report(server, "a", progress=5, labels={"team": "x"})
    await report(server, "b")
    board = Board(server)
    assert await board.next() == [("b", 1, False), ("a", 1, False)]
    assert board.known["a"].progress == 5
    assert dict(board.known["a"].labels) == {"team": "x"}
    assert await board.read() == jobs.WatchJobsResponse(snapshot_end=True)
    await report(server, "a", COMPLETED)
    assert await board.next() == [("a", 2, False)]
    assert board.known["a"].ended
    response: jobs.GetJobResponse = await server.stub.GetJob(jobs.GetJobRequest(job_id="a"))
    assert board.known["a"] == response.job


async def test_every_part_of_the_filter_counts(server: Running) -> None:
    """Type, statuses, ids of jobs that do not exist yet, and labels, in the snapshot and after it."""
    wanted = {
        "job_type": "sync",
        "statuses": [RUNNING],
        "job_ids": ["a", "b", "later"],
        "labels": {"team": "x"},
    }
    await report(server, "a", labels={"team": "x", "host": "h"})
    await report(server, "b", labels={"team": "y"})
    await report(server, "c", labels={"team": "x"})
    board = Board(server, **wanted)
    assert await board.snapshot() == [("a", 1, False)]
    await report(server, "c", labels={"team": "x"})
    await report(server, "b", COMPLETED, labels={"team": "x"})
    await report(server, "later", labels={"team": "x"})
    assert await board.next() == [("later", 1, False)]
    listed: jobs.ListJobsResponse = await server.stub.ListJobs(jobs.ListJobsRequest(**wanted))
    assert {job.job_id: job for job in listed.jobs} == board.known


async def test_a_job_that_matches_no_longer_is_marked(server: Running) -> None:
    """It comes once more with its state, and again when it matches again."""
    await report(server, "a")
    board = Board(server, statuses=[RUNNING])
    await board.snapshot()
    await report(server, "a", COMPLETED)
    (change,) = (await board.read()).changes
    assert (change.left_filter, change.job.status) == (True, COMPLETED)
    assert board.known == {}
    await report(server, "a", RUNNING, new_attempt=True)
    assert await board.next() == [("a", 3, False)]
    assert board.known["a"].attempt == 2


async def test_a_job_that_is_removed_is_told_without_a_state(server: Running) -> None:
    """Only id and revision come, with `left_filter`."""
    await report(server, "a", COMPLETED)
    board = Board(server)
    await board.snapshot()
    server.service.managed_jobs._publisher.remove(["a"])  # type: ignore[attr-defined]  # as retention does
    assert await board.read() == jobs.WatchJobsResponse(
        changes=[jobs.JobChange(job=jobs.Job(job_id="a", revision=1), left_filter=True)]
    )


async def test_a_board_that_begins_under_load_misses_nothing(server: Running) -> None:
    """While jobs are created, changed and ended, many boards begin, and all come to know the same as a list."""
    ids = [f"j{number}" for number in range(40)]
    for job_id in ids[:20]:
        await report(server, job_id)

    async def work() -> None:
        for turn in range(6):
            for number, job_id in enumerate(ids):
                status = (QUEUED, RUNNING, COMPLETED)[(turn + number) % 3]
                await report(server, job_id, status, new_attempt=True)

    working = asyncio.create_task(work())
    boards: list[Board] = []
    while not working.done():
        boards.append(Board(server, statuses=[RUNNING], min_interval_ms=1))
        await boards[-1].snapshot()
        await asyncio.sleep(0.02)
    await working
    listed: jobs.ListJobsResponse = await server.stub.ListJobs(jobs.ListJobsRequest(statuses=[RUNNING]))
    expected = {(job.job_id, job.revision) for job in listed.jobs}
    for board in boards:
        await board.until(expected)
    assert len(boards) > 1


async def test_a_slow_reader_gets_the_last_states(server: Running) -> None:
    """A reader that stalls is told each job's newest state, in messages of about 2 MiB."""
    padding = '{"x":"' + "p" * 60_000 + '"}'
    ids = [f"j{number:02}" for number in range(50)]
    board = Board(server, min_interval_ms=1)
    assert await board.snapshot() == []
    for progress in range(4):
        for job_id in ids:
            await report(server, job_id, progress=progress, details_json=padding)
    (reader,) = server.service.managed_jobs._publisher.filtered_watch._readers  # type: ignore[attr-defined]
    assert len(reader._pending) <= len(ids)
    await board.until({(job_id, 4) for job_id in ids})
    sizes = [message.ByteSize() for message in board.messages]
    assert max(sizes) < 2 * 1024 * 1024 + 100_000
    assert sum(len(message.changes) for message in board.messages) < 200


async def test_progress_is_paced_and_a_change_of_status_is_not(server: Running) -> None:
    """With a long interval only what changes a status comes, and takes the newest progress along."""
    await report(server, "a")
    await report(server, "b")
    board = Board(server, min_interval_ms=3_600_000)
    await board.snapshot()
    await report(server, "a", progress=1)
    assert await board.next() == [("a", 2, False)]
    await report(server, "a", progress=2)
    await report(server, "a", progress=3)
    await report(server, "b", COMPLETED)
    assert await board.next() == [("a", 4, False), ("b", 2, False)]


async def test_too_many_jobs_are_refused(tmp_path: Path) -> None:
    """INVALID_ARGUMENT says how many may match, at the snapshot and when there come to be more."""
    async with running(three_handlers(tmp_path), settings(max_jobs=2)) as server:
        for job_id in "ab":
            await report(server, job_id)
        board = Board(server)
        await board.snapshot()
        await report(server, "c")
        for error in (await board.error(), await Board(server).error()):
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details() == "more than 2 jobs match: ask for fewer"
        assert len(await Board(server, job_ids=["a", "b", "d"]).snapshot()) == 2


async def test_all_kinds_of_watchers_are_counted_together(tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED beyond `max_watchers`, whichever kind they are of; a place is free when one has left."""
    async with running(three_handlers(tmp_path), settings(max_watchers=2)) as server:
        await report(server, "a")
        board = Board(server)
        await board.snapshot()
        one = server.stub.WatchJob(jobs.WatchJobRequest(job_id="a"))
        await one.read()
        error = await Board(server).error()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "server.watch.max_watchers" in (error.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.WatchJob(jobs.WatchJobRequest(job_id="a")).read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        board.call.cancel()
        for _ in range(200):
            try:
                await Board(server).snapshot()
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
        else:
            pytest.fail("the place of a board that left is not free")


async def test_an_idle_board_gets_heartbeats(tmp_path: Path) -> None:
    """They come after the mark and between changes, and lose none."""
    async with running(three_handlers(tmp_path), settings(heartbeat_seconds=0.05)) as server:
        board = Board(server)
        await board.snapshot()
        for revision in (1, 2):
            assert await board.read() == jobs.WatchJobsResponse(heartbeat=True)
            await report(server, "a")
            await board.until({("a", revision)})


async def test_a_board_goes_on_after_a_restart(tmp_path: Path) -> None:
    """A server that goes down ends the stream with UNAVAILABLE; the next snapshot brings the board up to date."""
    async with running(three_handlers(tmp_path)) as server:
        for job_id in "abc":
            await report(server, job_id)
        board = Board(server, statuses=[RUNNING])
        await board.snapshot()
        await server.server.stop()
        assert (await board.error()).code() is grpc.StatusCode.UNAVAILABLE
    async with running(three_handlers(tmp_path)) as server:
        await report(server, "a", COMPLETED)
        await report(server, "b", progress=50)
        await report(server, "d")
        board.open(server)
        assert {job for job, _, _ in await board.snapshot()} == {"b", "c", "d"}
        assert {(job.job_id, job.revision) for job in board.known.values()} == {("b", 2), ("c", 1), ("d", 1)}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"statuses": [99]}, "statuses[0]"),
        ({"statuses": [RUNNING, 0]}, "statuses[1]"),
        ({"job_ids": ["a", ""]}, "job_ids[1]"),
        ({"job_ids": ["a"] * 1001}, "job_ids"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(
    server: Running, fields: dict[str, Any], field: str
) -> None:
    """INVALID_ARGUMENT names the field, from WatchJobs as from ListJobs; and no watcher is counted."""
    error = await Board(server, **fields).error()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.ListJobs(jobs.ListJobsRequest(**fields))
    for refusal in (error, caught.value):
        assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(status_details(refusal)) == [field]


async def test_without_jobs_there_is_nothing_to_watch() -> None:
    """UNIMPLEMENTED says what to configure."""
    async with running([in_memory()]) as server:
        error = await Board(server).error()
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "database_job" in (error.details() or "")
