"""A service and a client of it in the test's own process, and what tests look at."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from emitd import (
    AsyncLogger,
    v1,
)
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import InMemoryHandler
from emitd_server.in_process.client import InProcessClient
from emitd_server.service import LoggingService
from emitd_server.settings import ServerSettings

CONFIG = """
handlers:
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""


@dataclass
class Opened:
    """A service, a client of it, and what became visible of both."""

    service: LoggingService
    logger: InProcessClient
    memory: InMemoryHandler
    #: What the operator was told.
    lines: list[str] = field(default_factory=list)

    async def logged(self) -> Sequence[LogRecord]:
        """Return all log lines, once they are through."""
        assert await self.logger.flush(10)
        await self.memory.wait_for(self.service.stats()["memory"]["accepted"])
        return self.memory.records


@asynccontextmanager
async def opened(
    handlers: Sequence[BaseLogHandler], settings: ServerSettings | None = None
) -> AsyncIterator[Opened]:
    lines: list[str] = []
    service = LoggingService(handlers, settings=settings, report=lines.append)
    memory = next(handler for handler in handlers if isinstance(handler, InMemoryHandler))
    async with service:
        yield Opened(service, service.client("shop"), memory, lines)


def committed_memory(*levels: Level) -> InMemoryHandler:
    settings = HandlerSettings(levels=levels, delivery=Delivery.COMMITTED)
    return InMemoryHandler(settings, name="memory")


class EndlessJobs(InMemoryHandler):
    """A source of jobs that has none, and whose watches bring nothing but heartbeats, for ever."""

    async def get(self, job_id: str) -> None:
        return None

    async def list(self, query: object) -> None:
        raise AssertionError

    async def watch(self, job_id: str, **options: object) -> AsyncIterator[None]:
        while True:
            yield None


def attributes(record: LogRecord) -> dict[str, Any]:
    return dict(json.loads(record.attributes_json or "{}"))


async def until(is_so: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.01)


async def states(logger: AsyncLogger, job_id: str) -> list[str]:
    """The statuses that a job went through, by its history."""
    async with aclosing(logger.watch_job(job_id, after_revision=0)) as updates:
        return [
            v1.JobState.Name(transition.status).removeprefix("JOB_STATE_")
            async for update in updates
            for transition in update.transitions
        ]
