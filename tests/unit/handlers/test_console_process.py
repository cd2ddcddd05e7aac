"""ConsoleHandler in a process whose standard output is a pipe that somebody closes or never reads."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

PROGRAM = """
import asyncio, sys
from emitd_handlers.console import ConsoleHandler
from emitd_handlers.testing import make_record

async def main():
    handler = ConsoleHandler(name="console")
    await handler.start()
    for _ in range(3):
        await handler.emit_batch([make_record() for _ in range(100)])
        await asyncio.to_thread(sys.stdin.readline)
    await asyncio.wait_for(handler.stop(), 5)
    print("went on", dict(handler.lost_records), file=sys.stderr)

asyncio.run(main())
"""

ABANDONING_PROGRAM = """
import asyncio, sys
from emitd_handlers.console import ConsoleHandler
from emitd_handlers.record import Level, LogRecord

async def main():
    handler = ConsoleHandler()
    batch = asyncio.ensure_future(handler.emit_batch([LogRecord(Level.INFO, "x" * 10_000_000)]))
    await asyncio.wait([batch], timeout=0.2)
    try:
        await asyncio.wait_for(handler.stop(), 0.1)
    except TimeoutError:
        print("abandoned", file=sys.stderr)

asyncio.run(main())
"""


@contextmanager
def _running(program: str) -> Iterator[tuple[BinaryIO, BinaryIO, Callable[[], str]]]:
    """Yield the program's standard input, its standard output, and how to await its good end.

    The last returns what it wrote to standard error.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        standard_error = process.stderr

        def end() -> str:
            assert process.wait(10) == 0
            return standard_error.read().decode()

        try:
            yield cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout), end
        finally:
            process.kill()


def test_a_process_survives_the_end_of_its_reader() -> None:
    """With a reader that takes one line and goes (`| head -1`) the process goes on and ends without noise."""
    with _running(PROGRAM) as (standard_input, standard_output, end):
        assert b"[INFO]" in standard_output.readline()
        standard_output.close()
        standard_input.write(b"\n\n\n")
        standard_input.flush()
        told = end()
    assert told.splitlines() == [
        "emitd handler 'console' lost its output ([Errno 32] Broken pipe); its records are lost from now on",
        "emitd handler 'console' lost 200 records: output_closed",
        "went on {'output_closed': 200}",
    ]


def test_a_process_can_end_while_a_write_is_stuck() -> None:
    """A reader that never reads cannot keep the process from ending, nor make its end fatal."""
    with _running(ABANDONING_PROGRAM) as (_, _, end):
        assert end() == "abandoned\n"
