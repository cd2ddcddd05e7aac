"""`JobUpkeep`: what is done to jobs without a report: leases end, and what is not to be kept is removed."""

import asyncio
from collections.abc import Callable

from emitd_handlers.group_commit import GroupCommit
from emitd_handlers.jobs.news import JobNews
from emitd_handlers.jobs.store import JobStore, Retention
from emitd_handlers.outcome import Outcome
from emitd_handlers.record import LogRecord

__all__ = ["JobUpkeep"]

#: How often to look for what is not to be kept any more.
RETENTION_SECONDS = 60.0
#: Jobs that one transaction removes.
MAX_REMOVED = 500


class JobUpkeep:
    """Its work takes turns with the reports: a pass over the leases never overtakes a report that waits.

    `on_pass` is called after each pass: with None, or with what has failed; the next pass tries again.
    """

    def __init__(
        self,
        store: JobStore,
        commits: GroupCommit[LogRecord, Outcome],
        news: JobNews,
        *,
        lease_check_seconds: float,
        retention: Retention,
        on_pass: Callable[[Exception | None], None],
    ) -> None:
        self._store = store
        self._commits = commits
        self._news = news
        self._interval = lease_check_seconds
        self._retention = retention
        self._on_pass = on_pass

    async def run(self) -> None:
        """Do it again and again; to be cancelled."""
        clock = asyncio.get_running_loop().time
        cleaned_at = -RETENTION_SECONDS
        while True:
            begun_at = clock()
            try:
                await self._end_expired()
                if self._retention != Retention() and begun_at >= cleaned_at + RETENTION_SECONDS:
                    await self._remove_ended()
                    cleaned_at = begun_at
            except Exception as error:
                self._on_pass(error)
            else:
                self._on_pass(None)
            await asyncio.sleep(max(0.0, begun_at + self._interval - clock()))

    async def _end_expired(self) -> None:
        clock = asyncio.get_running_loop().time
        asked_at = clock()

        async def pass_over_leases() -> None:
            # Reports that have come since it was asked for may wait behind this turn: what they renew has not ended.
            changes = await self._store.end_expired(self._interval, clock() - asked_at, self._news)
            self._news.publish(changes)

        await self._commits.run(pass_over_leases)

    async def _remove_ended(self) -> None:
        async def remove_some() -> int:
            removed = await self._store.remove_ended(self._retention, MAX_REMOVED)
            self._news.remove(removed)
            return len(removed)

        while await self._commits.run(remove_some) == MAX_REMOVED:
            pass
