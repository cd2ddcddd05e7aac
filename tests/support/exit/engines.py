"""Engines for tests: the service is a function of the test, in place of the transport."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from emitd.runtime import process_hooks
from emitd.runtime.fork_guards import GrpcForkGuard
from emitd.sending.engine import Engine
from emitd.sending.line_queue import Line
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply
from emitd.v1 import LogRecord, Receipt

#: What the service answers to records.
Answer: TypeAlias = Callable[[Sequence[LogRecord]], Reply]
#: Makes an engine by its service and its settings.
MakeEngine: TypeAlias = Callable[..., tuple[Engine, "FakeTransport"]]


class FakeTransport:
    """Answers calls by `answer`, and notes them."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.fork_guard = GrpcForkGuard()
        self.messages: list[str] = []
        self.timeouts: list[float] = []
        self.threads: set[str] = set()
        self.interrupted = threading.Event()
        self.is_prepared = False

    def emit(self, records: Sequence[bytes], timeout: float, *, want_receipts: bool) -> Reply:
        messages = [LogRecord.FromString(record) for record in records]
        self.messages += [record.message for record in messages]
        self.timeouts.append(timeout)
        self.threads.add(threading.current_thread().name)
        return self.answer(messages)

    def interrupt(self) -> None:
        self.interrupted.set()

    def prepare(self) -> None:
        self.is_prepared = True


def accept(records: Sequence[LogRecord]) -> Reply:
    """Take every record."""
    return Reply(receipts=[Receipt(record_id=record.record_id) for record in records], server_id=1)


def fail(records: Sequence[LogRecord]) -> Reply:
    """Be not there."""
    return Reply(again=dict.fromkeys(range(len(records)), ("nobody is there", 0.0)), is_broken=True)


@contextmanager
def engines() -> Iterator[MakeEngine]:
    """Make engines that are closed at the end of the block."""
    made: list[Engine] = []

    def make(answer: Answer = accept, **settings: Any) -> tuple[Engine, FakeTransport]:
        given = {"source": "test", "spool": "off", "close_timeout": 0.3, "linger": 30.0, **settings}
        engine = Engine(ClientSettings.read(given, {}))
        engine.transport = transport = FakeTransport(answer)  # type: ignore[assignment]
        made.append(engine)
        return engine, transport

    yield make
    for engine in made:
        engine.close(0)
        process_hooks.remove(engine)  # where it was written to after its end


def refuse_to_start(_: threading.Thread) -> None:
    """Be a thread's `start` at the end of a program, by Python 3.12."""
    raise RuntimeError("can't create new thread at interpreter shutdown")


def write(engine: Engine, *messages: str) -> None:
    """Log lines."""
    for message in messages:
        engine.write(20, message, {})


def queue(engine: Engine, message: str) -> None:
    """Queue a line for which no sender is started."""
    engine.lines.put(Line("id", 1, 20, message, b"", b"", b"", 100))
