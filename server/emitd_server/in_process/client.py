"""`InProcessClient`: the verbs of `emitd.AsyncLogger`, on a `LoggingService` in the same process.

    async with LoggingService.from_config("logging_config.yml") as service:
        logger = service.client(source="shop")
        logger.info("order taken", order=17)
        receipt = await logger.audit("order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17})

It makes the messages that a remote client would send, and everything after that is the service's: see `intake`.
"""

import asyncio
import copy
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from emitd.context import current_attributes
from emitd.errors import ClientNotOpen
from emitd.jobs.track import AsyncTrack
from emitd.receipt import Receipt, ReceiptState
from emitd.records.audit import audit_record, next_record_id
from emitd.records.encoding import as_field, as_text, encode_attributes
from emitd.records.exceptions import exception_attributes
from emitd.records.levels import is_level, level_number
from emitd.requests import list_request, watch_request
from emitd.v1 import job_pb2
from emitd.v1 import record_pb2 as pb
from emitd_server.config.loader import Config
from emitd_server.convert.jobs import job_to_wire, read_job_id, read_query
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.errors import ServiceStopping
from emitd_server.in_process.errors import client_errors
from emitd_server.in_process.ingress import Ingress
from emitd_server.in_process.job import InProcessJob

if TYPE_CHECKING:
    from emitd.interface import AsyncLogger

__all__ = ["InProcessClient"]

T = TypeVar("T")


class InProcessClient:
    """Implements `emitd.AsyncLogger`, whose docstrings are the contract. Made by `LoggingService.client`.

    All clients of a service share its queue of log lines (10,000 of them, 64 MiB in all), and `stats`.
    """

    def __init__(self, service: Dispatcher, *, source: str = "", owns_service: bool = False) -> None:
        """Use `service`; with `owns_service`, opening and closing this client starts and stops it."""
        self._service = service
        self._intake = Ingress.of(service)
        self._source = as_text(source)
        self._owns_service = owns_service
        self._attributes: Mapping[str, object] = {}
        #: Set for this client and all that were made of it by `bind`.
        self._closed = threading.Event()
        #: Those that somebody holds, of this client and of those that were made of it by `bind`.
        self._tracks: weakref.WeakSet[AsyncTrack[Any]] = weakref.WeakSet()

    @classmethod
    def from_config(cls, config: Config | Path | str | None, *, source: str = "") -> Self:
        """Return a client with a service of its own, which lives as long as the client is open.

        Raises ConfigError as `Dispatcher.from_config` does, and opening it StartError.
        """
        return cls(Dispatcher.from_config(config), source=source, owns_service=True)

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
        if not is_level(level):
            attributes = {"level": level, **attributes}
        self._log(cast("pb.Level", level_number(level)), message, attributes)

    def exception(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR with the exception that is being handled."""
        self._log(pb.LEVEL_ERROR, message, {**exception_attributes(sys.exception()), **attributes})

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
        time_unix_nano: int = 0,
        timeout: float | None = None,
        require_commit: bool = False,
    ) -> Receipt:
        """Commit an audit event, with or without `require_commit`."""
        self._refuse_if_closed()
        record = audit_record(
            event_name,
            user_id=user_id,
            source_ip=source_ip,
            details=details,
            message=message,
            record_id=record_id,
            time_unix_nano=time_unix_nano,
            source=self._source,
            bound=self._attributes,
        )
        return Receipt(ReceiptState.COMMITTED, await self._intake.emit(record, timeout))

    def job(
        self,
        job_id: str,
        job_type: str,
        *,
        total: int | None = None,
        lease: int | None = None,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> InProcessJob:
        """Return the reporter of one run of a job."""
        envelope = pb.LogRecord(
            source=self._source, attributes_json=encode_attributes(self._own_attributes())
        )
        return InProcessJob(
            self._intake,
            self._refuse_if_closed,
            envelope,
            job_id,
            job_type,
            total=total,
            lease=lease,
            labels=labels,
            details=details,
        )

    def track(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        job_type: str,
        job_id: str | None = None,
        total: int | None = None,
        lease: int | None = 60,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncTrack[T]:
        """Return an iterator over `items` that reports them as a job."""

        def make_job(job_id: str, total: int | None) -> InProcessJob:
            return self.job(job_id, job_type, total=total, lease=lease, labels=labels)

        track = AsyncTrack(items, make_job, self._intake.spawn, job_id=job_id, total=total)
        self._tracks.add(track)
        return track

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
        request = list_request(job_type, statuses, updated_after_unix_nano, page_size)
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
        request = watch_request(
            job_id,
            after_revision=after_revision,
            wait_for_creation=wait_for_creation,
            follow=follow,
            min_interval_ms=min_interval_ms,
        )
        with client_errors():
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
        await asyncio.gather(*[track.aclose() for track in self._tracks])
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
        own = self._own_attributes()
        if own:
            attributes = {**own, **attributes}
        line = pb.LogRecord(
            record_id=next_record_id(),
            time_unix_nano=time.time_ns(),
            level=level,
            message=as_text(message),
            source=self._source,
            attributes_json=encode_attributes(attributes),
        )
        self._intake.lines.put(line)

    def _own_attributes(self) -> Mapping[str, object]:
        """Return what every record made here and now has: what is bound, and what else the context says."""
        context = current_attributes()
        return {**context, **self._attributes} if context else self._attributes

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise ClientNotOpen("the client is closed")
        if not self._service.is_running:
            raise ClientNotOpen("the service is not running: use the client inside of its `async with`")
        self._intake.refuse_other_loops()


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncLogger] = InProcessClient
