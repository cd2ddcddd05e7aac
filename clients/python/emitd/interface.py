"""What every asynchronous client of emitd can do, in process or over the network.

An application that asks for an `AsyncLogger` names its client on one line, the one that makes it:

    from emitd_server.in_process.client import InProcessClient
    async with InProcessClient.from_config("logging_config.yml", source="shop") as logger: ...

The line for a client that sends to a server:

    from emitd import AsyncLogClient
    async with AsyncLogClient("emitd.example:50051", source="shop") as logger: ...

A plain call (`info`, `advance`) never waits and never raises for trouble with the delivery: records that cannot be
delivered are counted by cause in `stats`, and reported on standard error. An awaited call (`audit`, `get_job`) raises
`emitd.errors.EmitError`, whose `retryable` says whether another try can help. One exception: the plain calls of a
reporter whose job went on without it raise `emitd.errors.LeaseLost`.

Plain calls may come from any thread. Awaited calls come from the event loop that the client was opened in; elsewhere
they raise RuntimeError.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, SupportsFloat, TypeVar

from emitd.jobs.interface import DEFAULT_LEASE_SECONDS, AsyncJobReporter

if TYPE_CHECKING:
    from emitd.jobs.track import AsyncTrack
    from emitd.receipt import Receipt
    from emitd.v1 import Job, WatchJobResponse

__all__ = ["AsyncJobReporter", "AsyncLogger"]

T = TypeVar("T")


class AsyncLogger(Protocol):
    """Sends log lines, audit events and job reports, and reads jobs.

    Attributes and details are Python objects; `emitd.records.encoding` says how they become JSON.
    """

    def debug(self, message: str, /, **attributes: object) -> None:
        """Log a line of level DEBUG. See `log`."""

    def info(self, message: str, /, **attributes: object) -> None:
        """Log a line of level INFO. See `log`."""

    def warning(self, message: str, /, **attributes: object) -> None:
        """Log a line of level WARNING. See `log`."""

    def error(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR. See `log`."""

    def critical(self, message: str, /, **attributes: object) -> None:
        """Log a line of level CRITICAL. See `log`."""

    def log(self, level: str | int, message: str, /, **attributes: object) -> None:
        """Log a line. Never waits, never raises: an attribute that is no JSON becomes its `repr`.

        `level` is a name or number of Python's `logging`. Any other number means the next lower of the five, an unknown
        name INFO; the line then says what was asked for, in the attribute `level`.
        """

    def exception(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR with the exception that is being handled.

        It becomes OpenTelemetry's attributes `exception.type`, `exception.message` and `exception.stacktrace`.
        """

    def bind(self, **attributes: object) -> Self:
        """Return a logger that adds these attributes to every record, and shares everything else with this one.

        A call's own attributes of the same name win over them, and they win over those of `emitd.context.log_context`.
        """

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
    ) -> "Receipt":
        """Send an audit event, and return the receipt when it is safe: its `state` says where.

        `source_ip` is an address, or `unknown`; `time_unix_nano` is when it happened, 0: now. A call with the
        `record_id` and content of an earlier one, attributes of `bind` included, is harmless: it gets the first
        receipt, marked `duplicate`. So an event with a `record_id` has no attributes of `log_context`, and the time of
        its receipt unless the caller gives one. The call tries again while that can help, for `timeout` seconds (None:
        the client's default).

        COMMITTED: the service has it in its audit trail. SPOOLED: no server was reached in time; the event is in the
        spool on this machine's disk, and is sent later. With `require_commit`, or without a spool, that is Unavailable.
        In process there is no spool.

        Raises RecordRejected or Unavailable, and TypeError naming the key of `details` that is no JSON: an object of an
        unknown class, NaN, an infinity.
        """

    def job(
        self,
        job_id: str,
        job_type: str,
        *,
        total: SupportsFloat | None = None,
        lease: int | None = DEFAULT_LEASE_SECONDS,
        labels: Mapping[str, str] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> AsyncJobReporter:
        """Return the reporter of one run of a job, for `async with`. Nothing is sent yet.

        `total` is how many steps `advance` counts up to; None or 0: there is no percentage. A job without reports for
        `lease` seconds, a whole number, becomes FAILED by itself, with the reason LEASE_EXPIRED; the reporter renews
        it three times as often, in process while the event loop turns. With None the job of a worker that dies stays
        RUNNING.

        Raises TypeError as `audit` does, and ValueError naming the number that makes no sense.
        """

    def track(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        job_type: str,
        job_id: str | None = None,
        total: SupportsFloat | None = None,
        lease: int | None = DEFAULT_LEASE_SECONDS,
        labels: Mapping[str, str] | None = None,
    ) -> "AsyncTrack[T]":
        """Return an iterator over `items`, for `async for`, that reports them as a job: see `emitd.jobs.track`.

        `job_id` None: a random one. `total` None: the length of `items`, if it has one. Without a length, or with 0,
        the job has no percentage until it is COMPLETED. The steps of the loop raise what a job's reporter raises.
        """

    async def get_job(self, job_id: str) -> "Job | None":
        """Return a job as it stands; None if there is none. Raises RequestRejected for an empty id."""

    def list_jobs(
        self,
        *,
        job_type: str = "",
        statuses: Iterable[str] = (),
        updated_after_unix_nano: int = 0,
        page_size: int = 100,
    ) -> "AsyncGenerator[Job, None]":
        """Yield jobs, newest first, reading a page at a time.

        `statuses` are names such as `RUNNING`; none: any. Raises RequestRejected for an unknown one.
        """

    def watch_job(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        wait_for_creation: bool = False,
        follow: bool = False,
        min_interval_ms: int = 0,
    ) -> "AsyncGenerator[WatchJobResponse, None]":
        """Yield the job's state at once, then every change, until it has ended. See `emitd.v1.WatchJobRequest`.

        Messages with `heartbeat` set bring nothing new; they come when nothing else does. Close the generator
        (`contextlib.aclosing`) to stop watching before the end. Raises JobNotFound or Unavailable.
        """

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until every log line logged so far is delivered or counted as dropped.

        Return False if `timeout` seconds were not enough; None: wait as long as it takes.
        """

    async def close(self) -> None:
        """Flush, then end. Idempotent. Later plain calls are counted as dropped, awaited ones raise ClientNotOpen.

        A `track` that is still open ends as INCOMPLETE.
        """

    def stats(self) -> Mapping[str, int]:
        """Return how many records were `sent`, and how many dropped, by cause (`dropped_queue_full`, ...)."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
