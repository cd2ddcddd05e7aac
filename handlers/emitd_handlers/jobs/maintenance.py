"""`JobMaintenance`: what is done to jobs without a report: leases end, and what is not to be kept is removed."""

import asyncio
from collections.abc import Callable

from emitd_handlers.durable.group_commit import GroupCommit
from emitd_handlers.jobs.store import JobStore, Retention
from emitd_handlers.jobs.watch.publisher import ChangePublisher
from emitd_handlers.outcome import Outcome
from emitd_handlers.record import LogRecord

__all__ = ["JobMaintenance"]

#: How often to look for what is not to be kept any more.
RETENTION_SECONDS = 60.0
#: Jobs that one transaction removes: each takes its whole history with it, and reports wait meanwhile.
MAX_REMOVED = 50


class JobMaintenance:
    """Its work takes turns with the reports: a pass over the leases never overtakes a report that waits.

    `on_pass` is called after each pass: with None, or with what has failed; the next pass tries again.
    """

    def __init__(
        self,
        store: JobStore,
        commits: GroupCommit[LogRecord, Outcome],
        publisher: ChangePublisher,
        *,
        lease_check_seconds: float,
        retention: Retention,
        on_pass: Callable[[Exception | None], None],
    ) -> None:
        self._store = store
        self._commits = commits
        self._publisher = publisher
        self._interval = lease_check_seconds
        self._retention = retention
        self._on_pass = on_pass
        self._next_removal = 0.0
        #: Set after the first pass, however it went.
        self.has_looked = asyncio.Event()

    async def run(self) -> None:
        """Do it again and again; to be cancelled."""
        clock = asyncio.get_running_loop().time
        next_pass = clock()
        while True:
            await self._look(next_pass + self._interval)
            self.has_looked.set()
            next_pass = max(next_pass + self._interval, clock())
            await asyncio.sleep(next_pass - clock())

    async def _look(self, until: float) -> None:
        """Make one pass over the leases, and remove what is not to be kept until then, by the loop's clock."""
        clock = asyncio.get_running_loop().time
        try:
            await self._end_expired()
            while self._retention != Retention() and clock() >= self._next_removal:
                if not await self._commits.run(self._remove_some):
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
            # Reports that have come since it was asked for may wait behind this turn: what they renew has not ended.
            changes = await self._store.end_expired(self._interval, clock() - asked_at, self._publisher)
            self._publisher.publish(changes)

        await self._commits.run(pass_over_leases)

    async def _remove_some(self) -> bool:
        """Return whether there is more to remove."""
        removed = await self._store.remove_ended(self._retention, MAX_REMOVED)
        self._publisher.remove(removed.job_ids)
        return removed.has_more
