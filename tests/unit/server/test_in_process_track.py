"""`InProcessClient.track`: a loop that is a job, with `async for`."""

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from emitd import AsyncJobReporter, ClientNotOpen, RecordRejected, v1
from emitd.errors import LeaseLost
from emitd.jobs.track import AsyncTrack
from emitd_server.in_process.client import InProcessClient
from emitd_server.service import LoggingService
from support.client.in_process import three_handlers
from support.client.in_process_client import CONFIG, Opened, opened, states, until


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(three_handlers(tmp_path)) as opening:
        yield opening


async def counting(count: int, error: BaseException | None = None) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number
    if error is not None:
        raise error


async def the_job(logger: InProcessClient) -> v1.Job:
    (job,) = [job async for job in logger.list_jobs()]
    return job


async def ended(logger: InProcessClient, job_id: str = "j1") -> v1.Job:
    """Wait for the end of a job."""
    async with asyncio.timeout(10):
        async for update in logger.watch_job(job_id):
            last = update.job
    return last


class TestLoop:
    async def test_plain_items_are_a_job(self, app: Opened) -> None:
        """One with an id and a percentage that nobody had to give, and a lease that a dead worker loses."""
        seen = []
        async for item in app.logger.track(["a", "b"], job_type="import", labels={"user": "u1"}):
            seen.append(item)
            job = await the_job(app.logger)
            assert (job.status, job.job_type, dict(job.labels)) == (
                v1.JOB_STATE_RUNNING,
                "import",
                {"user": "u1"},
            )
            assert 59e9 < job.lease_expire_time_unix_nano - job.update_time_unix_nano <= 60e9
        job = await the_job(app.logger)
        assert seen == ["a", "b"]
        assert (job.status, job.progress, len(job.job_id)) == (v1.JOB_STATE_COMPLETED, 100, 32)

    async def test_asynchronous_items_are_a_job(self, app: Opened) -> None:
        """Without a `total` there is no percentage before the end."""
        async for _ in app.logger.track(counting(3), job_type="import", job_id="j1", lease=None):
            job = await the_job(app.logger)
            assert (job.progress, job.lease_expire_time_unix_nano) == (0, 0)
        assert await states(app.logger, "j1") == ["RUNNING", "COMPLETED"]

    async def test_a_step_is_done_when_the_next_item_is_asked_for(self, app: Opened) -> None:
        """And its news reaches a watcher although the loop awaits nothing."""
        items = app.logger.track(counting(4), job_type="import", job_id="j1", total=4)
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]

        async def progress() -> int:
            return (await the_job(app.logger)).progress

        async with asyncio.timeout(10):
            while await progress() != 50:
                await asyncio.sleep(0.01)
        await items.aclose()

    async def test_a_loop_over_plain_items_lets_others_run(self, app: Opened) -> None:
        """Between two items, so that progress and heartbeats are sent."""
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        at_item = [turns async for _ in app.logger.track(range(1000), job_type="import")]
        task.cancel()
        assert at_item[-1] - at_item[0] > 500

    async def test_items_that_raise_fail_the_job(self, app: Opened) -> None:
        """FAILED with what they raised, which goes on; the progress stays."""
        with pytest.raises(ValueError, match="row 2 is bad"):
            async for _ in app.logger.track(
                counting(2, ValueError("row 2 is bad")), job_type="import", total=4
            ):
                pass
        job = await the_job(app.logger)
        assert (job.status, job.progress) == (v1.JOB_STATE_FAILED, 50)
        assert (job.failure_reason, job.failure_message) == ("ValueError", "row 2 is bad")

    async def test_a_loop_left_by_break_is_incomplete(self, app: Opened) -> None:
        """FAILED, and how far it was."""
        async for item in app.logger.track(range(10), job_type="import", job_id="j1"):
            if item == 3:
                break
        job = await ended(app.logger)
        assert (job.failure_reason, job.failure_message) == ("INCOMPLETE", "left after 3 of 10 items")

    async def test_a_loop_left_by_an_exception_is_incomplete(self, app: Opened) -> None:
        """From within the loop it looks like a `break`."""
        with pytest.raises(ValueError, match="body"):
            async for item in app.logger.track(counting(10), job_type="import", job_id="j1"):
                if item == 3:
                    raise ValueError("body")
        job = await ended(app.logger)
        assert (job.failure_reason, job.failure_message) == ("INCOMPLETE", "left after 3 items")

    async def test_a_loop_that_is_cancelled_ends_its_job(self, app: Opened) -> None:
        """CANCELLED where it was waiting for an item; in the body it looks like a `break`."""

        async def waiting() -> AsyncIterator[int]:
            yield 0
            await asyncio.sleep(3600)

        async def work(job_id: str, body_seconds: float) -> None:
            async for _ in app.logger.track(waiting(), job_type="import", job_id=job_id):
                await asyncio.sleep(body_seconds)

        tasks = [asyncio.create_task(work("items", 0)), asyncio.create_task(work("body", 3600))]
        await until(lambda: app.logger.stats().get("sent") == 2)
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, True]
        assert (await ended(app.logger, "items")).failure_reason == "CANCELLED"
        assert (await ended(app.logger, "body")).failure_reason == "INCOMPLETE"

    async def test_a_lost_job_ends_the_loop_with_its_next_step(self, app: Opened) -> None:
        """LeaseLost is raised where the next item is asked for, also where there is no percentage."""
        seen = []
        with pytest.raises(LeaseLost, match="SUPERSEDED"):
            async for item in app.logger.track(counting(10), job_type="import", job_id="j1", lease=1):
                seen.append(item)
                async with app.logger.job("j1", "import"):
                    await asyncio.sleep(1)
        assert seen == [0]
        assert await states(app.logger, "j1") == ["RUNNING", "RUNNING", "COMPLETED"]

    async def test_a_job_that_cannot_begin_takes_no_item(self, app: Opened) -> None:
        """The loop raises why."""
        source = iter(range(3))
        with pytest.raises(RecordRejected) as caught:
            async for _ in app.logger.track(source, job_type=""):
                raise AssertionError("never entered")
        assert caught.value.field == "job.job_type"
        assert list(source) == [0, 1, 2]

    async def test_the_reporter_is_at_hand(self, app: Opened) -> None:
        """For messages and data, and to see whether the job is to stop."""
        items = app.logger.track(range(2), job_type="import", job_id="j1")
        async for _ in items:
            items.job.message("half way")
            assert not items.job.cancel_requested
        job = await the_job(app.logger)
        assert (job.message, items.job.job_id) == ("half way", "j1")


class TestBlock:
    async def test_the_block_sees_the_bodys_exception(self, app: Opened) -> None:
        """FAILED with it, also where it comes after the last item."""
        with pytest.raises(ValueError, match="commit"):
            async with app.logger.track(range(2), job_type="import", job_id="j1") as items:
                assert [item async for item in items] == [0, 1]
                raise ValueError("commit")
        job = await the_job(app.logger)
        assert (job.failure_reason, job.progress) == ("ValueError", 100)

    async def test_the_end_of_the_block_is_the_end_of_the_job(self, app: Opened) -> None:
        """COMPLETED where all items were taken, else INCOMPLETE."""
        async with app.logger.track(range(2), job_type="import", job_id="j1") as items:
            _ = [item async for item in items]
            assert (await the_job(app.logger)).status == v1.JOB_STATE_RUNNING
        assert (await the_job(app.logger)).status == v1.JOB_STATE_COMPLETED
        async with app.logger.track(range(2), job_type="import", job_id="j2") as items:
            await anext(items)
        assert (await ended(app.logger, "j2")).failure_message == "left after 0 of 2 items"


class TestClose:
    @pytest.mark.parametrize("is_bound", [False, True])
    async def test_closing_the_client_ends_its_tracks(self, is_bound: bool, app: Opened) -> None:
        """One that somebody holds and has left is not left RUNNING; who still loops over it is told."""
        logger = app.logger.bind(user="u1") if is_bound else app.logger
        items = logger.track(range(10), job_type="import", job_id="j1")
        async for _ in items:
            break
        await app.logger.close()
        job = await app.service.client().get_job("j1")
        assert job is not None
        assert (job.failure_reason, job.failure_message) == ("INCOMPLETE", "left after 0 of 10 items")
        with pytest.raises(ClientNotOpen, match="its track is closed"):
            await anext(items)

    async def test_a_loop_left_just_before_the_end_is_reported(self, tmp_path: Path) -> None:
        """`break` and then the end of the client's block: the report is not lost to the stop of the service."""
        (tmp_path / "emitd.yml").write_text(CONFIG)
        async with InProcessClient.from_config(tmp_path / "emitd.yml") as logger:
            async for _ in logger.track(range(10), job_type="import", job_id="j1"):
                break
        async with InProcessClient.from_config(tmp_path / "emitd.yml") as logger:
            job = await logger.get_job("j1")
        assert job is not None
        assert job.failure_reason == "INCOMPLETE"

    async def test_a_track_forgotten_in_another_thread_ends(self, app: Opened) -> None:
        """Wherever the last who held it lets go."""
        asyncio.get_running_loop().set_debug(True)  # refuses calls from other threads that do not wake it
        held = [app.logger.track(range(10), job_type="import", job_id="j1")]
        await anext(held[0])
        await asyncio.to_thread(held.clear)
        assert (await ended(app.logger)).failure_reason == "INCOMPLETE"

    async def test_the_end_of_a_forgotten_track_is_under_way_at_once(self) -> None:
        """So that a client that is closed with the next statement knows of it."""
        spawned: list[str] = []

        class Job:
            """A reporter that has nowhere to report to."""

            job_id = "j1"

            async def __aenter__(self) -> None:
                pass

            async def __aexit__(self, *failure: object) -> None:
                pass

            def refuse_if_lost(self) -> None:
                pass

        def spawn(work: Coroutine[Any, Any, None], name: str) -> None:
            work.close()
            spawned.append(name)

        items = AsyncTrack(iter([1, 2]), lambda job_id, total: cast("AsyncJobReporter", Job()), spawn)
        await anext(items)
        del items
        assert spawned == ["emitd-track-j1"]

    async def test_a_client_that_closes_after_its_service_does_not_wait(self, tmp_path: Path) -> None:
        """Then there is nobody to report to, and the operator is told so."""
        told: list[str] = []
        service = LoggingService(three_handlers(tmp_path), report=told.append)
        async with service:
            logger = service.client()
            items = logger.track(range(10), job_type="import", job_id="j1")
            await anext(items)
        async with asyncio.timeout(4):  # less than it would wait for a service
            await logger.close()
        assert [line for line in told if "the end of job 'j1' could not be reported" in line]

    async def test_a_closed_track_does_not_begin(self, app: Opened) -> None:
        """And leaves no job; closing twice is fine."""
        items = app.logger.track(range(10), job_type="import")
        await items.aclose()
        await items.aclose()
        with pytest.raises(ClientNotOpen):
            await anext(items)
        assert [job async for job in app.logger.list_jobs()] == []

    async def test_a_track_closed_while_it_begins_ends(self, app: Opened) -> None:
        """The job that has just begun is not left RUNNING."""
        items = app.logger.track(range(10), job_type="import", job_id="j1")
        step = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0)
        await items.aclose()
        with pytest.raises(ClientNotOpen):
            await step
        assert (await ended(app.logger)).failure_reason == "INCOMPLETE"


def test_a_track_may_outlive_its_event_loop(tmp_path: Path) -> None:
    """Its finalizer is silent: nobody is left to send."""
    held: list[AsyncTrack[int]] = []

    async def work() -> None:
        async with LoggingService(three_handlers(tmp_path), report=lambda line: None) as service:
            held.append(service.client().track(range(3), job_type="import"))
            await anext(held[0])

    asyncio.run(work())
    held.clear()
    gc.collect()
