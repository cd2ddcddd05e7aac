"""`InProcessClient.job` with a lease: how it is kept, how it is lost, and what the reporter learns of its job."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from emitd import AsyncJobReporter, JobNotApplied, RecordRejected, Unavailable, v1
from emitd.errors import LeaseLost
from emitd.jobs import ticker
from emitd.jobs.run_state import JobRunState
from emitd_handlers.errors import RecordInvalid
from emitd_handlers.record import JobStatus, Level
from emitd_server.in_process import ingress as intake
from support.client.in_process import three_handlers
from support.client.in_process_client import Opened, committed_memory, opened, states, until


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(three_handlers(tmp_path, lease_check_seconds=0.05)) as opening:
        yield opening


async def is_lost(job: AsyncJobReporter) -> None:
    """Wait until the reporter knows that it is."""

    def raises() -> bool:
        try:
            job.refuse_if_lost()
        except LeaseLost:
            return True
        return False

    await until(raises)


def reports(app: Opened) -> list[JobStatus]:
    return [record.payload for record in app.memory.records if isinstance(record.payload, JobStatus)]


class TestKept:
    async def test_heartbeats_keep_the_lease_while_the_code_awaits(self, app: Opened) -> None:
        """A job without news lives longer than its lease."""
        async with app.logger.job("j1", "sync", lease=1):
            await asyncio.sleep(1.5)
        assert await states(app.logger, "j1") == ["RUNNING", "COMPLETED"]
        assert app.logger.stats()["sent"] <= 2 + 4  # one each third of a second, and no more

    async def test_a_report_that_cannot_be_made_costs_no_lease(
        self, app: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A fault of its own ends no task: the lease is kept, and later news is sent."""
        make_report, faults = JobRunState.report, iter([MemoryError()])

        def report(run_state: JobRunState, status: v1.JobState, *reasons: str) -> v1.LogRecord:
            if status == v1.JOB_STATE_RUNNING and run_state.attempt and (fault := next(faults, None)):
                raise fault
            return make_report(run_state, status, *reasons)

        async with app.logger.job("j1", "sync", total=2, lease=1) as job:
            monkeypatch.setattr(JobRunState, "report", report)
            job.advance()
            await asyncio.sleep(1.5)
            assert next(faults, None) is None
            job.advance(0.5)
            await asyncio.sleep(0.5)
            state = await app.logger.get_job("j1")
            assert state is not None
            assert state.progress == 75
        assert await states(app.logger, "j1") == ["RUNNING", "COMPLETED"]

    async def test_a_loop_that_is_blocked_costs_no_lease(self, app: Opened) -> None:
        """In process nobody watches over leases meanwhile, and such time does not count."""
        async with app.logger.job("j1", "sync", lease=1):
            await asyncio.sleep(0.1)
            time.sleep(1.5)  # noqa: ASYNC251  # what is tested
            await asyncio.sleep(0.5)
        assert await states(app.logger, "j1") == ["RUNNING", "COMPLETED"]

    async def test_without_a_lease_nothing_is_sent_without_news(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And with one, news counts as a heartbeat."""
        monkeypatch.setattr(ticker, "HEARTBEATS_A_LEASE", 2)  # each second
        async with opened([committed_memory(Level.JOB_STATUS)]) as app:
            async with app.logger.job("j1", "sync", lease=None):
                await asyncio.sleep(1.2)
            assert [report.lease_seconds for report in reports(app)] == [None, None]
            app.memory.records.clear()
            async with app.logger.job("j1", "sync", lease=2) as job:
                for percent in range(4):
                    job.progress(percent)
                    await asyncio.sleep(0.4)
            assert [report.lease_seconds for report in reports(app)] == [2, 2, 2, 2, 2, None]

    async def test_a_lease_is_given_unless_it_is_given_up(self, app: Opened) -> None:
        """A minute, as by the remote clients."""
        async with app.logger.job("j1", "sync"), app.logger.job("j2", "sync", lease=None):
            for job_id, seconds in (("j1", 60), ("j2", 0)):
                job = await app.logger.get_job(job_id)
                assert job is not None
                expected = job.update_time_unix_nano + seconds * 10**9 if seconds else 0
                assert job.lease_expire_time_unix_nano == expected

    async def test_a_lease_outlives_a_failing_handler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After heartbeats that failed the next is sent at once, and each failure is told."""
        monkeypatch.setattr(intake, "RETRY_SECONDS", 0.05)
        monkeypatch.setattr(ticker, "HEARTBEATS_A_LEASE", 10)
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app, app.logger.job("j1", "sync", lease=20):  # a heartbeat each 2 s
            memory.fail_next(2)
            await memory.wait_for(2, timeout_seconds=5.5)  # the second one after the next would be too late
            assert len(memory.batch_sizes) == 4
        assert len([line for line in app.lines if "news of job 'j1' was not taken" in line]) == 2

    async def test_refused_data_does_not_cost_the_lease(
        self, app: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Progress and heartbeats go on without it; the end says that it was refused."""
        with pytest.raises(RecordRejected):
            async with app.logger.job("j1", "sync", lease=1, details={"part": 1}) as job:
                job.details({"all": "x" * 100_000})
                await until(lambda: any("was not taken" in line for line in app.lines))
                job.progress(40)
                await asyncio.sleep(1.5)
                running = await app.logger.get_job("j1")
                assert running is not None
                assert (running.status, running.progress) == (v1.JOB_STATE_RUNNING, 40)
        failed = await app.logger.get_job("j1")
        assert failed is not None
        assert (failed.failure_reason, failed.details_json) == ("RecordRejected", '{"part":1}')
        assert len([line for line in app.lines if "was not taken" in line]) == 1

    async def test_news_refused_for_another_reason_is_told_once(self) -> None:
        """Where no report can be taken, the operator does not read it ten times a second."""
        memory = committed_memory(Level.JOB_STATUS)
        async with opened([memory]) as app, app.logger.job("j1", "sync", total=10) as job:
            memory.fail_next(3, RecordInvalid("job", "told to refuse"))
            before = len(memory.batch_sizes)
            for taken in range(1, 6):
                job.advance()
                while len(memory.batch_sizes) < before + taken:
                    await asyncio.sleep(0.01)
            await until(lambda: reports(app)[-1].progress == 50)
        assert len(app.lines) == 1

    async def test_news_beside_refused_data_is_taken(self, app: Opened) -> None:
        """Progress that was noted together with it does not wait for more news."""
        with pytest.raises(RecordRejected):
            async with app.logger.job("j1", "sync") as job:
                job.progress(40)
                job.details({"all": "x" * 100_000})
                async with aclosing(app.logger.watch_job("j1")) as updates, asyncio.timeout(30):
                    async for update in updates:
                        if update.job.progress == 40:
                            break

    async def test_the_heartbeat_ends_with_the_job(self, app: Opened) -> None:
        """No timer holds the reporter any more."""
        async with app.logger.job("j1", "sync", lease=600) as job:
            pass
        reporter = weakref.ref(job)
        del job
        gc.collect()
        assert reporter() is None

    async def test_a_service_that_has_stopped_is_not_asked_in_a_circle(
        self, app: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job that outlives it tells so for its news and for its end, and not for every heartbeat."""
        monkeypatch.setattr(ticker, "HEARTBEATS_A_LEASE", 20)
        with pytest.raises(Unavailable):
            async with app.logger.job("j1", "sync", lease=1) as job:
                await app.service.stop()
                app.lines.clear()
                job.progress(5)
                await asyncio.sleep(0.3)
                assert len(app.lines) == 1


class TestLost:
    async def test_a_superseded_run_learns_it_by_its_next_report(self, app: Opened) -> None:
        """Its next call raises LeaseLost, and so does the end of its block, which changes nothing."""
        with pytest.raises(LeaseLost) as caught:
            async with app.logger.job("j1", "sync", total=10) as old, app.logger.job("j1", "sync") as new:
                old.advance()
                await is_lost(old)
                with pytest.raises(LeaseLost):
                    old.advance()
                with pytest.raises(LeaseLost):
                    old.message("still here")
                new.progress(5)
        assert caught.value.stale_reason == "SUPERSEDED"
        assert isinstance(caught.value, JobNotApplied)
        assert await states(app.logger, "j1") == ["RUNNING", "RUNNING", "COMPLETED"]

    async def test_a_superseded_run_learns_it_by_a_heartbeat(self, app: Opened) -> None:
        """With a lease also while it has nothing to say."""
        with pytest.raises(LeaseLost, match="SUPERSEDED"):
            async with app.logger.job("j1", "sync", lease=1) as old, app.logger.job("j1", "sync"):
                await is_lost(old)
                sent = app.logger.stats()["sent"]
                await asyncio.sleep(0.8)
                assert app.logger.stats()["sent"] == sent  # it sends no more
        assert app.logger.stats()["sent"] == sent + 1  # the end of the other

    async def test_a_lease_that_ran_out_is_lost(self, app: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
        """The job is FAILED by itself; its reporter gets LeaseLost, and cannot end it as COMPLETED."""
        monkeypatch.setattr(ticker, "HEARTBEATS_A_LEASE", 0.01)  # too late
        with pytest.raises(LeaseLost, match="ATTEMPT_ENDED"):
            async with app.logger.job("j1", "sync", lease=1) as job:
                async for update in app.logger.watch_job("j1"):
                    last = update.job
                assert last.failure_reason == "LEASE_EXPIRED"
                job.progress(50)
                await is_lost(job)
                with pytest.raises(LeaseLost):
                    job.progress(60)
        assert await states(app.logger, "j1") == ["RUNNING", "FAILED"]

    async def test_the_bodys_exception_wins_over_a_lost_lease(self, app: Opened) -> None:
        """The operator is told of the loss, but not if it is what goes on anyway."""
        with pytest.raises(ValueError, match="matters"):
            async with app.logger.job("j1", "sync", total=10) as job:
                async with app.logger.job("j1", "sync"):
                    job.advance()
                    await is_lost(job)
                raise ValueError("matters")
        assert [line for line in app.lines if "end of job 'j1'" in line and "SUPERSEDED" in line]
        app.lines.clear()
        with pytest.raises(LeaseLost):
            async with app.logger.job("j2", "sync", total=10) as job:
                async with app.logger.job("j2", "sync"):
                    job.advance()
                    await is_lost(job)
                job.advance()
        assert app.lines == []


async def test_a_wish_to_cancel_reaches_the_worker(app: Opened) -> None:
    """With a lease soon, also where there is no news."""
    async with app.logger.job("j1", "sync", lease=1) as job:
        assert not job.cancel_requested
        await app.service.managed_jobs.request_cancel("j1", "enough")
        await until(lambda: job.cancel_requested, 2)


async def test_a_lease_that_makes_no_sense_is_named(app: Opened) -> None:
    """Where the job is made."""
    with pytest.raises(ValueError, match=r"lease: 0 is not a number of seconds from 1 to 4294967295"):
        app.logger.job("j1", "sync", lease=0)


async def test_a_queued_job_has_no_lease_yet(app: Opened) -> None:
    """Nobody would renew it: it begins when the job does."""
    job = app.logger.job("j1", "sync", lease=1)
    await job.queued()
    waiting = await app.logger.get_job("j1")
    assert waiting is not None
    assert waiting.lease_expire_time_unix_nano == 0
    async with job:
        running = await app.logger.get_job("j1")
        assert running is not None
        assert running.lease_expire_time_unix_nano > running.update_time_unix_nano
