"""ConsoleHandler in a process whose standard output is a pipe that somebody closes or never reads."""

import subprocess
import sys

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


def _start(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_process_survives_the_end_of_its_reader() -> None:
    """With a reader that takes one line and goes (`| head -1`) the process goes on and ends without noise."""
    with _start(PROGRAM) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"[INFO]" in process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"\n\n\n")
        process.stdin.close()
        told = process.stderr.read().decode().splitlines()
        assert process.wait(10) == 0
    assert told == [
        "emitd handler 'console' lost its output ([Errno 32] Broken pipe); its records are lost from now on",
        "emitd handler 'console' lost 200 records: output_closed",
        "went on {'output_closed': 200}",
    ]


def test_a_process_can_end_while_a_write_is_stuck() -> None:
    """A reader that never reads cannot keep the process from ending, nor make its end fatal."""
    with _start(ABANDONING_PROGRAM) as process:
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(10) == 0
    assert told == b"abandoned\n"
