"""HandlerContract finds a handler that breaks a promise: each class here breaks one."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, RecentCommit, Refused
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import HandlerContract, InMemoryHandler, make_record


class Good(InMemoryHandler):
    """Keeps every promise."""


class OpensInConstructor(InMemoryHandler):
    """Opens a file before it is started."""

    def __init__(self, settings: HandlerSettings | None = None, *, name: str = "") -> None:
        super().__init__(settings, name=name)
        self.file = os.fdopen(os.open(os.devnull, os.O_RDONLY))


class ThreadInConstructor(InMemoryHandler):
    """Starts a thread before it is started."""

    def __init__(self, settings: HandlerSettings | None = None, *, name: str = "") -> None:
        super().__init__(settings, name=name)
        self.gate = threading.Event()
        threading.Thread(target=self.gate.wait, daemon=True).start()


class ForgetsItsName(InMemoryHandler):
    """Does not pass its name on."""

    def __init__(self, settings: HandlerSettings | None = None, *, name: str = "") -> None:
        super().__init__(settings)


class ForgetsItsSettings(InMemoryHandler):
    """Does not pass its settings on."""

    def __init__(self, settings: HandlerSettings | None = None, *, name: str = "") -> None:
        super().__init__(HandlerSettings(levels=(Level.INFO,)) if name == "" else None, name=name)


class Fickle(InMemoryHandler):
    """Takes its levels only while nothing came."""

    def can_handle(self, level: Level) -> bool:
        return not self._stopped and super().can_handle(level)


class TakesNothing(InMemoryHandler):
    """Can handle no level at all."""

    def can_handle(self, level: Level) -> bool:
        return False


class Counts(InMemoryHandler):
    """Formats a record another way each time."""

    count = 0

    def format(self, record: LogRecord) -> str:
        self.count += 1
        return str(self.count)


class FormatsToNothing(InMemoryHandler):
    """Formats a record to what is neither text nor bytes nor a row."""

    def format(self, record: LogRecord) -> Any:
        return None


class NeedsStart(InMemoryHandler):
    """Cannot be stopped unless it was started."""

    started = False

    async def start(self) -> None:
        await super().start()
        self.started = True

    async def stop(self) -> None:
        assert self.started, "never started"
        await super().stop()


class StopsOnce(InMemoryHandler):
    """Cannot be stopped twice."""

    async def stop(self) -> None:
        assert not self._stopped, "stopped before"
        await super().stop()


class LeavesATask(InMemoryHandler):
    """Leaves a task behind."""

    async def start(self) -> None:
        await super().start()
        self.task = asyncio.create_task(asyncio.Event().wait())


class LeavesAThread(InMemoryHandler):
    """Leaves a thread behind."""

    async def start(self) -> None:
        await super().start()
        threading.Thread(target=threading.Event().wait, daemon=True, name="left behind").start()


class RefusesErrors(InMemoryHandler):
    """Refuses a level that it says it takes."""

    async def emit(self, record: LogRecord) -> None:
        if record.level is Level.ERROR:
            raise HandlerUnavailable("no errors please")
        await super().emit(record)


class LosesOutcomes(InMemoryHandler):
    """Answers for at most three records."""

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        return (await super().emit_batch(records))[:3]


class MixesReceipts(InMemoryHandler):
    """Gives receipts in the wrong order."""

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        await super().emit_batch(records)
        return [
            Committed(AuditReceipt("log", record.payload.event_id, 0, b""))
            if isinstance(record.payload, AuditEvent)
            else Committed()
            for record in reversed(records)
        ]


class CannotTakeMany(InMemoryHandler):
    """Fails when a batch is large."""

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        if len(records) > 1_000:
            raise HandlerUnavailable("too many at once")
        return await super().emit_batch(records)


class OneAtATime(InMemoryHandler):
    """Fails when two batches are under way."""

    default_delivery = Delivery.COMMITTED
    busy = False

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        assert not self.busy, "two batches at once"
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        return await super().emit_batch(records)


class SinksTheBatch(InMemoryHandler):
    """Refuses a whole batch for one bad record."""

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        if any(record.message == "bad" for record in records):
            return [Refused(RecordInvalid("message", "is bad"))] * len(records)
        return await super().emit_batch(records)


class TakesAnything(InMemoryHandler):
    """Takes the bad record that it was said to refuse."""


class NeverStops(InMemoryHandler):
    """Takes records after its end."""

    async def stop(self) -> None:
        pass


class HangsWhenStopped(InMemoryHandler):
    """Hangs where it should refuse."""

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        if self._stopped:
            await asyncio.Event().wait()
        return await super().emit_batch(records)


class RemembersTooMuch(InMemoryHandler):
    """Tells more recent commits than asked for."""

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        return [RecentCommit("r", "", 0, None)] * (limit + 1)


def _broken_promises(handler_class: Callable[[], BaseLogHandler], bad_record: bool = False) -> list[str]:
    """Run the suite over a handler; return the names of the tests that failed."""

    class Suite(HandlerContract):
        timeout_seconds = 0.5

        def make_handler(self) -> BaseLogHandler:
            return handler_class()

        def make_bad_record(self) -> LogRecord | None:
            return make_record(message="bad") if bad_record else None

    broken = []
    for name in sorted(name for name in dir(Suite) if name.startswith("test_")):
        try:
            getattr(Suite(), name)()
        except SkipTest:
            pass
        except Exception:
            broken.append(name.removeprefix("test_"))
    return broken


def test_a_good_handler_passes() -> None:
    """A handler that keeps its promises passes every test."""
    assert _broken_promises(Good) == []


# What a broken handler opens is left to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("handler_class", "promise"),
    [
        (OpensInConstructor, "its_constructor_does_no_io"),
        (ThreadInConstructor, "its_constructor_does_no_io"),
        (ForgetsItsName, "it_is_built_from_settings_and_a_name"),
        (ForgetsItsSettings, "it_is_built_from_settings_and_a_name"),
        (Fickle, "can_handle_is_stable"),
        (TakesNothing, "can_handle_is_stable"),
        (Counts, "format_is_pure"),
        (FormatsToNothing, "format_is_pure"),
        (NeedsStart, "stop_without_start"),
        (StopsOnce, "stop_twice"),
        (LeavesATask, "stop_leaves_nothing_running"),
        (LeavesAThread, "stop_leaves_nothing_running"),
        (RefusesErrors, "every_level_is_taken"),
        (LosesOutcomes, "outcomes_are_in_order"),
        (MixesReceipts, "outcomes_are_in_order"),
        (CannotTakeMany, "a_large_batch"),
        (OneAtATime, "many_batches"),
        (NeverStops, "after_stop_records_are_refused"),
        (HangsWhenStopped, "after_stop_records_are_refused"),
        (RemembersTooMuch, "recent_commits_keep_to_their_limit"),
    ],
)
def test_a_broken_promise_is_found(handler_class: type[BaseLogHandler], promise: str) -> None:
    """The test named after the promise fails for a handler that breaks it."""
    assert promise in _broken_promises(handler_class)


@pytest.mark.parametrize("handler_class", [SinksTheBatch, TakesAnything])
def test_a_bad_record_that_is_not_refused_alone_is_found(handler_class: type[BaseLogHandler]) -> None:
    """Both a batch sunk by one record and a bad record taken fail the suite."""
    assert _broken_promises(handler_class, bad_record=True) == ["a_bad_record_harms_no_other"]


def test_a_suite_without_a_handler_says_what_to_do() -> None:
    """`make_handler` is the one method that a suite must define."""
    with pytest.raises(TypeError, match="make_handler"):
        HandlerContract().make_handler()


def test_the_tools_need_no_pytest() -> None:
    """`emitd_handlers.testing` can be imported where only emitd is installed."""
    program = "import sys, emitd_handlers.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_suite_runs_without_plugins(tmp_path: Path) -> None:
    """Plain pytest collects and runs the suite, and skips only what has no record to offer."""
    (tmp_path / "test_mine.py").write_text(
        "from emitd_handlers.testing import HandlerContract, InMemoryHandler\n"
        "class TestMine(HandlerContract):\n"
        "    def make_handler(self):\n"
        "        return InMemoryHandler()\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:asyncio",
        "-p",
        "no:cacheprovider",
        "test_mine.py",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    count = sum(name.startswith("test_") for name in dir(HandlerContract))
    assert f"{count - 1} passed, 1 skipped" in run.stdout
