"""`InProcessClient.job`: the runs of jobs made in the process of the service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from emitd import JobNotApplied, RecordRejected, v1
from emitd.records import exceptions as failure
from emitd.runtime.backoff import Backoff
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.record import JobStatus, Level
from emitd_server.in_process import ingress as intake
from support.client.in_process import three_handlers
from support.client.in_process_client import (
    Opened,
    committed_memory,
    opened,
    states,
    until,
)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(three_handlers(tmp_path)) as opening:
        yield opening


class TestJob:
    async def test_a_run_is_reported_from_running_to_completed(self, app: Opened) -> None:
        """Inside the block the job is RUNNING; after it COMPLETED, with what was noted last."""
        async with app.logger.job("j1", "sync", labels={"user": "u1"}, details={"rows": 0}) as job:
            running = await app.logger.get_job("j1")
            assert running is not None
            assert (running.status, running.attempt, running.job_type) == (v1.JOB_STATE_RUNNING, 1, "sync")
            assert (dict(running.labels), running.details_json) == ({"user": "u1"}, '{"rows":0}')
            assert job.attempt == 1
            job.progress(40)
            job.message("nearly there")
            job.details({"rows": 7})
        ended = await app.logger.get_job("j1")
        assert ended is not None
        assert (ended.status, ended.progress, ended.ended) == (v1.JOB_STATE_COMPLETED, 100, True)
        assert (ended.message, ended.details_json, ended.source) == ("nearly there", '{"rows":7}', "shop")
        assert await states(app.logger, "j1") == ["RUNNING", "COMPLETED"]

    async def test_news_is_sent_while_the_job_runs(self, app: Opened) -> None:
        """Progress, message and details reach a watcher without any `await` of the worker."""
        async with (
            app.logger.job("j1", "sync", total=4) as job,
            aclosing(app.logger.watch_job("j1")) as updates,
        ):
            job.advance()
            job.advance(2)
            job.message("step 3")
            job.details({"rows": 3})
            async with asyncio.timeout(10):
                async for update in updates:
                    if update.job.progress == 75 and update.job.message == "step 3":
                        break
            assert update.job.details_json == '{"rows":3}'
            job.progress(80.9)
            async with asyncio.timeout(10):
                async for update in updates:
                    if update.job.progress == 80:
                        break
            assert update.job.message == "step 3"

    async def test_ticks_coalesce(self) -> None:
        """What is noted between two ticks is one report, the latest; the end does not wait for the next tick."""
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app:
            app.logger._settings = msgspec.structs.replace(app.logger.settings, tick_interval=2.0)
            async with app.logger.job("j1", "sync", total=1000) as job:
                for _ in range(990):
                    job.advance()
                    await asyncio.sleep(0)
                await memory.wait_for(2, timeout_seconds=30)
                job.message("last words")
        payloads = [record.payload for record in memory.records]
        assert [p.status.name for p in payloads if isinstance(p, JobStatus)] == [
            "RUNNING",
            "RUNNING",
            "COMPLETED",
        ]
        assert memory.records[-1].message == "last words"

    async def test_a_failure_is_reported_and_goes_on(self, app: Opened) -> None:
        """FAILED carries the exception's type and message and the progress so far; the exception is not swallowed."""
        with pytest.raises(ValueError, match="row 7 is bad"):
            async with app.logger.job("j1", "sync") as job:
                job.progress(40)
                raise ValueError("row 7 is bad")
        failed = await app.logger.get_job("j1")
        assert failed is not None
        assert (failed.status, failed.progress) == (v1.JOB_STATE_FAILED, 40)
        assert (failed.failure_reason, failed.failure_message) == ("ValueError", "row 7 is bad")

    async def test_a_block_that_exits_well_is_completed(self, app: Opened) -> None:
        """The exit goes on; any other code is a failure."""
        for code, state in ((None, "COMPLETED"), (0, "COMPLETED"), ("no space", "FAILED")):
            with pytest.raises(SystemExit):
                async with app.logger.job("j1", "sync") as job:
                    job.advance()  # of no total
                    raise SystemExit(code)
            assert (await states(app.logger, "j1"))[-1] == state

    async def test_a_failure_too_long_for_a_report_is_cut(self, app: Opened) -> None:
        """The report of a failure does not fail for the length of its own message or reason."""
        kind = type("Ä" * 200, (Exception,), {})
        with pytest.raises(kind):
            async with app.logger.job("j1", "sync"):
                raise kind("x" * 1_000_000)
        failed = await app.logger.get_job("j1")
        assert failed is not None
        assert failed.status == v1.JOB_STATE_FAILED
        assert len(failed.failure_message) == failure.MAX_MESSAGE_CHARACTERS

    async def test_a_cancelled_task_is_a_failed_job(self, app: Opened) -> None:
        """CANCELLED is reported, and the task still ends as cancelled."""
        begun = asyncio.Event()

        async def work() -> None:
            async with app.logger.job("j1", "sync"):
                begun.set()
                await asyncio.sleep(3600)

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        failed = await app.logger.get_job("j1")
        assert failed is not None
        assert (failed.status, failed.failure_reason) == (v1.JOB_STATE_FAILED, "CANCELLED")

    async def test_a_task_cancelled_twice_still_reports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last report is tried again although nobody waits for it any more, before the service has stopped."""
        monkeypatch.setattr(intake, "BACKOFF", Backoff(0.2, 2.0))
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app:
            begun = asyncio.Event()

            async def work() -> None:
                async with app.logger.job("j1", "sync"):
                    begun.set()
                    await asyncio.sleep(3600)

            task = asyncio.create_task(work())
            await begun.wait()
            memory.fail_next(1)
            task.cancel()
            await until(lambda: len(memory.batch_sizes) == 2)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        payloads = [record.payload for record in memory.records]
        assert [p.failure_reason for p in payloads if isinstance(p, JobStatus)] == ["", "CANCELLED"]

    async def test_a_task_cancelled_while_it_enters_leaves_no_running_job(self) -> None:
        """RUNNING may be committed after the cancel; then FAILED follows it."""
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app:

            async def work() -> None:
                async with app.logger.job("j1", "sync"):
                    raise AssertionError("never entered")

            memory.hang()
            task = asyncio.create_task(work())
            await until(lambda: len(memory.batch_sizes) == 1)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            memory.release()
        statuses = [
            record.payload.status.name for record in memory.records if isinstance(record.payload, JobStatus)
        ]
        assert statuses == ["RUNNING", "FAILED"]

    async def test_news_from_before_the_beginning_is_sent(self) -> None:
        """What is noted while RUNNING is on its way does not wait for more news."""
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app:
            job = app.logger.job("j1", "sync")
            memory.hang()
            entering = asyncio.create_task(job.__aenter__())
            await until(lambda: len(memory.batch_sizes) == 1)
            job.progress(5)
            memory.release()
            await entering
            await memory.wait_for(2)
            await job.__aexit__(None, None, None)
        reports = [record.payload for record in memory.records]
        assert [report.progress for report in reports if isinstance(report, JobStatus)] == [None, 5, None]

    async def test_each_run_is_an_attempt_of_its_own(self, app: Opened) -> None:
        """A job run twice under one id has both runs in its history."""
        for number in (1, 2):
            async with app.logger.job("nightly", "backup") as job:
                assert job.attempt == number
        assert await states(app.logger, "nightly") == ["RUNNING", "COMPLETED"] * 2

    async def test_a_queued_job_can_be_found_before_it_runs(self, app: Opened) -> None:
        """`queued` opens the attempt; entering goes on in the same one."""
        job = app.logger.job("j1", "sync")
        await job.queued()
        waiting = await app.logger.get_job("j1")
        assert waiting is not None
        assert waiting.status == v1.JOB_STATE_QUEUED
        with pytest.raises(RuntimeError, match="open already"):
            await job.queued()
        async with job:
            assert job.attempt == 1
        assert await states(app.logger, "j1") == ["QUEUED", "RUNNING", "COMPLETED"]

    async def test_a_superseded_worker_is_told_at_its_end(self, app: Opened) -> None:
        """Where somebody opened a newer attempt meanwhile, COMPLETED is not applied, and says so."""
        with pytest.raises(JobNotApplied) as caught:
            async with app.logger.job("j1", "sync"), app.logger.job("j1", "sync"):
                pass
        assert caught.value.stale_reason == "SUPERSEDED"

    async def test_a_job_that_cannot_begin_is_not_entered(self, app: Opened) -> None:
        """The refusal of RUNNING names the field; the block does not run."""
        with pytest.raises(RecordRejected) as caught:
            async with app.logger.job("", "sync"):
                raise AssertionError("never entered")
        assert caught.value.field == "job.job_id"

    async def test_the_bodys_exception_wins_over_the_reports(self) -> None:
        """If FAILED cannot be reported, the operator is told, and the caller gets the exception that matters."""
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app:
            with pytest.raises(ValueError, match="matters"):
                async with app.logger.job("j1", "sync"):
                    memory.fail_next(1, RecordInvalid("job", "told to refuse"))
                    raise ValueError("matters")
            with pytest.raises(RecordRejected, match="told to refuse"):
                async with app.logger.job("j2", "sync"):
                    memory.fail_next(1, RecordInvalid("job", "told to refuse"))
        assert any("end of job 'j1'" in line and "told to refuse" in line for line in app.lines)

    async def test_steps_may_be_counted_in_a_thread(self, app: Opened) -> None:
        """The plain calls of a reporter are safe from any thread, and none is lost."""
        asyncio.get_running_loop().set_debug(True)  # as above
        async with app.logger.job("j1", "sync", total=8000) as job:

            def work() -> None:
                for _ in range(1000):
                    job.advance()

            await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
            async with aclosing(app.logger.watch_job("j1")) as updates, asyncio.timeout(10):
                async for update in updates:
                    if update.job.progress == 50:
                        break

    async def test_misuse_is_named(self, app: Opened) -> None:
        """What only a bug can cause raises where the bug is."""
        job = app.logger.job("j1", "sync")
        with pytest.raises(ValueError, match="101 is not from 0 to 100"):
            job.progress(101)
        with pytest.raises(TypeError, match=r"details\['x'\]"):
            job.details({"x": object()})
        with pytest.raises(ValueError, match="total: NaN"):
            app.logger.job("j1", "sync", total=float("nan"))
        async with job:
            pass
        with pytest.raises(RuntimeError, match="for one run"):
            async with job:
                pass
