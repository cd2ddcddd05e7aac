"""`DatabaseJobHandler`: merges reports into a table of jobs, which can be read, listed and watched.

A report is acknowledged when its transaction is on the medium; a batch is one transaction. `jobs.merge` is the rule,
`jobs.sqlite` and `jobs.postgres` are the databases, `jobs.watch` serves the watchers.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.diagnostics import report
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.merge import MAX_ATTEMPT_JUMP
from emitd_handlers.jobs.source import (
    Job,
    JobChange,
    JobFilter,
    JobPage,
    JobQuery,
    JobUpdate,
    TransitionPage,
    TransitionQuery,
)
from emitd_handlers.jobs.sqlite.store import SqliteJobStore
from emitd_handlers.jobs.store import JobHistory, JobStore, Retention, SharedJobStore
from emitd_handlers.jobs.transaction import Rules
from emitd_handlers.jobs.watch.publisher import ChangePoller, ChangePublisher
from emitd_handlers.outcome import Outcome, RecentCommit
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings, PositiveInt, PositiveSeconds

V = TypeVar("V")

#: How often to look for ended jobs and histories to remove.
RETENTION_SECONDS = 60.0
#: How many jobs one transaction removes, each with its whole history, while reports wait.
MAX_REMOVED = 50

#: How often the files of an SQLite database are checked: a change by another process must be noticed within a second.
FILE_CHECK_SECONDS = 0.5

SECONDS_A_DAY = 86_400.0
Days = Annotated[float, msgspec.Meta(gt=0)]


#: The name of a schema or a table. PostgreSQL cuts names at 63 bytes: this leaves room for suffixes.
_NAME = r"^[a-z_][a-z0-9_]{0,39}\Z"


class DatabaseJobSettings(HandlerSettings, frozen=True, kw_only=True):
    """The keys of an entry of type `database_job`, in addition to the common ones."""

    #: The database: `sqlite:///` and a path relative to the configuration file, `sqlite:////` and an absolute one, or
    #: `postgresql://USER@HOST:PORT/NAME`. A missing SQLite file and its folders are made, with modes 0600 and 0700.
    database: DatabaseUrl = DatabaseUrl(Path("logs/jobs.db"))
    #: PostgreSQL: the schema that the tables are in, made if it is missing; empty: the connection's own.
    schema: Annotated[str, msgspec.Meta(pattern=rf"^\Z|{_NAME}")] = ""
    #: PostgreSQL: the table of jobs. The names of the other tables begin with it, unless it is the default.
    table: Annotated[str, msgspec.Meta(pattern=_NAME)] = "job_logs"
    #: PostgreSQL: how many connections are open at once, not counting the one that listens.
    pool_size: PositiveInt = 4
    #: PostgreSQL: how often to look for changes by other replicas whose notification was lost, in seconds.
    catch_up_seconds: PositiveSeconds = 2.0
    #: SQLite: how many jobs are kept in memory, about 1 kB each, so that a report need not read its job first.
    cache_size: Annotated[int, msgspec.Meta(ge=0)] = 16_384
    #: How often to look for leases that have run out, in seconds.
    lease_check_seconds: PositiveSeconds = 1.0
    #: Whether the history also keeps reports that change no status.
    keep_progress: bool = False
    #: By how much a report's attempt may be higher than its job's; a report of a higher one is refused.
    max_attempt_jump: PositiveInt = MAX_ATTEMPT_JUMP
    #: How many days a job is kept after its end; None: for ever.
    keep_ended_days: Days | None = None
    #: How many ended jobs are kept, those that ended last; None: all.
    keep_ended_jobs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    #: How many days a job's history is kept after its end; None: as long as the job.
    keep_history_days: Days | None = None


class DatabaseJobHandler(BaseLogHandler):
    """Keeps jobs in a database, and is a `ManagedJobSource`, which describes its methods for readers.

    A receipt says what the report did to its job.

    Other programs may read the tables at any time, and also write to them; but watchers of jobs in SQLite see only
    changes that come through this handler.
    """

    Settings: ClassVar[type[HandlerSettings]] = DatabaseJobSettings
    settings: DatabaseJobSettings
    emit = BaseLogHandler.emit_by_batch
    default_levels = frozenset({Level.JOB_STATUS})
    default_delivery = Delivery.COMMITTED
    joins_calls = True

    def __init__(self, settings: DatabaseJobSettings | None = None, *, name: str = "") -> None:
        super().__init__(settings, name=name)
        #: A shared database is away for all replicas at once: none of them would be ready.
        self.default_required = self.settings.database.path is not None
        #: None: the handler is not running.
        self._store: JobStore | None = None
        self._turns = Turns()
        self._publisher = self._make_publisher()
        #: None: the database is not shared.
        self._change_poller: ChangePoller | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._file_problem = ""

    async def start(self) -> None:
        """Open the database, and make or migrate its tables.

        Raises HandlerUnavailable, saying in one line what is wrong and what to do.
        """
        await super().start()
        if self._store is not None:
            return
        store = self._make_store()
        await store.open()
        self._store, self._publisher = store, self._make_publisher()
        maintenance = JobMaintenance(
            store,
            self._turns,
            self._publisher,
            longest_wait=self.longest_wait,
            lease_check_seconds=self.settings.lease_check_seconds,
            retention=_retention(self.settings),
            on_pass=self._on_pass,
        )
        self._tasks = [asyncio.create_task(maintenance.run(), name=f"{self.name}-maintenance")]
        if isinstance(store, SharedJobStore):
            self._change_poller = ChangePoller(
                store, self._publisher, interval_seconds=self.settings.catch_up_seconds
            )
            self._tasks.append(asyncio.create_task(self._change_poller.run(), name=f"{self.name}-catch-up"))
        if isinstance(store, SqliteJobStore):
            self._tasks.append(asyncio.create_task(self._watch_file(store), name=f"{self.name}-file"))
        # Before the first report: a lease that it renews has not run unwatched.
        await maintenance.has_looked.wait()

    async def stop(self) -> None:
        """End the watches, commit the reports that were accepted, and close the database."""
        self._stopped = True
        self._publisher.close(f"handler '{self.name}' is stopped")
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._turns.drain()
        store, self._store = self._store, None
        if isinstance(store, SqliteJobStore):
            self._note_file(await store.check())  # to close a file that lost its name would lose its jobs
        if store is not None:
            await store.close()
        await super().stop()

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Merge the reports, in order, in one transaction."""
        self.refuse_if_stopped()
        return await self._turns.run(lambda: self._commit(records))

    async def recent_commits(self, limit: int) -> Sequence[RecentCommit]:
        """Return the last reports with a record_id that the database still has."""
        return await self._database.recent_commits(limit)

    async def get(self, job_id: str) -> Job | None:
        return await self._database.get(job_id)

    async def list(self, query: JobQuery) -> JobPage:
        return await self._database.list(query)

    async def list_transitions(self, query: TransitionQuery) -> TransitionPage | None:
        return await self._database.list_transitions(query)

    async def request_cancel(self, job_id: str, reason: str) -> Job | None:
        self.refuse_if_stopped()

        async def request() -> Job | None:
            job, changes = await self._database.request_cancel(job_id, reason, self._publisher)
            self._publisher.publish(changes)
            return job

        return await self._turns.run(request)

    def watch(self, job_id: str, **options: Any) -> AsyncGenerator[JobUpdate | None, None]:
        return self._publisher.broadcaster.watch(job_id, **options)

    def watch_many(
        self, job_filter: JobFilter, **options: Any
    ) -> AsyncGenerator[Sequence[JobChange] | None, None]:
        return self._publisher.filtered_watch.watch(job_filter, **options)

    async def _commit(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        applied = await self._database.apply(records, self._publisher)
        self._publisher.publish(applied.changes)
        return applied.outcomes

    async def _watch_file(self, store: SqliteJobStore) -> None:
        while True:
            await asyncio.sleep(FILE_CHECK_SECONDS)
            self._note_file(await store.check())

    def _note_file(self, problem: str) -> None:
        """Report what is wrong with the database's files, once; empty: nothing is."""
        if problem != self._file_problem:
            self._file_problem = problem
            report(problem or f"database '{self.settings.database.path}' is back, and takes reports")
            self.report_health(problem)

    def _on_pass(self, error: Exception | None) -> None:
        """Report whether the database works: each pass over the leases tries it."""
        if error is None or isinstance(error, HandlerUnavailable):
            self.report_health("" if error is None else str(error))
        else:
            self.report_health(f"its leases cannot be looked at: {error!r}")

    @property
    def _database(self) -> JobStore:
        if self._store is None:
            raise HandlerUnavailable(f"handler '{self.name}' is not running")
        return self._store

    def _make_publisher(self) -> ChangePublisher:
        return ChangePublisher(self._load_history, self.list, is_shared=self.settings.database.path is None)

    async def _load_history(self, job_id: str, after_revision: int | None) -> JobHistory | None:
        return await self._database.load_history(job_id, after_revision)

    def _make_store(self) -> JobStore:
        settings = self.settings
        rules = Rules(keep_progress=settings.keep_progress, max_attempt_jump=settings.max_attempt_jump)
        if settings.database.path is not None:
            return SqliteJobStore(
                settings.database.path,
                cache_size=settings.cache_size,
                rules=rules,
                clock=self.clock,
            )
        try:
            from emitd_handlers.jobs.postgres.store import PostgresJobStore
        except ImportError as error:
            raise HandlerUnavailable(
                "a PostgreSQL database needs asyncpg: install emitd[postgres]"
            ) from error
        return PostgresJobStore(
            settings.database.dsn,
            schema=settings.schema,
            table=settings.table,
            rules=rules,
            pool_size=settings.pool_size,
            on_foreign_change=self._notice,
        )

    def _notice(self, job_ids: Sequence[str] | None) -> None:
        """Pass on what other processes have changed."""
        if self._change_poller is not None:
            self._change_poller.notice(job_ids)


class Turns:
    """Runs calls that change one store, one after the other, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        #: The last call; the event loop itself does not hold on to it.
        self._task: asyncio.Task[Any] | None = None

    async def run(self, call: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Return what `call()` does, in its turn.

        Cancelling the wait does not stop a call that has begun, and takes out one that has not.
        """
        await self._lock.acquire()
        self._task = task = asyncio.get_running_loop().create_task(call())
        task.add_done_callback(self._on_end)
        await asyncio.wait([task])
        if task.cancelled():
            raise RuntimeError("a turn was cut off")
        return task.result()

    async def drain(self) -> None:
        """Return when all calls that have come have ended."""
        async with self._lock:
            self._task = None

    def _on_end(self, task: asyncio.Task[Any]) -> None:
        self._lock.release()
        if not task.cancelled():
            task.exception()  # else asyncio reports it if the caller has gone


class JobMaintenance:
    """Ends leases and removes old jobs, in turn with the reports: a pass ends no lease that a waiting report renews.

    `longest_wait` is the handler's. `on_pass` is called after each pass with its error or None; the next tries again.
    """

    def __init__(
        self,
        store: JobStore,
        turns: Turns,
        publisher: ChangePublisher,
        *,
        longest_wait: Callable[[], float],
        lease_check_seconds: float,
        retention: Retention,
        on_pass: Callable[[Exception | None], None],
    ) -> None:
        self._store = store
        self._turns = turns
        self._publisher = publisher
        self._longest_wait = longest_wait
        self._interval = lease_check_seconds
        self._retention = retention
        self._on_pass = on_pass
        self._next_removal = 0.0
        #: Set after the first pass, however it went.
        self.has_looked = asyncio.Event()

    async def run(self) -> None:
        """Make a pass at each interval, until cancelled."""
        clock = asyncio.get_running_loop().time
        next_pass = clock()
        while True:
            await self._look(next_pass + self._interval)
            self.has_looked.set()
            next_pass = max(next_pass + self._interval, clock())
            await asyncio.sleep(next_pass - clock())

    async def _look(self, until: float) -> None:
        """Make one pass over the leases, then remove old jobs until `until`, by the loop's clock."""
        clock = asyncio.get_running_loop().time
        try:
            await self._end_expired()
            while self._retention != Retention() and clock() >= self._next_removal:
                if not await self._turns.run(self._remove_some):
                    self._next_removal = clock() + RETENTION_SECONDS
                elif clock() >= until:
                    break
        except Exception as error:
            self._on_pass(error)
        else:
            self._on_pass(None)

    async def _end_expired(self) -> None:
        clock = asyncio.get_running_loop().time
        asked_at = clock()

        async def pass_over_leases() -> None:
            # Reports may wait behind this turn, and some longer than it: the leases that they renew have not ended.
            waited = max(clock() - asked_at, self._longest_wait())
            changes = await self._store.end_expired(self._interval, waited, self._publisher)
            self._publisher.publish(changes)

        await self._turns.run(pass_over_leases)

    async def _remove_some(self) -> bool:
        """Return whether there is more to remove."""
        removed = await self._store.remove_ended(self._retention, MAX_REMOVED)
        self._publisher.remove(removed.job_ids)
        return removed.has_more


def _retention(settings: DatabaseJobSettings) -> Retention:
    def seconds(days: float | None) -> float | None:
        return None if days is None else days * SECONDS_A_DAY

    return Retention(
        ended_seconds=seconds(settings.keep_ended_days),
        ended_count=settings.keep_ended_jobs,
        history_seconds=seconds(settings.keep_history_days),
    )
