"""JobMaintenance: passes over the leases and removals, in turn with the reports, whatever the database does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs import handler as handler_module
from emitd_handlers.jobs.handler import MAX_REMOVED, JobMaintenance, Turns
from emitd_handlers.jobs.merge import LEASE_EXPIRED
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobTransition
from emitd_handlers.jobs.store import JobHistory, Removed, Retention
from emitd_handlers.jobs.watch.publisher import ChangePublisher
from emitd_handlers.outcome import JobReceipt
from emitd_handlers.record import JobState
from support.jobs.backends import BACKENDS, JobBackend, get, make_backend, report, running, start

FAILED = JobState.FAILED
#: So often that a test need not wait.
OFTEN = 0.01
KEEP_ALL = Retention()
KEEP_SOME = Retention(ended_count=5)


class Clock:
    """The loop's clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self.ahead = 0.0
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead)


class FakeStore:
    """What maintenance asks of a store; each call is noted, waits for the gate, and fails where told to."""

    def __init__(self) -> None:
        self.passes: list[tuple[float, float]] = []
        self.removals: list[tuple[Retention, int]] = []
        self.reports: list[str] = []
        #: What happened, in order.
        self.log: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.removal_error: Exception | None = None
        #: How many jobs there are to remove.
        self.surplus = 0
        self.changes: Sequence[JobHistory] = ()

    async def end_expired(
        self, interval_seconds: float, waited_seconds: float, interest: object
    ) -> Sequence[JobHistory]:
        self.passes.append((interval_seconds, waited_seconds))
        self.log.append("pass begins")
        await self.gate.wait()
        self.log.append("pass ends")
        if self.error is not None:
            raise self.error
        return self.changes

    async def remove_ended(self, retention: Retention, limit: int) -> Removed:
        self.removals.append((retention, limit))
        if self.removal_error is not None:
            raise self.removal_error
        count = min(limit, self.surplus)
        self.surplus -= count
        return Removed([f"j{number}" for number in range(count)], has_more=count == limit)


class Bench:
    """A running `JobMaintenance` over a fake store."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.turns = Turns()
        self.longest_wait = 0.0
        self.commit_gate = asyncio.Event()
        self.commit_gate.set()
        self.publisher = ChangePublisher(self._load, self._list)
        self.verdicts: list[Exception | None] = []

    def commit(self) -> asyncio.Task[None]:
        """Send reports; they come once the loop has turned."""
        return asyncio.create_task(self.turns.run(self._commit))

    async def _commit(self) -> None:
        self.store.log.append("reports begin")
        await self.commit_gate.wait()
        self.store.log.append("reports end")

    async def _load(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        return None

    async def _list(self, query: JobQuery) -> JobPage:
        return JobPage((), "")

    @asynccontextmanager
    async def running(
        self, retention: Retention = KEEP_ALL, interval: float = OFTEN
    ) -> AsyncIterator[asyncio.Task[None]]:
        maintenance = JobMaintenance(
            self.store,  # type: ignore[arg-type]
            self.turns,
            self.publisher,
            longest_wait=lambda: self.longest_wait,
            lease_check_seconds=interval,
            retention=retention,
            on_pass=self.verdicts.append,
        )
        task = asyncio.create_task(maintenance.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.store.gate.set()
            self.commit_gate.set()
            await self.turns.drain()


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> JobBackend:
    return make_backend(request)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0)


async def test_the_first_pass_is_made_at_once_and_then_one_an_interval(bench: Bench) -> None:
    """With the interval, by which the store tells a gap; nothing was waited for, and nothing is to be removed."""
    async with bench.running(interval=1000.0):
        await until(lambda: bench.verdicts == [None])
        ((interval, waited),) = bench.store.passes
        assert interval == 1000.0
        assert 0 <= waited < 5
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(bench.store.passes) == 1
    async with bench.running():
        await until(lambda: len(bench.store.passes) >= 4)
    assert bench.store.removals == []


async def test_a_pass_waits_behind_the_reports_and_says_how_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins after all that was there before it was asked for, and gives the time since then to the store."""
    clock = Clock(monkeypatch)
    bench.commit_gate.clear()
    first = bench.commit()
    await until(lambda: bench.store.log == ["reports begin"])
    second = bench.commit()
    async with bench.running(interval=1000.0):
        for _ in range(20):
            await asyncio.sleep(0)
        third = bench.commit()
        clock.ahead += 30.0
        bench.commit_gate.set()
        await asyncio.gather(first, second, third)
        assert bench.store.log == [
            *("reports begin", "reports end") * 2,
            *("pass begins", "pass ends"),
            *("reports begin", "reports end"),
        ]
        ((_, waited),) = bench.store.passes
        assert 30.0 <= waited < 60.0


async def test_a_pass_leaves_the_leases_that_a_waiting_report_may_renew(bench: Bench) -> None:
    """Also a report that the service holds back since before the pass was asked for."""
    bench.longest_wait = 7.0
    async with bench.running(interval=1000.0):
        await until(lambda: bench.verdicts == [None])
    assert [waited for _, waited in bench.store.passes] == [7.0]


async def test_reports_wait_for_a_pass_under_way(bench: Bench) -> None:
    """So that no report is merged with a job that the pass is about to end."""
    bench.store.gate.clear()
    async with bench.running(interval=1000.0):
        await until(lambda: bench.store.log == ["pass begins"])
        waiting = bench.commit()
        for _ in range(20):
            await asyncio.sleep(0)
        assert bench.store.log == ["pass begins"]
        bench.store.gate.set()
        await waiting
        assert bench.store.log == ["pass begins", "pass ends", "reports begin", "reports end"]


async def test_what_a_pass_has_done_is_published(bench: Bench) -> None:
    """To whoever watches."""
    job = Job(job_id="j", job_type="t", status=FAILED, revision=2, failure_reason=LEASE_EXPIRED)
    watch = bench.publisher.broadcaster.watch("j")
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    bench.store.changes = [JobHistory(job, [JobTransition(2, 1, FAILED, 0, 5)], 1)]
    async with bench.running():
        update = await asyncio.wait_for(waiting, 10)
    assert update is not None
    assert update.job is job
    await watch.aclose()


@pytest.mark.parametrize("error", [HandlerUnavailable("gone"), ValueError("a bug")], ids=repr)
async def test_a_pass_that_fails_is_told_and_tried_again(bench: Bench, error: Exception) -> None:
    """Whatever it raises; the next one that goes well is told too."""
    bench.store.error = error
    async with bench.running():
        await until(lambda: len(bench.verdicts) >= 2)
        assert {*bench.verdicts} == {error}
        bench.store.error = None
        await until(lambda: bench.verdicts[-1] is None)


async def test_a_slow_pass_does_not_let_the_next_ones_pile_up(bench: Bench) -> None:
    """One at a time, and the next at once when the interval is over."""
    bench.store.gate.clear()
    async with bench.running():
        await until(lambda: len(bench.store.passes) == 1)
        await asyncio.sleep(5 * OFTEN)
        assert len(bench.store.passes) == 1
        bench.store.gate.set()
        await until(lambda: len(bench.store.passes) >= 3)
    assert "".join(text[5] for text in bench.store.log).startswith("bebe")


async def test_the_time_that_a_pass_takes_is_part_of_the_interval(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one that took as long as the interval the next begins at once."""
    clock = Clock(monkeypatch)
    bench.store.gate.clear()
    async with bench.running(interval=1000.0):
        await until(lambda: len(bench.store.passes) == 1)
        clock.ahead += 1000.0
        bench.store.gate.set()
        await until(lambda: len(bench.store.passes) == 2)


async def test_what_is_not_kept_is_removed_part_by_part(bench: Bench) -> None:
    """Right after the first pass, as long as there is a full part; and then not again for a minute."""
    bench.store.surplus = 2 * MAX_REMOVED + 7
    async with bench.running(KEEP_SOME):
        await until(lambda: len(bench.verdicts) >= 5)
    assert bench.store.removals == [(KEEP_SOME, MAX_REMOVED)] * 3
    assert bench.store.surplus == 0


async def test_reports_come_in_between_two_parts(bench: Bench) -> None:
    """A large removal delays them by one part."""
    bench.store.surplus = 10 * MAX_REMOVED
    sent: list[asyncio.Task[None]] = []
    counts: list[int] = []
    remove = bench.store.remove_ended

    async def send() -> None:
        counts.append(len(bench.store.removals))

    async def remove_and_send(retention: Retention, limit: int) -> Sequence[str]:
        if not sent:
            sent.append(asyncio.create_task(bench.turns.run(send)))
        return await remove(retention, limit)

    bench.store.remove_ended = remove_and_send  # type: ignore[method-assign]
    async with bench.running(KEEP_SOME):
        await until(lambda: bench.verdicts != [])
    assert counts == [1]


async def test_removals_come_once_a_minute(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the leases are looked at."""
    monkeypatch.setattr(handler_module, "RETENTION_SECONDS", 0.1)
    async with bench.running(KEEP_SOME):
        await until(lambda: len(bench.store.removals) >= 3)
    assert len(bench.store.passes) > 3


async def test_a_removal_that_fails_is_told_and_tried_again_with_the_next_pass(bench: Bench) -> None:
    """Not only after a minute."""
    error = bench.store.removal_error = HandlerUnavailable("gone")
    async with bench.running(KEEP_SOME):
        await until(lambda: bench.verdicts[:2] == [error, error])
        bench.store.removal_error = None
        await until(lambda: bench.verdicts[-1] is None)
        count = len(bench.store.removals)
        await until(lambda: len(bench.verdicts) >= count + 3)
        assert len(bench.store.removals) == count


async def test_who_watches_many_jobs_is_told_of_removals(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their ids, part by part."""
    removed: list[str] = []
    monkeypatch.setattr(bench.publisher.filtered_watch, "remove", removed.extend)
    bench.store.surplus = 3
    async with bench.running(KEEP_SOME):
        await until(lambda: bench.verdicts != [])
    assert removed == ["j0", "j1", "j2"]


async def test_it_can_be_cancelled_while_a_pass_is_under_way(bench: Bench) -> None:
    """At once; the pass goes on to its end, which `drain` waits for."""
    bench.store.gate.clear()
    async with bench.running() as task:
        await until(lambda: bench.store.log == ["pass begins"])
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        draining = asyncio.create_task(bench.turns.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        bench.store.gate.set()
        await draining
        assert bench.store.log == ["pass begins", "pass ends"]


async def test_a_pass_that_has_not_begun_when_it_is_cancelled_never_does(bench: Bench) -> None:
    """It waits behind reports, and the handler stops."""
    bench.commit_gate.clear()
    waiting = bench.commit()
    async with bench.running() as task:
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        bench.commit_gate.set()
        await waiting
        await bench.turns.drain()
    assert bench.store.passes == []


async def test_a_database_that_fails_is_told_by_health_until_it_is_back(backend: JobBackend) -> None:
    """Without a report: each pass over an open lease tries."""
    changes: list[str] = []
    handler = backend.make_handler(lease_check_seconds=OFTEN)
    handler.add_health_listener(lambda: changes.append(handler.health_problem))
    async with running(handler):
        await handler.emit(report(lease_seconds=600))
        assert handler.health_problem == ""
        await backend.fail_passes()
        async with asyncio.timeout(10):
            while not handler.health_problem:
                await asyncio.sleep(OFTEN)
        assert "told to fail" in handler.health_problem
        assert "\n" not in handler.health_problem
        await backend.mend_passes()
        async with asyncio.timeout(10):
            while handler.health_problem:
                await asyncio.sleep(OFTEN)
    assert len(changes) == 2
    assert changes[1] == ""


async def test_a_bug_in_a_pass_is_told_by_health_and_ends_nothing(
    backend: JobBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases that nobody looks at any more must not go unnoticed."""
    handler = backend.make_handler(lease_check_seconds=OFTEN)
    async with running(handler):
        assert handler._store is not None
        with monkeypatch.context() as patch:
            patch.setattr(handler._store, "end_expired", None)
            async with asyncio.timeout(10):
                while not handler.health_problem:
                    await asyncio.sleep(OFTEN)
        assert "its leases cannot be looked at: TypeError" in handler.health_problem
        async with asyncio.timeout(10):
            while handler.health_problem:
                await asyncio.sleep(OFTEN)
        assert await handler.emit(report()) == JobReceipt("j", 1, 1, True)


async def test_a_handler_that_is_stopped_during_a_pass_waits_for_it(
    backend: JobBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job that it ends has ended; no task is left, and it can be started again."""
    tasks = asyncio.all_tasks()
    handler = backend.make_handler(lease_check_seconds=OFTEN)
    await start(handler)
    await handler.emit(report(lease_seconds=1))
    store = handler._store
    assert store is not None
    begun, gate, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    end_expired = store.end_expired

    async def wait_and_end(interval: float, waited: float, interest: object) -> Sequence[JobHistory]:
        begun.set()
        await gate.wait()
        await backend.shift_leases(-2)
        changes = await end_expired(interval, waited, interest)  # type: ignore[arg-type]
        done.set()
        return changes

    monkeypatch.setattr(store, "end_expired", wait_and_end)
    await begun.wait()
    stopping = asyncio.create_task(handler.stop())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not stopping.done()
    gate.set()
    await stopping
    assert done.is_set()
    assert asyncio.all_tasks() - tasks == set()
    async with running(handler):
        assert (await get(handler)).failure_reason == LEASE_EXPIRED


async def test_a_handler_that_is_stopped_waits_for_its_own_tasks(backend: JobBackend) -> None:
    """None of them may use the database after it is closed."""
    handler = backend.make_handler()
    await start(handler)
    gate = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await gate.wait()

    task = asyncio.create_task(work())
    handler._tasks.append(task)
    await asyncio.sleep(0)
    stopping = asyncio.create_task(handler.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    gate.set()
    await stopping
    assert task.cancelled()
