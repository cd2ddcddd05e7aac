"""ConsoleHandler: what it writes to an output that may be slow, full or gone, and when it is stopped."""

import asyncio
import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pytest

from emitd_handlers.console import ConsoleHandler, ConsoleSettings
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.outcome import Committed, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.testing import make_record

#: 2026-11-23T03:39:00Z
TIME = 1_795_405_140 * 10**9


class Output(io.RawIOBase):
    """A raw stream that takes at most `limit` bytes at a time and meets the given obstacles first."""

    def __init__(self, *obstacles: BaseException | None, limit: int = 1 << 20) -> None:
        self.obstacles = list(obstacles)
        self.limit = limit
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        if self.obstacles:
            obstacle = self.obstacles.pop(0)
            if obstacle is None:
                return None
            raise obstacle
        part = bytes(data[: self.limit])
        self.taken += part
        return len(part)


async def _emit(handler: ConsoleHandler, *messages: str) -> list[type]:
    outcomes = await handler.emit_batch([LogRecord(Level.INFO, message) for message in messages])
    return [type(outcome) for outcome in outcomes]


async def test_a_batch_is_written_in_one_write_a_line_for_each_record() -> None:
    """Lines go out in order, in UTF-8, with whatever would break them escaped."""
    writes: list[bytes] = []

    class Counting(Output):
        def write(self, data: Any) -> int | None:
            writes.append(bytes(data))
            return len(data)

    handler = ConsoleHandler(ConsoleSettings(attributes=False), stream=Counting())
    assert await _emit(handler, "Grüße", "two\nlines", "\ud800") == [Committed] * 3
    await handler.stop()
    assert [write.decode().split("[INFO] ")[1:] for write in writes] == [
        ["Grüße\n[1970-01-01 00:00:00] ", "two\\nlines\n[1970-01-01 00:00:00] ", "\\ud800\n"]
    ]


async def test_a_subclass_changes_the_form_alone() -> None:
    """`format` is the hook: what it returns is written, and escaped like everything else."""

    class Shouting(ConsoleHandler):
        def format(self, record: LogRecord) -> str:
            return super().format(record).upper() + "\nforged line"

    output = Output()
    handler = Shouting(stream=output)
    await handler.emit_batch([LogRecord(Level.INFO, "hello", time_unix_nano=TIME)])
    await handler.stop()
    assert output.taken == b"[2026-11-23 03:39:00] [INFO] HELLO\\nforged line\n"


async def test_a_subclass_may_have_its_own_emit() -> None:
    """An `emit` that a subclass overrides is called for each record."""

    class Once(ConsoleHandler):
        def emit(self, record: LogRecord) -> None:
            if record.message != "secret":
                super().emit(record)

    output = Output()
    handler = Once(stream=output)
    assert await _emit(handler, "a", "secret", "b") == [Committed] * 3
    await handler.stop()
    assert output.taken.count(b"\n") == 2


async def test_a_record_that_cannot_be_formatted_harms_no_other() -> None:
    """Where `format` fails, or gives no text, that record is refused and the others are written."""

    class Fragile(ConsoleHandler):
        def format(self, record: LogRecord) -> str:
            if record.message == "bytes":
                return b"bytes"  # type: ignore[return-value]
            if record.message == "exit":
                sys.exit(1)
            return str(int(record.message))

    output = Output()
    handler = Fragile(stream=output)
    outcomes = await _emit(handler, "1", "x", "bytes", "exit", "2")
    assert outcomes == [Committed, Refused, Refused, Refused, Committed]
    await handler.stop()
    assert output.taken == b"1\n2\n"


async def test_the_output_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Without a stream of its own the handler writes to the process's standard output, past its buffer."""
    handler = ConsoleHandler()
    await _emit(handler, "hello")
    assert capfdbinary.readouterr().out == b"[1970-01-01 00:00:00] [INFO] hello\n"
    await handler.stop()


async def test_without_a_standard_output_records_are_lost_and_counted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A process without standard output is told so, and goes on."""
    monkeypatch.setattr(sys, "stdout", None)
    handler = ConsoleHandler()
    assert await _emit(handler, "hello") == [Committed]
    assert handler.lost_records == {"output_closed": 1}
    assert "there is no standard output" in capfd.readouterr().err
    await handler.stop()


async def test_partial_writes_are_completed() -> None:
    """A stream that takes a few bytes at a time gets them all."""
    output = Output(limit=7)
    handler = ConsoleHandler(stream=output)
    assert await _emit(handler, "a" * 30, "b" * 30) == [Committed] * 2
    await handler.stop()
    assert output.taken.endswith(b"[INFO] " + b"b" * 30 + b"\n")
    assert output.taken.count(b"\n") == 2


@pytest.mark.parametrize("obstacle", [None, BlockingIOError(errno.EAGAIN, "full", 0)])
async def test_a_full_output_is_waited_for(obstacle: BaseException | None) -> None:
    """A non-blocking output that takes nothing now is tried again, and nothing is written twice."""
    output = Output(obstacle, obstacle, limit=40)
    handler = ConsoleHandler(stream=output)
    assert await _emit(handler, "hello", "world") == [Committed] * 2
    await handler.stop()
    assert output.taken == b"[1970-01-01 00:00:00] [INFO] hello\n[1970-01-01 00:00:00] [INFO] world\n"


@contextmanager
def _pipe(*, blocking: bool) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Yield the writing end, which blocks or does not when the pipe is full, and the reading end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    with open(writing, "wb") as writer, open(reading, "rb") as reader:
        yield writer, reader


async def test_a_full_non_blocking_pipe_loses_nothing() -> None:
    """More lines than a real non-blocking pipe holds all arrive, once its reader reads."""
    messages = [f"{number:04}" + "x" * 200 for number in range(2_000)]
    with _pipe(blocking=False) as (writer, reader):
        handler = ConsoleHandler(stream=writer)
        batch = asyncio.ensure_future(_emit(handler, *messages))
        lines = await asyncio.to_thread(lambda: [reader.readline() for _ in messages])
        assert await batch == [Committed] * len(messages)
        await handler.stop()
    assert [line.split(b"[INFO] ")[1].decode() for line in lines] == [message + "\n" for message in messages]


async def test_a_slow_reader_blocks_this_handler_only() -> None:
    """While a write is stuck in a full pipe the event loop runs; `stop` waits for the write."""
    with _pipe(blocking=True) as (writer, reader):
        handler = ConsoleHandler(stream=writer)
        batch = asyncio.ensure_future(_emit(handler, "x" * 1_000_000))
        stopping = asyncio.ensure_future(handler.stop())
        done, _ = await asyncio.wait([batch, stopping], timeout=0.05)
        assert not done
        assert len(await asyncio.to_thread(reader.readline)) > 1_000_000
        assert await batch == [Committed]
        await stopping


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.EIO, "Input/output error"),
        ValueError("I/O operation on closed file"),
    ],
)
async def test_a_closed_output_is_told_once_and_what_follows_is_counted(
    error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    """When nobody reads any more, records are still accepted, and each one not written is counted."""
    output = Output(error)
    handler = ConsoleHandler(name="console", stream=output)
    assert await _emit(handler, "a", "b") == [Committed] * 2
    assert await _emit(handler, "c") == [Committed]
    told = capfd.readouterr().err
    assert told == f"emitd handler 'console' lost its output ({error}); its records are lost from now on\n"
    assert handler.lost_records == {"output_closed": 3}
    assert output.taken == b""
    await handler.stop()
    await handler.stop()
    assert capfd.readouterr().err == "emitd handler 'console' lost 3 records: output_closed\n"


async def test_lines_that_went_out_before_the_end_are_not_counted_as_lost() -> None:
    """Of a batch that is cut short, only the lines that did not go out whole are lost."""

    class Closing(Output):
        def write(self, data: Any) -> int | None:
            if self.taken:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            return super().write(data)

    handler = ConsoleHandler(stream=Closing(limit=50))
    assert await _emit(handler, "hello", "world", "!") == [Committed] * 3
    assert handler.lost_records == {"output_closed": 2}
    await handler.stop()


async def test_what_a_full_disk_did_not_take_is_refused_for_a_retry() -> None:
    """Lines written are committed, the others may be tried again; a line cut short is ended first."""
    full = OSError(errno.ENOSPC, "No space left on device")

    class Filling(Output):
        room = 50

        def write(self, data: Any) -> int | None:
            if not self.room:
                raise full
            data = bytes(data)[: self.room]
            self.room -= len(data)
            return super().write(data)

    output = Filling()
    handler = ConsoleHandler(stream=output)
    outcomes = await handler.emit_batch([LogRecord(Level.INFO, message) for message in ("hello", "world")])
    assert outcomes[0] == Committed()
    assert isinstance(outcomes[1], Refused)
    assert isinstance(outcomes[1].error, HandlerUnavailable)
    assert "No space left" in str(outcomes[1].error)
    assert not handler.lost_records
    assert await _emit(handler, "world") == [Refused]
    output.room = 1_000
    assert await _emit(handler, "world") == [Committed]
    assert await _emit(handler, "!") == [Committed]
    await handler.stop()
    assert output.taken.decode().splitlines() == [
        "[1970-01-01 00:00:00] [INFO] hello",
        "[1970-01-01 00:",
        "[1970-01-01 00:00:00] [INFO] world",
        "[1970-01-01 00:00:00] [INFO] !",
    ]


async def test_after_a_line_cut_short_the_count_of_lost_records_stays_right() -> None:
    """The newline that ends a line cut short is no record: it is not counted when the output closes."""

    class Closing(Output):
        errors = (
            OSError(errno.ENOSPC, "No space left on device"),
            BrokenPipeError(errno.EPIPE, "Broken pipe"),
        )
        failures = 0

        def write(self, data: Any) -> int | None:
            if not self.taken:
                return super().write(data)
            self.failures += 1
            raise self.errors[self.failures - 1]

    handler = ConsoleHandler(stream=Closing(limit=10))
    assert await _emit(handler, "hello") == [Refused]
    assert await _emit(handler, "hello") == [Committed]
    assert handler.lost_records == {"output_closed": 1}
    await handler.stop()


async def test_a_buffered_stream_is_flushed_after_each_batch() -> None:
    """A stream with a buffer of its own kind has every line passed on at once."""

    class Buffered(Output):
        flushed = b""

        def flush(self) -> None:
            self.flushed = self.taken

    output = Buffered()
    handler = ConsoleHandler(stream=output)
    await _emit(handler, "hello")
    assert output.flushed.endswith(b"hello\n")
    await handler.stop()


async def test_it_goes_on_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody reads standard error either, records are still accepted and counted."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Broken())
    handler = ConsoleHandler(stream=Output(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert await _emit(handler, "hello") == [Committed]
    await handler.stop()
    assert handler.lost_records == {"output_closed": 1}


async def test_a_single_emit_raises_what_a_batch_refuses() -> None:
    """`emit` writes one line, or raises the refusal."""
    output = Output(OSError(errno.ENOSPC, "No space left on device"))
    handler = ConsoleHandler(stream=output)
    with pytest.raises(HandlerUnavailable, match="No space left"):
        handler.emit(make_record())
    handler.emit(make_record())
    assert output.taken.count(b"\n") == 1


async def test_formatting_runs_in_the_handler_s_thread() -> None:
    """A `format` that blocks holds up this handler only."""
    threads: list[str] = []

    class Watching(ConsoleHandler):
        def format(self, record: LogRecord) -> str:
            threads.append(threading.current_thread().name)
            return ""

    handler = Watching(name="console", stream=Output())
    await _emit(handler, "a")
    await handler.stop()
    assert threads == ["emitd-handler-console"]
