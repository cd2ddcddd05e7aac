"""`JobSimulation`: random reports, readers, pauses, failures, kills and restarts, all held against a `JobModel`."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

from emitd_handlers.jobs.handler import SECONDS_A_DAY, DatabaseJobHandler
from emitd_handlers.jobs.source import JobTransition, TransitionQuery
from emitd_server.rpc.open_streams import OpenStreams
from support.jobs.life import Entry, State
from support.jobs.model import JobModel
from support.jobs.random_readers import RandomReaders
from support.jobs.random_reports import JOB_IDS
from support.jobs.senders import JobSenders
from support.jobs.simulated import SimulatedSqlite

__all__ = ["JobSimulation"]

SECOND = 1_000_000_000
#: Longer than any reader takes for a message, or may ask progress to be held back for.
SETTLING_SECONDS = 10.0
#: Turns of the loop in which everything happens that does not wait for time.
MANY_TURNS = 300


class JobSimulation:
    """`step` after `step`; then `finish`. Everything is decided by `random`."""

    def __init__(self, database: SimulatedSqlite, random: Random) -> None:
        self.random = random
        self.database = database
        self.steps = 0
        self.happened: Counter[str] = Counter()
        #: The last things that happened, to be shown with a failure.
        self.log: deque[str] = deque(maxlen=60)
        self._readers = RandomReaders(database.model, random, self._note)
        self._senders = JobSenders(database, random, self._note)
        #: What the handler has said of its health that is none of the failures chosen.
        self._crashes: list[str] = []
        self._handler: DatabaseJobHandler
        self._streams: OpenStreams
        self._retention = {
            "keep_progress": random.random() < 0.5,
            "keep_ended_days": random.choice([None, 20 / SECONDS_A_DAY, 300 / SECONDS_A_DAY]),
            "keep_ended_jobs": random.choice([None, 0, 2]),
            "keep_history_days": random.choice([None, 5 / SECONDS_A_DAY, 100 / SECONDS_A_DAY]),
            "cache_size": random.choice([0, 4, 100]),
        }
        self._steps: Sequence[tuple[float, Callable[[], Awaitable[None]]]] = (
            (45, self._senders.report),
            (2, self._senders.begin_work),
            (10, self._turn),
            (10, self._let_time_pass),
            (14, self._readers.connect_to_job),
            (6, self._readers.connect_to_jobs),
            (9, self._readers.drop_one),
            (10, self._readers.change_pace),
            (3, self._senders.request_cancel),
            (1, self._fail_transactions),
            (0.4, self._set_clock),
            (2, self.settle),
            (0.4, self._restart),
            (0.6, self._kill),
            (0.6, self._save),
            (0.4, self._restore),
        )

    @property
    def model(self) -> JobModel:
        return self.database.model

    async def start(self) -> None:
        self._streams = OpenStreams(stall_seconds=10**9)
        self._handler = handler = self.database.make_handler(**self._retention)
        handler.add_health_listener(lambda: self._on_health_change(handler.health_problem))
        self._senders.handler = handler
        self._readers.serve(handler, self._streams)
        await handler.start()
        self.model.raise_floors()

    async def step(self) -> None:
        """Let one thing happen."""
        self.steps += 1
        weights = [weight for weight, _ in self._steps]
        (chosen,) = self.random.choices([action for _, action in self._steps], weights)
        await chosen()
        self._check()

    async def finish(self) -> None:
        """Settle, let everybody leave, and check that nothing is left."""
        await self.settle()
        await self._stop()

    async def settle(self) -> None:
        """Let everybody read what there is, and check that it is told."""
        self.database.moments.is_calm = True
        for reader in self._readers.all:
            reader.pace = 0.0
            reader.may_read.set()
        while self.database.moments.busy or self._senders.sending:
            await asyncio.sleep(0.01)
        await asyncio.sleep(SETTLING_SECONDS)
        await _turns(MANY_TURNS)
        for reader in self._readers.all:
            reader.check()
            reader.check_all_is_told()
        self.model.raise_floors()
        await self._audit()
        if self.random.random() < 0.5:
            await self._check_transitions_go_out()
        self.database.moments.is_calm = False
        self._note("settled")

    async def _check_transitions_go_out(self) -> None:
        """Report something to each job, and check that whoever reads knows it at once, without any time."""
        for _ in range(self.random.randint(1, 3)):
            for _ in range(3):
                await self._senders.report()
            await _turns(MANY_TURNS)
            for reader in self._readers.all:
                reader.check()
                reader.check_transitions_are_told()
        self._note("transitions are out")

    async def _audit(self) -> None:
        """Check that the database has what the model has."""
        for job_id in JOB_IDS:
            life, job = self.model.life(job_id), await self._handler.get(job_id)
            page = await self._handler.list_transitions(TransitionQuery(job_id=job_id, page_size=10**6))
            if life is None:
                assert job is None
                assert page is None
                continue
            assert job is not None
            assert page is not None
            for name in State.__dataclass_fields__:
                given, expected = getattr(job, name), getattr(life.now, name)
                assert given == expected, f"{job_id} has {name} {given} instead of {expected}"
            kept = [item for item in life.history if item.revision > life.kept_after]
            if not self._retention["keep_progress"]:
                kept = [item for item in kept if not item.progress_only]
            given = [_plain(item) for item in page.transitions]
            wrong, missing = set(given) - set(kept), set(kept) - set(given)
            assert given == kept, f"{job_id} has history {wrong} instead of {missing}"
            assert page.history_truncated == (life.kept_after > 0)

    def _note(self, what: str, detail: object = "") -> None:
        self.happened[what] += 1
        self.log.append(f"{self.database.now() / SECOND % 1e6:.3f} {what} {detail}")

    def _on_health_change(self, problem: str) -> None:
        if problem and "chosen to fail" not in problem:
            self._crashes.append(problem)

    def _check(self) -> None:
        for reader in self._readers.all:
            reader.check()
        self._senders.check()
        assert not self._crashes, self._crashes

    # Time.

    async def _turn(self) -> None:
        await _turns(self.random.choice([1, 2, 3, 10]))

    async def _let_time_pass(self) -> None:
        seconds = self.random.choice([0.001, 0.05, 0.3, 1.0, 3.0, 20.0])
        if self.random.random() < 0.02:
            seconds = 400.0
        self._note("pause", seconds)
        await asyncio.sleep(seconds)

    async def _set_clock(self) -> None:
        """Set the server's clock."""
        seconds = self.random.choice([-30, -1, 1, 30])
        self._note("clock", seconds)
        self.database.clock_offset += seconds * SECOND

    # What goes wrong, and restarts.

    async def _fail_transactions(self) -> None:
        self._note("failing")
        self.database.moments.failing = self.random.randint(1, 3)

    async def _restart(self) -> None:
        """Stop as a server does, stay away for a while, and start."""
        self._note("restart")
        await self._stop()
        await self._stay_away()

    async def _kill(self) -> None:
        """End as a killed process does, in the middle of whatever is under way, and start anew."""
        self._note("kill")
        if self.random.random() < 0.7:
            await self._senders.report()
            await _turns(self.random.randint(0, 12))
        await self._cut_off()
        await self._stay_away()

    async def _save(self) -> None:
        self._note("save")
        self.database.save()

    async def _restore(self) -> None:
        """Put an earlier copy of the database back."""
        if not self.database.has_copy:
            return
        self._note("restore")
        await self._cut_off()
        self.database.restore()
        for reader in self._readers.all:
            reader.forget(self.model)
        await self._stay_away()

    async def _stop(self) -> None:
        self._streams.close()
        for reader in self._readers.all:
            reader.may_read.set()
            await reader.wait()
        await self._handler.stop()
        await self._senders.wait()
        self._check_nothing_is_left()

    async def _cut_off(self) -> None:
        sending = self._senders.cancel()
        await self.database.kill(self._handler)
        for reader in self._readers.all:
            await reader.drop()
        if sending:
            await asyncio.wait(sending)
        self._check_nothing_is_left()

    def _check_nothing_is_left(self) -> None:
        """Once all readers have left, neither a watch nor a task is there any more."""
        assert not self._handler._publisher, "a reader of changes is left"
        assert not self._readers.watches._limit.open
        assert not self._streams.endless
        mine = asyncio.current_task()
        assert [task for task in asyncio.all_tasks() if task is not mine] == []

    async def _stay_away(self) -> None:
        await asyncio.sleep(self.random.choice([0.1, 3.0, 100.0]))
        self.database.moments.failing = 0
        await self.start()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _plain(item: JobTransition) -> tuple[Any, ...]:
    return tuple(getattr(item, name) for name in Entry._fields)
