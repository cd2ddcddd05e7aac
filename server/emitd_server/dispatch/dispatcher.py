"""`Dispatcher`: holds the registry of handlers and gives every record to those that take its level.

It knows no concrete handler, and nothing of gRPC. Servicers and clients in the process are given it.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from functools import lru_cache, partial
from math import inf
from pathlib import Path
from typing import Protocol, Self

from emitd_handlers.audit.source import AuditSource
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.clock import Clock, is_set_within
from emitd_handlers.columns import RecordColumns, columns_of
from emitd_handlers.diagnostics import Report, report
from emitd_handlers.errors import AuditNotFound
from emitd_handlers.jobs.source import JobSource, ManagedJobSource
from emitd_handlers.log_source import LogSource
from emitd_handlers.outcome import Committed, Outcome, Outcomes, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import CommittedSettings
from emitd_server.config.loader import Config, load_config
from emitd_server.dispatch.clock_watch import ClockWatch
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.dispatch.handler_life import START_SECONDS, HandlerLife, words_of
from emitd_server.dispatch.own_events import OwnEvents
from emitd_server.dispatch.queued_delivery import QueuedDelivery
from emitd_server.dispatch.recent_lines import RecentLines
from emitd_server.dispatch.redactor import Redactor
from emitd_server.dispatch.route import HandlerDelivery, Kind, Route, merge, reach
from emitd_server.errors import (
    NoHandler,
    NoSource,
    RequestInvalid,
    ServiceStopping,
    StartError,
)
from emitd_server.memory import MemoryAccount
from emitd_server.settings import ServerSettings

#: Routes that are remembered: senders choose the sources.
MAX_ROUTES = 4096
#: How long a handler that has nothing left to do may take to close.
CLOSE_SECONDS = 2.0


class Producer(Protocol):
    """Makes records in this process. Opened after the handlers are started, closed before they are stopped."""

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to send, in the dispatcher's event loop."""

    async def flush(self) -> None:
        """Wait until everything made so far was sent."""

    async def close(self, timeout: float) -> None:
        """Send for at most `timeout` seconds, and drop the rest."""


class Dispatcher:
    """Dispatches records: `register` handlers, `start`, `dispatch` as often as you like, `stop`."""

    def __init__(
        self,
        handlers: Iterable[BaseLogHandler] = (),
        *,
        settings: ServerSettings | None = None,
        report: Report = report,
    ) -> None:
        self.settings = settings or ServerSettings()
        self.report = report
        #: Gives the times of receipt, to all that is part of this service.
        self.clock = Clock()
        #: What the service itself writes into the audit trail.
        self.own_events = OwnEvents(self.clock, report, self.dispatch)
        self._clock_watch = ClockWatch(self.clock, report, self.own_events)
        #: What this service holds of requests, queues and replies.
        self.memory = MemoryAccount(self.settings.limits.memory_bytes)
        #: Replaces values in what senders give; None: nothing is to be replaced.
        self.redactor = Redactor(self.settings.redact) if self.settings.redact else None
        #: The last log lines that were accepted.
        self.lines = RecentLines(self.settings.recent_lines_bytes, self.clock.now())
        self._deliveries: list[HandlerDelivery] = []
        self._route: Callable[[Set[Kind]], Route] = lru_cache(MAX_ROUTES)(partial(Route, self._deliveries))
        #: Whether a handler has `sources` or `exclude_sources`.
        self._by_source = False
        self._jobs: JobSource | None = None
        self._audit_sources: list[AuditSource] = []
        self._log_sources: list[LogSource] = []
        self._started = False
        self._accepting = False
        #: The event loop it was started in, while it takes records.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._producer: Producer | None = None
        self._producer_lock = threading.Lock()
        for handler in handlers:
            self.register(handler)

    @classmethod
    def from_config(cls, config: Config | Path | str | None, *, report: Report = report) -> Self:
        """Build the service that a configuration describes: a loaded one, a file's path, or None for the defaults.

        Raises ConfigError with every problem of the file.
        """
        if not isinstance(config, Config):
            config = load_config(Path(config) if config is not None else None)
        for note in config.notes:
            report(f"configuration: {note}")
        return cls([entry.build() for entry in config.handlers], settings=config.server, report=report)

    def register(self, handler: BaseLogHandler) -> None:
        """Add a handler; it takes the levels of its settings. Only before `start`.

        Raises ValueError if its name is taken, or if it serves jobs and another handler does.
        """
        if self._started:
            raise RuntimeError("register handlers before the service is started")
        if any(known.name == handler.name for known in self.handlers):
            raise ValueError(f"there are two handlers named '{handler.name}'")
        if isinstance(handler, JobSource):
            if isinstance(self._jobs, BaseLogHandler):
                names = f"'{self._jobs.name}' and '{handler.name}'"
                raise ValueError(f"handlers {names} both serve jobs; only one may")
            self._jobs = handler
        if isinstance(handler, AuditSource):
            self._audit_sources.append(handler)
        if isinstance(handler, LogSource) and handler.keeps_lines:
            self._log_sources.append(handler)
        own_choice = type(handler).can_handle_source is not BaseLogHandler.can_handle_source
        if own_choice or handler.settings.sources is not None or handler.settings.exclude_sources:
            self._by_source = True
        handler.clock = self.clock
        handler.min_free_bytes = self.settings.limits.min_free_bytes
        window, settings = self.settings.idempotency_window, handler.delivery
        if isinstance(settings, CommittedSettings):
            self._deliveries.append(CommittedDelivery(handler, settings, window, self.report, self.memory))
        else:
            self._deliveries.append(QueuedDelivery(handler, settings, window, self.report, self.memory))

    @property
    def handlers(self) -> Sequence[BaseLogHandler]:
        """The registered handlers, in order."""
        return [delivery.handler for delivery in self._deliveries]

    @property
    def lives(self) -> Sequence[HandlerLife]:
        """What is known of each handler's life, in the same order."""
        return [delivery.life for delivery in self._deliveries]

    @property
    def jobs(self) -> JobSource:
        """The handler that serves jobs. Raises NoSource if there is none, HandlerUnavailable if it is down."""
        if self._jobs is None:
            raise NoSource("no active handler serves jobs; configure one such as 'type: database_job'")
        self._refuse_if_down(self._jobs)
        return self._jobs

    @property
    def managed_jobs(self) -> ManagedJobSource:
        """The same handler, if it offers every operation on jobs. Raises NoSource if not."""
        if not isinstance(jobs := self.jobs, ManagedJobSource):
            raise NoSource("the handler that serves jobs can only get, list and watch one")
        return jobs

    def audit(self, log_id: str = "") -> AuditSource:
        """Return the handler that keeps an audit log; an empty name means the only one.

        Raises NoSource if there is none that can be read, AuditNotFound if none has this name, and
        RequestInvalid if the name is empty and there are several; HandlerUnavailable if the handler is down, or if
        one is down whose log's name is not known yet.
        """
        sources = self._audit_sources
        if not sources:
            problem = "no active handler keeps an audit log that can be read"
            raise NoSource(f"{problem}; configure one such as 'type: json_audit'")
        names = [source.log_id for source in sources]
        if not log_id and len(sources) > 1:
            known = ", ".join(repr(name) for name in names if name)
            raise RequestInvalid("log_id", f"is mandatory here: there are the logs {known}")
        if log_id and log_id not in names:
            for source, name in zip(sources, names, strict=True):
                if not name:
                    self._refuse_if_down(source)
            known = ", ".join(f"'{name}'" for name in names)
            raise AuditNotFound(f"there is no audit log '{log_id}' here, only {known}")
        source = sources[names.index(log_id)] if log_id else sources[0]
        self._refuse_if_down(source)
        return source

    @property
    def older_lines(self) -> LogSource | None:
        """The handler that keeps log lines for longer than `lines`: one of all sources, of most levels, or the first.

        None if there is none. Raises HandlerUnavailable if it is down.
        """
        source = max(self._log_sources, key=reach, default=None)
        self._refuse_if_down(source)
        return source

    @property
    def is_running(self) -> bool:
        """Whether records are taken."""
        return self._accepting

    def producer(self, make: Callable[[], Producer]) -> Producer:
        """Return the producer of this process; the first call makes it. Any thread may call this."""
        with self._producer_lock:
            if self._producer is None:
                self._producer = make()
                if self._loop is not None:
                    self._producer.open(self._loop)
            return self._producer

    def stats(self) -> Mapping[str, Mapping[str, int]]:
        """Return how many records had which outcome, by the handler's name; and what the service did, under ``""``."""
        counts = {delivery.handler.name: Counter(delivery.counts) for delivery in self._deliveries}
        return counts if self.redactor is None else {"": Counter(redacted=self.redactor.count), **counts}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self, *, keep_trying: bool = False) -> None:
        """Start every handler, in the order of registration; if one fails, stop those before it.

        Raises StartError naming the handler. With `keep_trying`, a handler that fails is down instead: its records are
        refused with HandlerUnavailable, and it is tried again until it is up; one that is still starting after
        START_SECONDS is not waited for.
        """
        if self._started:
            return
        self._started = True
        for index, delivery in enumerate(self._deliveries):
            try:
                await delivery.start(keep_trying=keep_trying)
            except (Exception, SystemExit) as error:
                for started in self._deliveries[: index + 1]:
                    await started.stop()
                self._started = False
                reason = words_of(error)
                raise StartError(f"handler '{delivery.handler.name}' could not start: {reason}") from error
        if keep_trying:
            await self._wait_for_first_tries()
        self._accepting = True
        self._loop = asyncio.get_running_loop()
        self.own_events.start()
        self._clock_watch.start()
        if self._producer is not None:
            self._producer.open(self._loop)

    async def dispatch(self, records: Sequence[LogRecord], size: float = inf) -> Outcomes:
        """Give each record to every handler that takes its level; return one outcome each, in order.

        `size`: the bytes of their request, which may then be joined with others.

        `Committed` means that every committed handler has the record for good and every queued one has it in
        its queue (or has counted it as dropped). A record that one committed handler refused goes to no queued
        one. Log lines are refused with MemoryExhausted while the account of memory is tight, and all records while
        it is full. Raises ServiceStopping when no records are taken.
        """
        if not self._accepting:
            raise ServiceStopping
        if self.memory.is_tight:
            return await self._dispatch_what_may(records)
        return await self._dispatch(records, size)

    async def _dispatch_what_may(self, records: Sequence[LogRecord]) -> Outcomes:
        """Dispatch the records that are taken while memory is tight, and refuse the others."""
        refused = Refused(self.memory.exhausted())
        is_full = self.memory.is_full
        taken = [record for record in records if record.level >= Level.AUDIT and not is_full]
        outcomes = iter(await self._dispatch(taken)) if taken else iter(())
        return Outcomes.of(
            [next(outcomes) if record.level >= Level.AUDIT and not is_full else refused for record in records]
        )

    async def _dispatch(self, given: Sequence[LogRecord], size: float = inf) -> Outcomes:
        records = columns_of(given)
        kinds: Sequence[Kind] = records.level
        if self._by_source:
            kinds = list(zip(records.level, records.source, strict=True))
        route = self._route(frozenset(kinds))
        outcomes = await (
            route.only.take(records, size) if route.only else self._offer_all(route, records, kinds, size)
        )
        if route.has_lines and self.lines.is_on:
            self.lines.add(records, outcomes, are_lines=route.is_lines)
        return outcomes

    async def _offer_all(
        self, route: Route, records: RecordColumns, kinds: Sequence[Kind], size: float
    ) -> Outcomes:
        outcomes: list[Outcome | None] = [
            None if kind in route.taken else Refused(NoHandler(level, source if self._by_source else ""))
            for level, source, kind in zip(records.level, records.source, kinds, strict=True)
        ]

        async def offer(delivery: HandlerDelivery) -> None:
            """Give a delivery its records, in order, except those already refused; merge its outcomes."""
            wanted = route.kinds_of[delivery]
            share = [
                index
                for index, kind in enumerate(kinds)
                if kind in wanted and not isinstance(outcomes[index], Refused)
            ]
            if share:
                is_mixed = len(route.committed) > 1 and len(share) < len(records)
                answers = await delivery.take(
                    records if len(share) == len(records) else [records[index] for index in share],
                    inf if is_mixed else size,
                )
                for index, answer in zip(share, answers, strict=True):
                    outcomes[index] = merge(outcomes[index], answer)

        await asyncio.gather(*map(offer, route.committed))
        for delivery in route.queued:
            await offer(delivery)
        return Outcomes.of([Committed() if outcome is None else outcome for outcome in outcomes])

    def route(self, record: LogRecord) -> Route:
        """Return the deliveries of a record."""
        kind: Kind = (record.level, record.source) if self._by_source else record.level
        return self._route(frozenset((kind,)))

    async def drain(self) -> None:
        """Refuse further records, then wait until every handler is done with those it has."""
        if self._producer is not None:
            await self._producer.flush()
        self._accepting = False
        for delivery in self._deliveries:
            await delivery.drain()

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Refuse, drain to a deadline, flush and close every handler; report what was left. Idempotent."""
        if not self._started:
            return
        drain_seconds = self.settings.shutdown.drain_seconds if drain_seconds is None else drain_seconds
        deadline = asyncio.get_running_loop().time() + drain_seconds
        self._loop = None
        try:
            if self._producer is not None:
                await self._producer.close(drain_seconds)
        finally:
            await self._clock_watch.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self.own_events.stop()
            self._accepting = False
            await asyncio.gather(*(self._stop_delivery(delivery, deadline) for delivery in self._deliveries))
            self._started = False

    def report_left(self) -> None:
        """Count and report the records that handlers were given and have not finished. Any thread may call this."""
        for delivery in self._deliveries:
            self._report_left(delivery)

    async def _stop_delivery(self, delivery: HandlerDelivery, deadline: float) -> None:
        name = delivery.handler.name
        try:
            async with asyncio.timeout_at(deadline):
                await delivery.drain()
        except TimeoutError:
            pass
        except Exception as error:
            self.report(f"handler '{name}' failed while draining: {error!r}")
        finally:
            self._report_left(delivery)
        try:
            async with asyncio.timeout_at(max(deadline, asyncio.get_running_loop().time() + CLOSE_SECONDS)):
                await delivery.stop()
        except TimeoutError:
            self.report(f"handler '{name}' did not close in time and was abandoned")
        except Exception as error:
            self.report(f"handler '{name}' failed while closing: {error!r}")

    def _report_left(self, delivery: HandlerDelivery) -> None:
        left = delivery.abandon()
        if left:
            self.report(f"handler '{delivery.handler.name}' did not finish in time: {left} records were left")

    async def _wait_for_first_tries(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        for life in self.lives:
            if not await is_set_within(life.is_tried, deadline - asyncio.get_running_loop().time()):
                self.report(
                    f"handler '{life.handler.name}' has not started in {START_SECONDS:g} s; it may yet"
                )

    def _refuse_if_down(self, source: object) -> None:
        for life in self.lives:
            if life.handler is source:
                life.refuse_if_down()
