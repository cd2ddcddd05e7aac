"""Jobs by the client, over a real service: how a run is reported, lost, cancelled and watched."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd.async_client import AsyncLogClient
from emitd.client import LogClient
from emitd.errors import (
    ClientNotOpen,
    JobNotApplied,
    JobNotFound,
    LeaseLost,
    RecordRejected,
    RequestRejected,
    Unavailable,
)
from emitd.testing import serving
from emitd.v1 import (
    Job,
    JobState,
    ListJobTransitionsRequest,
    LogServiceStub,
    RequestCancelRequest,
    WatchJobResponse,
)
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler
from support.client.in_process import CHANNEL_OPTIONS
from support.processes.own_threads import own_threads
from support.soak.server import free_port

#: News is sent at once, as far as a test can see.
QUICK = {"tick_interval": 0.01, "backoff_initial": 0.01, "backoff_max": 0.02, "spool": "off"}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    database = DatabaseUrl.resolve("sqlite:///jobs.db", tmp_path)
    settings = DatabaseJobHandler.Settings(database=database, lease_check_seconds=0.05)
    with serving([DatabaseJobHandler(settings, name="jobs")]) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[LogClient]:
    with LogClient(address, **QUICK) as client:
        yield client


@pytest.fixture
async def async_client(address: str) -> AsyncIterator[AsyncLogClient]:
    async with AsyncLogClient(address, **QUICK) as client:
        yield client


@pytest.fixture
def stub(address: str) -> Iterator[LogServiceStub]:
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield LogServiceStub(channel)


def until(is_so: Callable[[], object], seconds: float = 10.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.002)


def row(client: LogClient, job_id: str = "j") -> Job:
    job = client.get_job(job_id)
    assert job is not None
    return job


def outcome(job: Job) -> tuple[str, int, str, str]:
    return JobState.Name(job.status)[10:], job.progress, job.failure_reason, job.failure_message


def history(stub: LogServiceStub, job_id: str = "j") -> Sequence[tuple[int, str]]:
    """Each change of status: the attempt, and the status."""
    response = stub.ListJobTransitions(ListJobTransitionsRequest(job_id=job_id))
    return [(change.attempt, JobState.Name(change.status)[10:]) for change in response.transitions]


def note_until_lost(job: Any) -> LeaseLost:
    """Go on working until it is known that it is for nothing."""
    give_up_at, percent = time.monotonic() + 10, 0
    while time.monotonic() < give_up_at:
        try:
            job.progress(percent)
        except LeaseLost as error:
            return error
        percent = (percent + 1) % 100
        time.sleep(0.005)
    raise AssertionError("nobody said so")


class TestRun:
    def test_a_run_is_there_when_its_block_begins_and_completed_at_its_end(self, client: LogClient) -> None:
        """In between its progress and message can be seen."""
        with client.job("j", "sync", total=4, labels={"tenant": "acme"}) as job:
            assert outcome(row(client))[0] == "RUNNING"
            assert job.attempt == row(client).attempt == 1
            job.message("half")
            job.advance(2)
            until(lambda: row(client).progress == 50)
            assert row(client).message == "half"
        assert outcome(row(client)) == ("COMPLETED", 100, "", "")
        assert dict(row(client).labels) == {"tenant": "acme"}

    def test_a_nightly_job_shows_each_of_its_runs(self, client: LogClient, stub: LogServiceStub) -> None:
        """Under one id, the failed one too; each has the next attempt."""
        with pytest.raises(ValueError, match="no space"), client.job("j", "nightly"):
            raise ValueError("no space")
        assert outcome(row(client)) == ("FAILED", 0, "ValueError", "no space")
        with client.job("j", "nightly") as job:
            assert job.attempt == 2
        assert history(stub) == [(1, "RUNNING"), (1, "FAILED"), (2, "RUNNING"), (2, "COMPLETED")]

    def test_a_run_that_was_superseded_before_it_began_is_not_begun(self, client: LogClient) -> None:
        """It was queued, and another run was begun under its id."""
        early = client.job("j", "sync")
        early.queued()
        assert outcome(row(client))[0] == "QUEUED"
        with client.job("j", "sync") as late:
            with pytest.raises(JobNotApplied) as caught:
                early.__enter__()
            assert caught.value.stale_reason == "SUPERSEDED"
            assert not isinstance(caught.value, LeaseLost)
            assert row(client).attempt == late.attempt == 2
        assert outcome(row(client))[0] == "COMPLETED"

    def test_the_lease_is_kept_while_the_code_computes(self, client: LogClient) -> None:
        """For more than two leases, without a call; a lease that nobody keeps runs out meanwhile."""
        left = client.job("left", "sync", lease=1)
        left.__enter__()
        client._engine.events.forget(left._ticker)
        with client.job("j", "sync", lease=1) as job:
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                sum(range(1000))
            assert outcome(row(client))[0] == "RUNNING"
            until(lambda: outcome(row(client, "left"))[::2] == ("FAILED", "LEASE_EXPIRED"))
            job.refuse_if_lost()
        assert outcome(row(client))[0] == "COMPLETED"

    def test_a_run_that_is_superseded_is_told_so_and_changes_nothing(self, client: LogClient) -> None:
        """By the next call after its next report, and at its end."""
        early = client.job("j", "sync")
        with pytest.raises(LeaseLost), early, client.job("j", "sync") as late:
            error = note_until_lost(early)
            assert (error.job_id, error.stale_reason) == ("j", "SUPERSEDED")
            for call in (early.refuse_if_lost, lambda: early.message("x"), lambda: early.details({})):
                with pytest.raises(LeaseLost):
                    call()
            late.progress(7)
            until(lambda: row(client).progress == 7)
        assert outcome(row(client))[0] == "COMPLETED"
        assert row(client).attempt == 2

    def test_an_exception_of_a_lost_run_goes_on(
        self, client: LogClient, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """That its end changed nothing is said on standard error."""
        early = client.job("j", "sync")
        with pytest.raises(ValueError, match="mine"), early:
            with client.job("j", "sync"):
                note_until_lost(early)
            raise ValueError("mine")
        assert "the end of job 'j' could not be reported" in capsys.readouterr().err
        assert outcome(row(client))[0] == "COMPLETED"

    def test_a_wish_to_cancel_reaches_the_reporter(self, client: LogClient, stub: LogServiceStub) -> None:
        """By its heartbeats, with a lease; by its news, without."""
        with client.job("beats", "sync", lease=1) as beats, client.job("news", "sync", total=1000) as news:
            assert not beats.cancel_requested
            for job_id in ("beats", "news"):
                stub.RequestCancel(RequestCancelRequest(job_id=job_id))
            until(lambda: beats.cancel_requested)
            until(lambda: news.advance() or news.cancel_requested)

    def test_threads_that_advance_at_once_lose_no_step(self, client: LogClient) -> None:
        """The end says how far all of them came together."""

        def work(job: Any) -> None:
            for _ in range(250):
                job.advance()

        with pytest.raises(ValueError, match="stop"), client.job("j", "sync", total=4000) as job:
            with ThreadPoolExecutor(8) as threads:
                for _ in range(8):
                    threads.submit(work, job)
            raise ValueError("stop")
        assert outcome(row(client)) == ("FAILED", 50, "ValueError", "stop")

    def test_a_loop_is_a_job(self, client: LogClient) -> None:
        """Each item a step; the end of the loop its end, an early end a failure."""
        for number in client.track(range(8), job_type="loop", job_id="j"):
            if number == 4:
                until(lambda: row(client).progress == 50)
        assert outcome(row(client)) == ("COMPLETED", 100, "", "")
        for number in client.track(range(8), job_type="loop", job_id="j"):
            if number == 2:
                break
        until(lambda: outcome(row(client))[0] == "FAILED")
        assert outcome(row(client))[2:] == ("INCOMPLETE", "left after 2 of 8 items")
        with pytest.raises(ZeroDivisionError):
            for _ in client.track((1 // number for number in (1, 0)), job_type="loop", job_id="j"):
                pass
        assert outcome(row(client))[2] == "ZeroDivisionError"
        assert row(client).attempt == 3

    def test_details_that_the_service_refuses_make_the_job_failed(self, client: LogClient) -> None:
        """With the refusal as its reason, which is raised too."""
        with pytest.raises(RecordRejected), client.job("j", "sync") as job:
            job.details({"text": "x" * 100_000})
        assert outcome(row(client))[::2] == ("FAILED", "RecordRejected")

    @pytest.mark.parametrize(
        ("exception", "found"),
        [
            (SystemExit(), ("COMPLETED", 100, "", "")),
            (SystemExit(0), ("COMPLETED", 100, "", "")),
            (SystemExit(2), ("FAILED", 25, "SystemExit", "2")),
            (SystemExit("no space"), ("FAILED", 25, "SystemExit", "no space")),
            (KeyboardInterrupt(), ("FAILED", 25, "KeyboardInterrupt", "")),
        ],
    )
    def test_a_block_that_exits_well_is_completed(
        self, client: LogClient, exception: BaseException, found: tuple[str, int, str, str]
    ) -> None:
        """The exit goes on; any other code is a failure. By hand as by `with`."""
        with pytest.raises(type(exception)), client.job("j", "sync", total=4) as job:
            job.advance()
            raise exception
        assert outcome(row(client)) == found
        job = client.job("j", "sync", total=4)
        job.__enter__()
        job.advance()
        job.__exit__(type(exception), exception, None)
        assert outcome(row(client)) == found

    def test_progress_that_is_not_known_fails_no_job(self, client: LogClient) -> None:
        """Without a total, and with one that is too small or too large."""
        for total, percent in ((None, 0), (0, 0), (10**20, 0), (1, 100), (4, 75)):
            with client.job("j", "sync", total=total) as job:
                job.advance(5)
                job.advance(-2)
                assert client.flush(10)
                assert outcome(row(client))[:2] == ("RUNNING", percent)
            assert outcome(row(client))[:2] == ("COMPLETED", 100)

    def test_a_job_has_a_lease_unless_it_is_given_none(self, client: LogClient) -> None:
        """A minute from each report on; so the job of a worker that dies ends by itself."""
        for given, seconds in (({}, 60), ({"lease": 7}, 7), ({"lease": None}, None)):
            with client.job("j", "sync", **given), client.track([1], job_type="t", job_id="i", **given):  # type: ignore[arg-type]
                for job in (row(client), row(client, "i")):
                    assert job.lease_expire_time_unix_nano == (
                        0 if seconds is None else job.update_time_unix_nano + seconds * 10**9
                    )


class TestAsyncRun:
    async def test_a_block_that_exits_well_is_completed(self, async_client: AsyncLogClient) -> None:
        """As by the other client."""
        for code, state in ((None, "COMPLETED"), (0, "COMPLETED"), (3, "FAILED")):
            with pytest.raises(SystemExit):
                async with async_client.job("j", "sync"):
                    raise SystemExit(code)
            job = await async_client.get_job("j")
            assert job is not None
            assert outcome(job)[0] == state

    async def test_a_job_has_a_lease_unless_it_is_given_none(self, async_client: AsyncLogClient) -> None:
        """As by the other client."""
        for given, has_lease in (({}, True), ({"lease": None}, False)):
            async with async_client.job("j", "sync", **given):  # type: ignore[arg-type]
                job = await async_client.get_job("j")
                assert job is not None
                assert bool(job.lease_expire_time_unix_nano) == has_lease

    async def test_runs_are_reported_as_by_the_other_client(
        self, async_client: AsyncLogClient, stub: LogServiceStub
    ) -> None:
        """Attempts, progress, the failure and the history."""
        async with async_client.job("j", "nightly", total=2) as job:
            assert job.attempt == 1
            job.advance()
        with pytest.raises(ValueError, match="no space"):
            async with async_client.job("j", "nightly", total=2) as job:
                assert job.attempt == 2
                job.advance()
                raise ValueError("no space")
        job = await async_client.get_job("j")
        assert job is not None
        assert outcome(job) == ("FAILED", 50, "ValueError", "no space")
        assert history(stub) == [(1, "RUNNING"), (1, "COMPLETED"), (2, "RUNNING"), (2, "FAILED")]

    async def test_a_run_is_lost_or_not_begun_where_another_superseded_it(
        self, async_client: AsyncLogClient
    ) -> None:
        """LeaseLost for one that was running, JobNotApplied for one that was only queued."""
        queued, early = async_client.job("j", "sync"), async_client.job("j", "sync")
        await queued.queued()
        with pytest.raises(LeaseLost):
            async with early, async_client.job("j", "sync"):
                assert (await asyncio.to_thread(note_until_lost, early)).stale_reason == "SUPERSEDED"
        with pytest.raises(JobNotApplied, match="SUPERSEDED"):
            await queued.__aenter__()
        job = await async_client.get_job("j")
        assert job is not None
        assert (outcome(job)[0], job.attempt) == ("COMPLETED", 3)

    async def test_the_lease_is_kept_while_the_loop_stands_still(self, async_client: AsyncLogClient) -> None:
        """It is renewed by a thread."""
        async with async_client.job("j", "sync", lease=1) as job:
            time.sleep(1.5)  # noqa: ASYNC251  # that is what it is about
            job.refuse_if_lost()
            found = await async_client.get_job("j")
            assert found is not None
            assert outcome(found)[0] == "RUNNING"

    async def test_a_cancelled_task_ends_its_job(self, async_client: AsyncLogClient) -> None:
        """As FAILED, for that reason."""
        is_inside = asyncio.Event()

        async def work() -> None:
            async with async_client.job("j", "sync"):
                is_inside.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await is_inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        job = await async_client.get_job("j")
        assert job is not None
        assert outcome(job)[::2] == ("FAILED", "CANCELLED")

    async def test_a_loop_is_a_job(self, async_client: AsyncLogClient, stub: LogServiceStub) -> None:
        """A wish to cancel it does not end it by itself."""
        async for number in async_client.track(range(4), job_type="loop", job_id="j", lease=1):
            if number == 1:
                stub.RequestCancel(RequestCancelRequest(job_id="j"))
        assert history(stub) == [(1, "RUNNING"), (1, "COMPLETED")]


def statuses(messages: Sequence[WatchJobResponse]) -> Sequence[str]:
    return [JobState.Name(change.status)[10:] for message in messages for change in message.transitions]


class TestWatch:
    def test_a_watch_tells_every_change_and_ends_by_itself(self, client: LogClient) -> None:
        """Also of a job that did not exist when it began."""
        messages: list[WatchJobResponse] = []
        watching = threading.Thread(
            target=lambda: messages.extend(
                client.watch_job("j", after_revision=0, wait_for_creation=True, min_interval_ms=1)
            )
        )
        watching.start()
        with client.job("j", "sync", total=2) as job:
            job.advance()
            until(lambda: any(message.job.progress == 50 for message in messages))
        watching.join(10)
        assert not watching.is_alive()
        assert statuses(messages) == ["RUNNING", "COMPLETED"]

    def test_the_watch_of_a_job_that_has_ended_tells_its_state(self, client: LogClient) -> None:
        """Once."""
        with client.job("j", "sync"):
            pass
        (message,) = client.watch_job("j")
        assert outcome(message.job)[0] == "COMPLETED"

    def test_an_unknown_job_is_not_found(self, client: LogClient) -> None:
        """And no id is a bad request."""
        with pytest.raises(JobNotFound):
            next(client.watch_job("j"))
        with pytest.raises(RequestRejected) as caught:
            next(client.watch_job(""))
        assert caught.value.field == "job_id"

    def test_a_watch_ends_with_its_client(self, address: str, client: LogClient) -> None:
        """Also where the client did nothing but watch."""
        watcher = LogClient(address, **QUICK)
        told: list[object] = []

        def watch() -> None:
            try:
                for message in watcher.watch_job("j"):
                    told.append(message)
            except Exception as error:
                told.append(type(error))

        with client.job("j", "sync"):
            watching = threading.Thread(target=watch)
            watching.start()
            until(lambda: told)
            watcher.close()
            watching.join(30)
            assert told[1:] == [ClientNotOpen]
        with pytest.raises(ClientNotOpen):
            next(watcher.watch_job("j"))

    @pytest.mark.parametrize("hangs", [False, True])
    def test_without_a_server_a_watch_fails_in_time(self, hangs: bool) -> None:
        """One that refuses connections, and one that takes them and says nothing."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", free_port()))
            if hangs:
                listener.listen()
            with LogClient(f"127.0.0.1:{listener.getsockname()[1]}", timeout=0.3, **QUICK) as client:
                begin = time.monotonic()
                with pytest.raises(Unavailable):
                    next(client.watch_job("j", wait_for_creation=True))
                assert 0.25 < time.monotonic() - begin < 10


class TestAsyncWatch:
    async def test_a_thousand_watches_of_one_client(self, async_client: AsyncLogClient) -> None:
        """Each is told of the end, and ends; and that takes no thread for each."""
        told: list[str] = []

        async def watch() -> None:
            last = ""
            async for message in async_client.watch_job("j", wait_for_creation=True):
                last = outcome(message.job)[0]
            told.append(last)

        with own_threads() as threads:
            tasks = [asyncio.create_task(watch()) for _ in range(1000)]
            async with async_client.job("j", "sync") as job:
                job.progress(50)
                await asyncio.sleep(0.3)
                assert len(threads) < 10
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)
        assert told == ["COMPLETED"] * 1000

    async def test_a_watch_ends_with_its_client(self, address: str) -> None:
        """By ClientNotOpen: its task was not cancelled."""
        client = AsyncLogClient(address, **QUICK)

        async def watch() -> None:
            async for _ in client.watch_job("j", wait_for_creation=True):
                pass

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(ClientNotOpen):
            async with asyncio.timeout(30):
                await watching

    async def test_a_question_ends_with_its_client(self) -> None:
        """Also one to which nobody answers."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", free_port()))
            listener.listen()
            client = AsyncLogClient(f"127.0.0.1:{listener.getsockname()[1]}", timeout=30.0, **QUICK)
            asking = asyncio.create_task(client.get_job("j"))
            await asyncio.sleep(0.1)
            await client.close()
            with pytest.raises(ClientNotOpen):
                async with asyncio.timeout(30):
                    await asking

    async def test_the_watch_of_a_task_that_is_cancelled_is_cancelled(
        self, async_client: AsyncLogClient
    ) -> None:
        """The client is open still."""

        async def watch() -> None:
            async for _ in async_client.watch_job("j", wait_for_creation=True):
                pass

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.1)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    async def test_an_unknown_job_is_not_found(self, async_client: AsyncLogClient) -> None:
        """As by the other client."""
        with pytest.raises(JobNotFound):
            await anext(async_client.watch_job("j"))

    @pytest.mark.parametrize("hangs", [False, True])
    async def test_without_a_server_a_watch_fails_in_time(self, hangs: bool) -> None:
        """As by the other client."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", free_port()))
            if hangs:
                listener.listen()
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            async with AsyncLogClient(address, timeout=0.3, **QUICK) as client:
                begin = time.monotonic()
                with pytest.raises(Unavailable):
                    await anext(client.watch_job("j", wait_for_creation=True))
                assert 0.25 < time.monotonic() - begin < 10
