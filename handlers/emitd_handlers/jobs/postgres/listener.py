"""`Listener`: gets notifications of the jobs that other processes have changed, over its own connection.

A notification can be lost, with the connection or behind a pooler. So after each connect the listener reports that any
job may have changed, and it pings the connection every few seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg
import msgspec

from emitd_handlers.clock import is_set_within
from emitd_handlers.jobs.postgres.database import FAILURES

#: How often to ping, and how long to wait for the answer.
PING_SECONDS = 3.0
PING_TIMEOUT_SECONDS = 3.0
#: How long to wait before connecting again: at first, and at most.
MIN_DELAY_SECONDS = 0.05
MAX_DELAY_SECONDS = 1.0
CLOSE_SECONDS = 1.0

#: See `SharedJobStore`.
OnForeignChange: TypeAlias = Callable[[Sequence[str] | None], None]

_decode_ids = msgspec.json.Decoder(list[str]).decode


class Listener:
    """Connects again and again until it is stopped."""

    def __init__(
        self,
        connect: "Callable[[], Awaitable[asyncpg.Connection[asyncpg.Record]]]",
        channel: str,
        *,
        is_own: Callable[[int], bool],
        on_foreign_change: OnForeignChange,
        report: Callable[[str], None],
    ) -> None:
        """`is_own(pid)`: whether it is one of our own pool. `report` gets a line at each loss and recovery."""
        self._connect = connect
        self._channel = channel
        self._is_own = is_own
        self._on_foreign_change = on_foreign_change
        self._report = report
        self._task: asyncio.Task[None] | None = None
        self._delay = MIN_DELAY_SECONDS
        self._is_deaf = False

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="postgres-listener")

    async def stop(self) -> None:
        """Stop listening. Harmless without `start`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except FAILURES as error:
                if not self._is_deaf:
                    self._is_deaf = True
                    self._report(f"lost the connection that notifications come over: {error}")
            await asyncio.sleep(self._delay)
            self._delay = min(2 * self._delay, MAX_DELAY_SECONDS)

    async def _listen(self) -> None:
        connection = await self._connect()
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await connection.add_listener(self._channel, self._hear)
            self._delay = MIN_DELAY_SECONDS
            if self._is_deaf:
                self._is_deaf = False
                self._report("has a connection for notifications again")
            self._on_foreign_change(None)
            while not await is_set_within(lost, PING_SECONDS):
                async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                    await connection.execute("SELECT 1")
            raise asyncpg.ConnectionDoesNotExistError("the server has closed it")
        except FAILURES:
            connection.terminate()
            raise
        finally:
            with suppress(*FAILURES):
                await connection.close(timeout=CLOSE_SECONDS)

    def _hear(self, _: object, pid: int, __: str, payload: Any) -> None:
        if self._is_own(pid):
            return
        try:
            job_ids = _decode_ids(payload)
        except msgspec.MsgspecError:
            self._on_foreign_change(None)  # `many`, or what a later version says
        else:
            self._on_foreign_change(job_ids)
