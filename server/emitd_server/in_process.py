"""`InProcessClient`: the verbs of `emitd.AsyncLogger`, on a `LoggingService` in the same process.

    async with LoggingService.from_config("logging_config.yml") as service:
        logger = service.client(source="shop")
        logger.info("order taken", order=17)
        receipt = await logger.audit("order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17})

It makes the messages that a remote client would send, and everything after that is the service's: see `intake`.
"""

import copy
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from emitd.errors import ClientNotOpen
from emitd.json_encoding import as_field, as_text, encode_attributes, encode_details
from emitd.v1 import job_pb2, log_service_pb2
from emitd.v1 import record_pb2 as pb
from emitd_handlers.uuid7 import uuid7
from emitd_server.client_errors import client_errors
from emitd_server.config import Config
from emitd_server.errors import RequestInvalid, ServiceStopping
from emitd_server.in_process_job import InProcessJob
from emitd_server.intake import Intake
from emitd_server.job_wire import job_to_wire, read_job_id, read_query
from emitd_server.service import LoggingService

if TYPE_CHECKING:
    from emitd.interface import AsyncLogger

__all__ = ["InProcessClient"]

#: The last part of a longer stack is kept: it says where the exception was raised.
MAX_STACK_CHARACTERS = 16_000

_LEVELS: Mapping[str | int, pb.Level] = {
    "DEBUG": pb.LEVEL_DEBUG,
    "INFO": pb.LEVEL_INFO,
    "WARNING": pb.LEVEL_WARNING,
    "ERROR": pb.LEVEL_ERROR,
    "CRITICAL": pb.LEVEL_CRITICAL,
    10: pb.LEVEL_DEBUG,
    20: pb.LEVEL_INFO,
    30: pb.LEVEL_WARNING,
    40: pb.LEVEL_ERROR,
    50: pb.LEVEL_CRITICAL,
}


class InProcessClient:
    """Implements `emitd.AsyncLogger`, whose docstrings are the contract. Made by `LoggingService.client`.

    All clients of a service share its queue of log lines (10,000 of them, 64 MiB in all), and `stats`.
    """

    def __init__(self, service: LoggingService, *, source: str = "", owns_service: bool = False) -> None:
        """Use `service`; with `owns_service`, opening and closing this client starts and stops it."""
        self._service = service
        self._intake: Intake = service.intake
        self._source = as_text(source)
        self._owns_service = owns_service
        self._attributes: Mapping[str, object] = {}
        #: Set for this client and all that were made of it by `bind`.
        self._closed = threading.Event()

    @classmethod
    def from_config(cls, config: Config | Path | str | None, *, source: str = "") -> Self:
        """Return a client with a service of its own, which lives as long as the client is open.

        Raises ConfigError as `LoggingService.from_config` does, and opening it StartError.
        """
        return cls(LoggingService.from_config(config), source=source, owns_service=True)

    async def __aenter__(self) -> Self:
        if self._owns_service:
            await self._service.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        await self.close()

    def debug(self, message: str, /, **attributes: object) -> None:
        """Log a line of level DEBUG."""
        self._log(pb.LEVEL_DEBUG, message, attributes)

    def info(self, message: str, /, **attributes: object) -> None:
        """Log a line of level INFO."""
        self._log(pb.LEVEL_INFO, message, attributes)

    def warning(self, message: str, /, **attributes: object) -> None:
        """Log a line of level WARNING."""
        self._log(pb.LEVEL_WARNING, message, attributes)

    def error(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR."""
        self._log(pb.LEVEL_ERROR, message, attributes)

    def critical(self, message: str, /, **attributes: object) -> None:
        """Log a line of level CRITICAL."""
        self._log(pb.LEVEL_CRITICAL, message, attributes)

    def log(self, level: str | int, message: str, /, **attributes: object) -> None:
        """Log a line of a level given by name or number."""
        known = _LEVELS.get(level) if isinstance(level, str | int) else None
        if known is None:
            known = _nearest_level(level)
            attributes = {"level": level, **attributes}
        self._log(known, message, attributes)

    def exception(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR with the exception that is being handled."""
        self._log(pb.LEVEL_ERROR, message, {**_exception_attributes(), **attributes})

    def bind(self, **attributes: object) -> Self:
        """Return a client that adds these attributes to every record."""
        bound = copy.copy(self)
        bound._attributes = {**self._attributes, **attributes}
        return bound

    async def audit(
        self,
        event_name: str,
        *,
        user_id: str,
        source_ip: str = "unknown",
        details: Mapping[str, object] | None = None,
        message: str = "",
        record_id: str = "",
        timeout: float | None = None,
    ) -> log_service_pb2.Receipt:
        """Commit an audit event. Its time is that of its receipt."""
        self._refuse_if_closed()
        event = pb.AuditEvent(
            event_name=as_field(event_name),
            user_id=as_field(user_id),
            source_ip=as_field(source_ip),
            details_json=encode_details(details),
        )
        # No time of our own: a retry under the same `record_id` must have the same content.
        record = pb.LogRecord(
            record_id=as_field(record_id) or uuid7(),
            message=as_field(message),
            source=self._source,
            attributes_json=encode_attributes(self._attributes),
            audit=event,
        )
        return await self._intake.emit(record, timeout)

    def job(
        self,
        job_id: str,
        job_type: str,
        *,
        total: int | None = None,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> InProcessJob:
        """Return the reporter of one run of a job."""
        envelope = pb.LogRecord(source=self._source, attributes_json=encode_attributes(self._attributes))
        details_json = encode_details(details) if details is not None else ""
        return InProcessJob(
            self._intake,
            self._refuse_if_closed,
            envelope,
            job_id,
            job_type,
            total=total,
            labels=labels or {},
            details_json=details_json,
        )

    async def get_job(self, job_id: str) -> job_pb2.Job | None:
        """Return a job as it stands, or None."""
        self._refuse_if_closed()
        with client_errors():
            job = await self._service.jobs.get(read_job_id(as_field(job_id)))
        return None if job is None else job_to_wire(job)

    async def list_jobs(
        self,
        *,
        job_type: str = "",
        statuses: Iterable[str] = (),
        updated_after_unix_nano: int = 0,
        page_size: int = 100,
    ) -> AsyncGenerator[job_pb2.Job, None]:
        """Yield jobs, newest first."""
        self._refuse_if_closed()
        with client_errors():
            request = job_pb2.ListJobsRequest(
                job_type=as_field(job_type),
                statuses=_states(statuses),
                updated_after_unix_nano=_number("updated_after_unix_nano", updated_after_unix_nano, 2**64),
                page_size=_number("page_size", page_size, 2**31),
            )
        while True:
            with client_errors():
                page = await self._service.jobs.list(read_query(request))
            for job in page.jobs:
                yield job_to_wire(job)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch_job(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        wait_for_creation: bool = False,
        follow: bool = False,
        min_interval_ms: int = 0,
    ) -> AsyncGenerator[job_pb2.WatchJobResponse, None]:
        """Yield the job's state and its changes. Counts towards `server.watch.max_watchers`."""
        self._refuse_if_closed()
        with client_errors():
            request = job_pb2.WatchJobRequest(
                job_id=as_field(job_id),
                after_revision=None
                if after_revision is None
                else _number("after_revision", after_revision, 2**64),
                wait_for_creation=wait_for_creation,
                follow=follow,
                min_interval_ms=_number("min_interval_ms", min_interval_ms, 2**31),
            )
            messages = self._intake.watches.watch(self._service.jobs, request)
            # A generator in truth, so that leaving early frees the watcher at once.
            async with aclosing(cast("AsyncGenerator[bytes, None]", messages)):
                async for message in messages:
                    response = job_pb2.WatchJobResponse.FromString(message)
                    if response.heartbeat and not self._service.is_running:
                        raise ServiceStopping
                    yield response

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every line logged so far is with its handlers, or counted as dropped."""
        self._intake.refuse_other_loops()
        return await self._intake.lines.flush(timeout)

    async def close(self) -> None:
        """Flush for at most `server.shutdown.drain_seconds`, and stop a service of its own."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._owns_service:
            await self._service.stop()
            await self._intake.close(0)  # where it was never started: what waits for that is lost, and told
        else:
            await self.flush(self._service.settings.shutdown.drain_seconds)

    def stats(self) -> Mapping[str, int]:
        """Return the fates of all records of this process: `sent`, `failed`, `dropped_queue_full`, ..."""
        return dict(self._intake.counts)

    def _log(self, level: pb.Level, message: str, attributes: Mapping[str, object]) -> None:
        if self._closed.is_set():
            self._intake.lines.drop("closed")
            return
        if self._attributes:
            attributes = {**self._attributes, **attributes}
        line = pb.LogRecord(
            record_id=uuid7(),
            time_unix_nano=time.time_ns(),
            level=level,
            message=as_text(message),
            source=self._source,
            attributes_json=encode_attributes(attributes),
        )
        self._intake.lines.put(line)

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise ClientNotOpen("the client is closed")
        if not self._service.is_running:
            raise ClientNotOpen("the service is not running: use the client inside of its `async with`")
        self._intake.refuse_other_loops()


def _nearest_level(level: object) -> pb.Level:
    """Return the next lower of the five levels; INFO for a name that is none."""
    if isinstance(level, str):
        return _LEVELS.get(level.upper(), pb.LEVEL_INFO)
    if not isinstance(level, int):
        return pb.LEVEL_INFO
    return _LEVELS[min(max(level // 10 * 10, 10), 50)]


def _exception_attributes() -> Mapping[str, object]:
    """Return the exception that is being handled, by OpenTelemetry's names; nothing where there is none."""
    error = sys.exception()
    if error is None:
        return {}
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    try:
        message = str(error)
        stack = "".join(traceback.format_exception(error))
    except Exception as failure:  # somebody's __str__
        message, stack = f"<its text could not be made: {type(failure).__name__}>", ""
    return {
        "exception.type": module + kind.__qualname__,
        "exception.message": message,
        "exception.stacktrace": stack[-MAX_STACK_CHARACTERS:],
    }


def _states(names: Iterable[str]) -> list[pb.JobState]:
    """Return the states' numbers; one name that stands alone is taken for what it is, not for its letters."""
    return [_state(name) for name in ([names] if isinstance(names, str) else names)]


def _state(name: str) -> pb.JobState:
    states = ("QUEUED", "RUNNING", "COMPLETED", "FAILED")
    if name not in states:
        raise RequestInvalid("statuses", f"'{name}' is not a job state; expected {', '.join(states)}")
    return cast("pb.JobState", pb.JobState.Value(f"JOB_STATE_{name}"))


def _number(field: str, value: int, limit: int) -> int:
    """Return `value`. Raises RequestInvalid where the contract's field cannot hold it."""
    if not 0 <= value < limit:
        raise RequestInvalid(field, f"{value} is not from 0 to {limit - 1}")
    return value


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncLogger] = InProcessClient
