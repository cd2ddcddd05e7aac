"""`RequestLogger`: an `AsyncLogger` that knows its request: where it came from, by whom, and which one it is."""

import copy
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from emitd.errors import RecordRejected
from emitd.interface import AsyncJobReporter, AsyncLogger
from emitd.web.request_context import RequestContext

if TYPE_CHECKING:
    from emitd.jobs.track import AsyncTrack
    from emitd.receipt import Receipt
    from emitd.v1 import Job, WatchJobResponse

__all__ = ["RequestLogger"]

T = TypeVar("T")


class RequestLogger:
    """The application's logger, for one request. Every record carries `client_ip` and `request_id`.

    `emitd.AsyncLogger` says what the verbs do. It works on after the request, such as in a task that the request began.
    """

    def __init__(self, logger: AsyncLogger, context: RequestContext, user_id: str | None) -> None:
        self._logger = logger.bind(**context.attributes)
        #: For records that must be the same in another request.
        self._repeatable = logger
        self._context = context
        self._user_id = user_id

    @property
    def user_id(self) -> str | None:
        """Who is logged in; None: nobody, or the application did not say how to know."""
        return self._user_id

    @property
    def source_ip(self) -> str:
        """Where the request came from: an address, or `unknown`."""
        return self._context.source_ip

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self._context.request_id

    def debug(self, message: str, /, **attributes: object) -> None:
        """Log a line of level DEBUG."""
        self._logger.debug(message, **attributes)

    def info(self, message: str, /, **attributes: object) -> None:
        """Log a line of level INFO."""
        self._logger.info(message, **attributes)

    def warning(self, message: str, /, **attributes: object) -> None:
        """Log a line of level WARNING."""
        self._logger.warning(message, **attributes)

    def error(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR."""
        self._logger.error(message, **attributes)

    def critical(self, message: str, /, **attributes: object) -> None:
        """Log a line of level CRITICAL."""
        self._logger.critical(message, **attributes)

    def log(self, level: str | int, message: str, /, **attributes: object) -> None:
        """Log a line of a level given by name or number."""
        self._logger.log(level, message, **attributes)

    def exception(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR with the exception that is being handled."""
        self._logger.exception(message, **attributes)

    def bind(self, **attributes: object) -> Self:
        """Return a logger for the same request that adds these attributes to every record."""
        bound = copy.copy(self)
        bound._logger = self._logger.bind(**attributes)
        bound._repeatable = self._repeatable.bind(**attributes)
        return bound

    async def audit(
        self,
        event_name: str,
        *,
        user_id: str | None = None,
        source_ip: str | None = None,
        details: Mapping[str, object] | None = None,
        message: str = "",
        record_id: str = "",
        time_unix_nano: int = 0,
        timeout: float | None = None,
        require_commit: bool = False,
    ) -> "Receipt":
        """Send an audit event by whoever is logged in, from where the request came; what is given here wins.

        Raises RecordRejected naming `audit.user_id` where nobody is logged in and none is given: an event of nobody's
        is none. With a `record_id` of one's own the event does not carry `client_ip` and `request_id`, which may be
        others when the request is made again; its `source_ip` must be the same then.
        """
        user = self._user_id if user_id is None else user_id
        if user is None:
            raise RecordRejected(
                "audit.user_id is mandatory: nobody is logged in here, so the call must give `user_id`",
                field="audit.user_id",
            )
        logger = self._repeatable if record_id else self._logger
        return await logger.audit(
            event_name,
            user_id=user,
            source_ip=self.source_ip if source_ip is None else source_ip,
            details=details,
            message=message,
            record_id=record_id,
            time_unix_nano=time_unix_nano,
            timeout=timeout,
            require_commit=require_commit,
        )

    def job(
        self,
        job_id: str,
        job_type: str,
        *,
        total: int | None = None,
        lease: int | None = None,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> AsyncJobReporter:
        """Return what reports how a job fares, for `async with`."""
        return self._logger.job(job_id, job_type, total=total, lease=lease, labels=labels, details=details)

    def track(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        job_type: str,
        job_id: str | None = None,
        total: int | None = None,
        lease: int | None = 60,
        labels: Mapping[str, str] | None = None,
    ) -> "AsyncTrack[T]":
        """Return an iterator over `items`, for `async for`, that reports them as a job."""
        return self._logger.track(
            items, job_type=job_type, job_id=job_id, total=total, lease=lease, labels=labels
        )

    async def get_job(self, job_id: str) -> "Job | None":
        """Return a job as it stands, or None."""
        return await self._logger.get_job(job_id)

    def list_jobs(
        self,
        *,
        job_type: str = "",
        statuses: Iterable[str] = (),
        updated_after_unix_nano: int = 0,
        page_size: int = 100,
    ) -> "AsyncGenerator[Job, None]":
        """Yield jobs, newest first."""
        return self._logger.list_jobs(
            job_type=job_type,
            statuses=statuses,
            updated_after_unix_nano=updated_after_unix_nano,
            page_size=page_size,
        )

    def watch_job(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        wait_for_creation: bool = False,
        follow: bool = False,
        min_interval_ms: int = 0,
    ) -> "AsyncGenerator[WatchJobResponse, None]":
        """Yield the job's state and its changes, until it has ended."""
        return self._logger.watch_job(
            job_id,
            after_revision=after_revision,
            wait_for_creation=wait_for_creation,
            follow=follow,
            min_interval_ms=min_interval_ms,
        )

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every log line logged so far is delivered or counted as dropped."""
        return await self._logger.flush(timeout)

    async def close(self) -> None:
        """Flush, and no more: the logger is the application's, and other requests use it."""
        await self._logger.flush()

    def stats(self) -> Mapping[str, int]:
        """Return how many records of the application were `sent`, and how many dropped, by cause."""
        return self._logger.stats()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        await self.close()


if TYPE_CHECKING:
    #: Fails the type check where the class does not fit the interface.
    _fits: type[AsyncLogger] = RequestLogger
