"""A process that writes an audit log and kills itself at a moment of the disk.

    python dying_writer.py LOG MOMENT FIRST COUNT

Before its MOMENT-th operation that changes a file or syncs one, it dies by SIGKILL; 0: never. It emits COUNT events,
from the FIRST on, has each signed, and prints the number of each once it is acknowledged.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from emitd_handlers.audit.handler import JsonAuditHandler, JsonAuditSettings
from emitd_handlers.durable.disk import Disk
from emitd_handlers.record import AuditEvent, Level, LogRecord


class DyingDisk(Disk):
    """Counts moments."""

    def __init__(self, moment: int) -> None:
        """Die at `moment`, counted from 1."""
        self._left = moment

    def create(self, path: Path) -> int:
        """A moment."""
        self._pass()
        return super().create(path)

    def write(self, fd: int, data: memoryview) -> int:
        """Two moments: the second comes with half of the bytes written."""
        self._pass()
        half = len(data) // 2
        if self._left == 1 and half:
            super().write(fd, data[:half])
            self._pass()
        return super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """A moment."""
        self._pass()
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        """A moment."""
        self._pass()
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        """A moment."""
        self._pass()
        super().sync_directory(path)

    def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(path: Path, moment: int, first: int, count: int) -> None:
    """Write the log."""
    handler = JsonAuditHandler(JsonAuditSettings(path=path), disk=DyingDisk(moment), report=lambda line: None)
    await handler.start()
    for number in range(first, first + count):
        event = AuditEvent(f"e-{number}", "user.login", "u1", "192.0.2.1", "{}")
        await handler.emit(LogRecord(Level.AUDIT, record_id=f"r-{number}", payload=event))
        print(number, flush=True)
        await handler.write_checkpoint()
    await handler.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
