"""`BaseLogHandler`: the contract between the service and a handler of records."""

import asyncio
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import ClassVar, ParamSpec, TypeAlias, TypeVar

from msgspec.structs import replace

from emitd_handlers.clock import Clock
from emitd_handlers.durable.worker_thread import WorkerThread
from emitd_handlers.errors import HandlerError, HandlerUnavailable
from emitd_handlers.outcome import (
    AuditReceipt,
    Committed,
    JobReceipt,
    Outcome,
    Receipt,
    RecentCommit,
    Refused,
)
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import (
    CommittedSettings,
    Delivery,
    DeliverySettings,
    HandlerSettings,
    QueuedSettings,
    flat_keys,
)
from emitd_handlers.text.patterns import matches_any

__all__ = ["COMMON_LEVELS", "BaseLogHandler", "EmitResult"]

#: DEBUG to CRITICAL: the levels of a handler unless its class or its entry has others.
COMMON_LEVELS = frozenset({Level.DEBUG, Level.INFO, Level.WARNING, Level.ERROR, Level.CRITICAL})

#: What `emit` returns: a receipt to hand to the sender, or None.
EmitResult: TypeAlias = Receipt | None

P = ParamSpec("P")
T = TypeVar("T")


class BaseLogHandler(ABC):
    """Takes records of some levels and does one thing with them.

    The smallest handler is a class with `emit`. It is named in `logging_config.yml` by its class, built by
    the service from its entry, started once, given records, and stopped once.

    Life. The constructor must do no I/O and may run outside an event loop. `start` and `stop` run in the
    service's event loop; records come only between the two. `stop` may come without `start`, after a `start` that
    raised, and twice. `start` may come again after `stop`.

    Concurrency. With `delivery: queued` one task calls `emit_batch`, one batch at a time. With `delivery:
    committed` several calls of `emit_batch` can be under way at once; the default `emit_batch` of a plain
    `def emit` still runs one `emit` at a time, in a thread of the handler's own.

    Cancellation. The service never cancels `emit_batch`. When a sender goes away or a timeout passes, only
    the waiting ends: the handler's outcome still counts.
    """

    #: The struct that the entry's settings are read into. One of the handler's own derives from
    #: `HandlerSettings`; a field of type `pathlib.Path` is taken relative to the configuration file.
    Settings: ClassVar[type[HandlerSettings]] = HandlerSettings
    #: The levels of a handler whose entry has no `levels`.
    default_levels: ClassVar[frozenset[Level]] = COMMON_LEVELS
    #: The delivery of a handler whose entry has no `delivery`.
    default_delivery: ClassVar[Delivery] = Delivery.QUEUED
    #: With `delivery: committed`: whether small requests that wait are joined into one batch; for a handler to which a
    #: batch has a fixed cost, such as a sync.
    joins_calls: ClassVar[bool] = False
    #: Whether a handler is required whose entry has no `required`.
    default_required: bool = False

    def __init__(self, settings: HandlerSettings | None = None, *, name: str = "") -> None:
        """Keep `settings` (None: the defaults) and `name`, the entry's key (empty: the class's name).

        A handler that overrides this must accept and pass on both.
        """
        self.settings = self.Settings() if settings is None else settings
        self.name = name or type(self).__name__
        levels = self.settings.levels
        self.levels = self.default_levels if levels is None else frozenset(levels)
        #: Why the handler cannot do its work now, in a line; empty: it can. The health service shows it.
        self.health_problem = ""
        #: Gives the times of receipt. A service gives its own to its handlers.
        self.clock = Clock()
        #: When the handler last reported that it can, by the monotonic clock; 0: never.
        self.well_at = 0.0
        #: Why the handler asked to be started again; empty: it did not. The service empties it before each `start`.
        self.restart_problem = ""
        #: Gives the seconds for which the oldest request waits that has no outcome, as far as is known.
        self.longest_wait: Callable[[], float] = lambda: 0.0
        self._health_listeners: list[Callable[[], None]] = []
        self._thread: WorkerThread | None = None
        self._stopped = False

    @property
    def delivery(self) -> DeliverySettings:
        """The delivery of the settings, else the class's `default_delivery`, with all its keys."""
        given = self.settings.delivery or self.default_delivery
        if isinstance(given, Delivery):
            given = CommittedSettings() if given is Delivery.COMMITTED else QueuedSettings()
        # A struct of an earlier version may have given such a key a default of its own.
        own = {new: getattr(self.settings, old, None) for old, new in flat_keys(type(given)).items()}
        return replace(given, **{name: value for name, value in own.items() if value is not None})

    @property
    def is_required(self) -> bool:
        """Whether the service is ready only while this handler works: the settings' `required`, else the default."""
        return self.default_required if self.settings.required is None else self.settings.required

    def can_handle(self, level: Level) -> bool:
        """Return whether records of `level` are for this handler. Asked once for each level, at start."""
        return level in self.levels

    def can_handle_source(self, source: str) -> bool:
        """Return whether records of a source are for this handler: by `sources` and `exclude_sources` of its entry."""
        sources, excluded = self.settings.sources, self.settings.exclude_sources
        return (sources is None or matches_any(sources, source)) and not matches_any(excluded, source)

    @abstractmethod
    def emit(self, record: LogRecord) -> EmitResult | Awaitable[EmitResult]:
        """Do the logging action for one record: as a `def`, or as an `async def`.

        A plain `def` runs in the handler's own thread and may block it; an `async def` runs in the service's
        event loop and must not block. Returning means done (for a committed handler: durably); a return value that
        is no receipt counts as None. Any exception refuses this record only: `RecordInvalid` for
        good, a `RetryableError` or any other exception as something that may pass.
        """

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Take many records and return an outcome for each, in order.

        Override it if a batch is cheaper than its records one by one. `records` is never empty and must
        not be kept. Raising refuses the whole batch; so does a result of another length. After `stop` it
        raises HandlerUnavailable.
        """
        if not inspect.iscoroutinefunction(self.emit):
            return await self.run_in_thread(self._emit_all, records)
        self.refuse_if_stopped()
        return [await self._emit_async(record) for record in records]

    async def emit_by_batch(self, record: LogRecord) -> EmitResult:
        """Take one record by `emit_batch`: the `emit` of a handler whose own `emit_batch` does the work."""
        (outcome,) = await self.emit_batch([record])
        if isinstance(outcome, Refused):
            raise outcome.error
        return outcome.receipt

    def format(self, record: LogRecord) -> str | bytes | tuple[object, ...]:
        """Return the record in the form this handler writes: text, bytes or a row. Pure.

        The service does not call it. A handler's `emit` should, so that a subclass can change the form alone.
        Default: the message.
        """
        return record.message

    async def start(self) -> None:
        """Open what the handler needs. If it raises, the handler is down, and the error's text says why.

        The service then calls `stop`, and `start` again after a pause, until it succeeds. A subclass that overrides it
        calls this one first.
        """
        self._stopped = False

    def introduction(self) -> str:
        """Return a line for standard error once all handlers are started; empty: none."""
        return ""

    async def stop(self) -> None:
        """Flush and close. A subclass that overrides it calls this one last."""
        self._stopped = True
        if self._thread is not None:
            await self._thread.stop()
            self._thread = None

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        """Return the last records committed before `start`, oldest first, at most `limit`.

        Called once, after `start`. A handler whose commits outlive the process returns them, so that a retry after
        a restart yields the first receipt. Default: none.
        """
        return ()

    def run_in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run a blocking `call` in the handler's own thread, after those before it."""
        self.refuse_if_stopped()
        if self._thread is None:
            self._thread = WorkerThread(f"emitd-handler-{self.name}")
        return self._thread.run(call, *args, **kwargs)

    def report_health(self, problem: str) -> None:
        """Set, in the service's event loop, why the handler cannot do its work now; an empty text: it can again.

        The health service then reports NOT_SERVING for `handler/NAME`. Records still come: `emit` must refuse them.
        """
        if not problem:
            self.well_at = time.monotonic()
        if problem != self.health_problem:
            self.health_problem = problem
            for listener in self._health_listeners:
                listener()

    def request_restart(self, problem: str) -> None:
        """Ask the service, in its event loop, to stop this handler and to start it again, because of `problem`.

        The handler is down until a `start` succeeds: the service gives it no records, reports NOT_SERVING, and tries
        `start` with growing pauses. Asking again changes nothing.
        """
        if not self.restart_problem:
            self.restart_problem = problem
            for listener in self._health_listeners:
                listener()

    def add_health_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener`, in the service's event loop, when `health_problem` or `restart_problem` has changed."""
        self._health_listeners.append(listener)

    def refuse_if_stopped(self) -> None:
        """Raise HandlerUnavailable between `stop` and the next `start`."""
        if self._stopped:
            raise HandlerUnavailable(f"handler '{self.name}' is stopped")

    def refusal(self, error: BaseException) -> Refused:
        """Return the outcome of a record whose handling raised `error`."""
        if isinstance(error, HandlerError):
            return Refused(error)
        failure = HandlerUnavailable(f"handler '{self.name}' failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return Refused(failure)

    async def _emit_async(self, record: LogRecord) -> Outcome:
        try:
            return Committed(_receipt(await self.emit(record)))  # type: ignore[misc]  # an `async def` here
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self.refusal(error)  # not we were cancelled, but something that `emit` waited for
        except (Exception, SystemExit) as error:  # a handler must not end the process
            return self.refusal(error)

    def _emit_all(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        for record in records:
            try:
                outcomes.append(Committed(_receipt(self.emit(record))))
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                outcomes.append(self.refusal(error))
        return outcomes


def _receipt(result: object) -> EmitResult:
    if result is None or isinstance(result, (AuditReceipt, JobReceipt)):
        return result
    if isinstance(result, Coroutine):
        result.close()  # else Python warns that nobody awaited it
    if inspect.isawaitable(result):
        raise TypeError("emit returned an awaitable, so nothing was done yet: define it as `async def`")
    return None
