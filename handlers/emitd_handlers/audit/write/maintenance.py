"""Signs the lines of an audit log in the background, and checks its files."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.clock import is_set_within
from emitd_handlers.diagnostics import Report
from emitd_handlers.durable.worker_thread import WorkerThread

#: How often the file is checked: a change by another process must be noticed within a second.
CHECK_SECONDS = 0.5


class AuditMaintenance:
    """Does one thing at a time for one log, in a task of its own.

    The log is checked in the thread that writes it, and signed in another one: no commit waits for a signature.
    """

    def __init__(
        self,
        log: AuditLog,
        run_in_writer: Callable[..., asyncio.Future[Any]],
        report: Report,
        checkpoint_seconds: float,
        on_check: Callable[[], None],
    ) -> None:
        """`on_check` is called in the event loop after each check."""
        self._log = log
        self._run_in_writer = run_in_writer
        self._on_check = on_check
        self._report = report
        self._checkpoint_seconds = checkpoint_seconds
        self._thread = WorkerThread("emitd-audit-tree")
        #: Held while something is done for the log.
        self._turn = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="audit-maintenance")

    async def stop(self) -> None:
        """End the task, then check the files and sign the rest. Nothing may be added to the log after this."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping.set()
        await asyncio.wait([task])
        # Closing a file that lost its name would lose its lines, unless they were saved.
        await self._guarded(self._check_file())
        await self.write_checkpoint()
        await self._thread.stop()

    async def write_checkpoint(self) -> None:
        """Sign all lines; if that fails, the next turn tries again."""
        async with self._turn:
            await self._thread.run(self._log.write_checkpoint)

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        turn_seconds = min(CHECK_SECONDS, self._checkpoint_seconds / 2)
        # A line can have come a turn before it is seen; half a turn is for the signature.
        delay_seconds = self._checkpoint_seconds - 1.5 * turn_seconds
        pause, sign_at = turn_seconds, math.inf
        while not await is_set_within(self._stopping, pause):
            if clock() < sign_at:
                await self._guarded(self._check())
                sign_at = min(sign_at, clock() + delay_seconds) if self._log.tree.uncovered else math.inf
            else:
                sign_at = math.inf
                await self._guarded(self.write_checkpoint())
            pause = min(turn_seconds, sign_at - clock())

    async def _check(self) -> None:
        try:
            await self._check_file()
        finally:
            self._on_check()

    async def _check_file(self) -> None:
        async with self._turn:
            await self._run_in_writer(self._log.check)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do one turn; an error is reported, and does not end the task."""
        try:
            await work
        except Exception as error:
            self._report(f"audit log '{self._log.file.path}' could not be checked: {error!r}")
