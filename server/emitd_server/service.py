"""`LoggingService`: holds the registry of handlers and dispatches every record to those that take it.

Instantiated once, in the entry point of the server or of an application that uses it in process. It knows no
concrete handler, and nothing of gRPC.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from emitd_handlers.audit.source import AuditSource
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import EmitdError
from emitd_handlers.jobs.source import JobSource, ManagedJobSource
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery
from emitd_server.config.loader import Config, load_config
from emitd_server.diagnostics import Report, report
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.dispatch.queued_delivery import QueuedDelivery
from emitd_server.errors import (
    AuditLogNotFound,
    NoAuditSource,
    NoHandler,
    NoJobSource,
    RequestInvalid,
    ServiceStopping,
    StartError,
)
from emitd_server.settings import ServerSettings

if TYPE_CHECKING:
    from emitd_server.in_process.client import InProcessClient
    from emitd_server.in_process.ingress import Ingress

__all__ = ["LoggingService", "Route"]

HandlerDelivery: TypeAlias = CommittedDelivery | QueuedDelivery

#: How long a handler that has nothing left to do may take to close.
CLOSE_SECONDS = 2.0


class Route:
    """The deliveries that a batch with records of some levels takes."""

    def __init__(self, deliveries: Sequence[HandlerDelivery], levels: frozenset[Level]) -> None:
        deliveries = [delivery for delivery in deliveries if not delivery.levels.isdisjoint(levels)]
        self.committed = [delivery for delivery in deliveries if delivery.kind is Delivery.COMMITTED]
        self.queued = [delivery for delivery in deliveries if delivery.kind is Delivery.QUEUED]
        #: The one delivery that takes the whole batch, if it is so simple; it mostly is.
        self.only = deliveries[0] if len(deliveries) == 1 and deliveries[0].levels >= levels else None
        #: (handler's name, its delivery), committed ones first.
        self.deliveries = [
            (delivery.handler.name, delivery.kind) for delivery in (*self.committed, *self.queued)
        ]


class LoggingService:
    """Dispatches records: `register` handlers, `start`, `dispatch` as often as you like, `stop`."""

    def __init__(
        self,
        handlers: Iterable[BaseLogHandler] = (),
        *,
        settings: ServerSettings | None = None,
        report: Report = report,
    ) -> None:
        self.settings = settings or ServerSettings()
        self._report = report
        self._deliveries: list[HandlerDelivery] = []
        self._routes: dict[frozenset[Level], Route] = {}
        self._started = False
        self._accepting = False
        #: The event loop it was started in, while it takes records.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._intake: Ingress | None = None
        self._intake_lock = threading.Lock()
        for handler in handlers:
            self.register(handler)

    @classmethod
    def from_config(cls, config: Config | Path | str | None, *, report: Report = report) -> Self:
        """Build the service that a configuration describes: a loaded one, a file's path, or None: the defaults.

        Raises ConfigError with every problem of the file.
        """
        if not isinstance(config, Config):
            config = load_config(Path(config) if config is not None else None)
        return cls([entry.build() for entry in config.handlers], settings=config.server, report=report)

    def register(self, handler: BaseLogHandler) -> None:
        """Add a handler; it takes the levels of its settings. Only before `start`.

        Raises ValueError if its name is taken, or if it serves jobs and another handler does.
        """
        if self._started:
            raise RuntimeError("register handlers before the service is started")
        if any(delivery.handler.name == handler.name for delivery in self._deliveries):
            raise ValueError(f"there are two handlers named '{handler.name}'")
        others = [
            delivery.handler.name for delivery in self._deliveries if isinstance(delivery.handler, JobSource)
        ]
        if others and isinstance(handler, JobSource):
            raise ValueError(f"handlers '{others[0]}' and '{handler.name}' both serve jobs; only one may")
        kind = handler.settings.delivery or handler.default_delivery
        delivery_class: type[HandlerDelivery] = (
            CommittedDelivery if kind is Delivery.COMMITTED else QueuedDelivery
        )
        self._deliveries.append(delivery_class(handler, self.settings.idempotency_window, self._report))

    @property
    def handlers(self) -> Sequence[BaseLogHandler]:
        """The registered handlers, in order."""
        return [delivery.handler for delivery in self._deliveries]

    @property
    def jobs(self) -> JobSource:
        """The handler that serves jobs. Raises NoJobSource if there is none."""
        for delivery in self._deliveries:
            if isinstance(delivery.handler, JobSource):
                return delivery.handler
        raise NoJobSource

    @property
    def managed_jobs(self) -> ManagedJobSource:
        """The same handler, where it offers all there is to do with jobs. Raises NoJobSource if not."""
        jobs = self.jobs
        if isinstance(jobs, ManagedJobSource):
            return jobs
        raise NoJobSource("the handler that serves jobs can only get, list and watch one")

    def audit(self, log_id: str = "") -> AuditSource:
        """Return the handler that keeps an audit log; an empty name means the only one.

        Raises NoAuditSource if there is none that can be read, AuditLogNotFound if none of this name, and
        RequestInvalid for an empty name where there are several.
        """
        sources = [
            delivery.handler for delivery in self._deliveries if isinstance(delivery.handler, AuditSource)
        ]
        if not sources:
            raise NoAuditSource
        if not log_id and len(sources) == 1:
            return sources[0]
        for source in sources:
            if log_id and source.log_id == log_id:
                return source
        names = [source.log_id for source in sources]
        if log_id:
            raise AuditLogNotFound(log_id, names)
        raise RequestInvalid("log_id", f"is mandatory here: there are the logs {', '.join(map(repr, names))}")

    @property
    def is_running(self) -> bool:
        """Whether the service takes records."""
        return self._accepting

    @property
    def intake(self) -> "Ingress":
        """The way in for what is made in this process."""
        # Loaded here, because it loads the stubs and with them grpc, which nobody needs who only dispatches.
        from emitd_server.in_process.ingress import Ingress

        with self._intake_lock:  # a web framework may ask for the first client in a thread
            if self._intake is None:
                self._intake = Ingress(self, self._report)
                if self._loop is not None:
                    self._intake.open(self._loop)
            return self._intake

    def client(self, source: str = "") -> "InProcessClient":
        """Return a logger for this process; `source` is the name of the application.

        It works from the start of the service to its end, and costs little: make as many as you like. What it was
        given is sent before the service stops.
        """
        from emitd_server.in_process.client import InProcessClient

        return InProcessClient(self, source=source)

    def stats(self) -> Mapping[str, Mapping[str, int]]:
        """Return for each handler, by name, how many records met which fate."""
        return {delivery.handler.name: Counter(delivery.counts) for delivery in self._deliveries}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every handler, in the order of registration; if one fails, stop those before it.

        Raises StartError naming the handler.
        """
        if self._started:
            return
        self._started = True
        for index, delivery in enumerate(self._deliveries):
            try:
                await delivery.start()
            except (EmitdError, OSError) as error:
                for started in self._deliveries[: index + 1]:
                    await started.stop()
                self._started = False
                raise StartError(f"handler '{delivery.handler.name}' could not start: {error}") from error
        self._accepting = True
        self._loop = asyncio.get_running_loop()
        if self._intake is not None:
            self._intake.open(self._loop)

    async def dispatch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Hand each record to every handler that takes its level; return one outcome each, in order.

        `Committed` means that every committed handler has the record for good and every queued one has it in
        its queue (or has counted it as dropped). A record that one committed handler refused goes to no queued
        one. Raises ServiceStopping when the service does not take records.
        """
        if not self._accepting:
            raise ServiceStopping
        route = self._route(frozenset([record.level for record in records]))
        if route.only is not None:
            return await route.only.take(records)
        outcomes: list[Outcome | None] = [self._unrouted(record) for record in records]
        await asyncio.gather(*(_offer(delivery, records, outcomes) for delivery in route.committed))
        for delivery in route.queued:
            await _offer(delivery, records, outcomes)
        return [Committed() if outcome is None else outcome for outcome in outcomes]

    def route(self, level: Level) -> Route:
        """Return the deliveries of records of `level`."""
        return self._route(frozenset((level,)))

    async def drain(self) -> None:
        """Refuse further records, then wait until every handler is done with those it has."""
        if self._intake is not None:
            await self._intake.lines.flush(None)
        self._accepting = False
        for delivery in self._deliveries:
            await delivery.drain()

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Refuse, drain to a deadline, flush and close every handler; report what was left. Idempotent."""
        if not self._started:
            return
        if drain_seconds is None:
            drain_seconds = self.settings.shutdown.drain_seconds
        deadline = asyncio.get_running_loop().time() + drain_seconds
        self._loop = None
        if self._intake is not None:
            await self._intake.close(drain_seconds)
        self._accepting = False
        await asyncio.gather(*(self._stop_delivery(delivery, deadline) for delivery in self._deliveries))
        self._started = False

    async def _stop_delivery(self, delivery: HandlerDelivery, deadline: float) -> None:
        name = delivery.handler.name
        try:
            async with asyncio.timeout_at(deadline):
                await delivery.drain()
        except TimeoutError:
            self._report(f"handler '{name}' did not finish in time: {delivery.abandon()} records were left")
        try:
            async with asyncio.timeout_at(max(deadline, asyncio.get_running_loop().time() + CLOSE_SECONDS)):
                await delivery.stop()
        except TimeoutError:
            self._report(f"handler '{name}' did not close in time and was abandoned")
        except Exception as error:
            self._report(f"handler '{name}' failed while closing: {error!r}")
        if isinstance(delivery, QueuedDelivery):
            delivery.report_drops()

    def _route(self, levels: frozenset[Level]) -> Route:
        route = self._routes.get(levels)
        if route is None:
            route = self._routes[levels] = Route(self._deliveries, levels)
        return route

    def _unrouted(self, record: LogRecord) -> Outcome | None:
        return None if self.route(record.level).deliveries else Refused(NoHandler(record.level))


async def _offer(
    delivery: HandlerDelivery, records: Sequence[LogRecord], outcomes: list[Outcome | None]
) -> None:
    """Give a delivery the records it takes and nobody refused, in order, and merge what it says into `outcomes`."""
    share = [
        index
        for index, record in enumerate(records)
        if record.level in delivery.levels and not isinstance(outcomes[index], Refused)
    ]
    if not share:
        return
    answers = await delivery.take([records[index] for index in share])
    for index, answer in zip(share, answers, strict=True):
        outcomes[index] = _merge(outcomes[index], answer)


def _merge(first: Outcome | None, second: Outcome) -> Outcome:
    """Combine two handlers' outcomes: a refusal wins; a duplicate is one only where both say so."""
    if first is None or isinstance(second, Refused):
        return second
    if isinstance(first, Refused):
        return first
    return Committed(first.receipt or second.receipt, duplicate=first.duplicate and second.duplicate)
