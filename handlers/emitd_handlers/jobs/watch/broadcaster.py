"""`JobBroadcaster`: sends the changes of a job to its watchers, within one process and event loop.

    broadcaster = JobBroadcaster(load)                       # load(job_id, after_revision) reads the database
    broadcaster.publish(job, transitions)            # after each commit, in the order of commits
    async for update in broadcaster.watch("j1"): ... # as `JobSource.watch`

A watched job has one topic, which keeps the job's newest state and last transitions until the last watcher leaves. A
watcher has no queue, only the last revision that it was sent: a slow one costs no memory, and gets all changes since in
one update. What a topic no longer keeps is loaded again.

If a job is removed, or the database set back, its topic is retired: the watchers get the rest of what it knows, and go
on with a new topic, as if from a later revision.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from typing import TypeAlias

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.paging import cut, transition_bytes
from emitd_handlers.jobs.source import Job, JobTransition, JobUpdate
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.jobs.watch.waiter import Turns, Waiter, wake_all
from emitd_handlers.room import MAX_PART_BYTES, Room

#: How many transitions of a job a topic keeps, if they fit into one message.
MAX_KNOWN_TRANSITIONS = 256
#: Later than every revision: the watcher was sent the state of another job or time.
_BEYOND = 2**64

#: As `JobStore.load_history`.
LoadHistory: TypeAlias = Callable[[str, int | None], Awaitable[JobHistory | None]]


class JobBroadcaster:
    """For one event loop."""

    def __init__(self, load: LoadHistory, *, is_shared: bool = False) -> None:
        """`is_shared`: other processes may change jobs too."""
        self._load = load
        self._is_shared = is_shared
        self._topics: dict[str, _Topic] = {}
        self._turns = Turns()
        self._closed = ""

    @property
    def watched(self) -> Set[str]:
        """The ids of the watched jobs: only their changes need to be published."""
        return self._topics.keys()

    def publish(
        self, job: Job, transitions: Sequence[JobTransition] = (), *, after_revision: int | None = None
    ) -> None:
        """Send a committed change to the job's watchers.

        `transitions` are all after `after_revision`, oldest first; None: only the job's last revision is new.
        """
        topic = self._topics.get(job.job_id)
        if topic is not None:
            after = job.revision - 1 if after_revision is None else after_revision
            self._learn(topic, JobHistory(job, transitions, after))

    def remove(self, job_ids: Iterable[str]) -> None:
        """Send the removal of jobs. Their watchers wait for the next job with the same id."""
        for job_id in job_ids:
            topic = self._topics.get(job_id)
            if topic is not None:
                self._retire(topic)

    def known(self) -> Mapping[str, int | None]:
        """Return the known revision of each watched job; None: it may not even exist."""
        return {
            job_id: None if topic.history is None else topic.history.job.revision
            for job_id, topic in self._topics.items()
        }

    async def refresh(self, job_id: str) -> None:
        """Load a watched job that another process may have changed. Raises what `load` does."""
        topic = self._topics.get(job_id)
        if topic is not None:
            await self._refresh(topic)

    def learn_progress(self, job: Job) -> bool:
        """Send the new state of a job to its watchers if it is mere progress; return whether it is."""
        topic = self._topics.get(job.job_id)
        if topic is None or topic.history is None:
            return False
        known = topic.history.job
        if (
            job.create_time_unix_nano != known.create_time_unix_nano
            or job.revision < known.revision
            or job.attempt != known.attempt
            or job.status
            is not known.status  # within an attempt none comes back, so there was no other between
        ):
            return False
        self._learn(topic, JobHistory(job, (), known.revision))
        return True

    def close(self, reason: str) -> None:
        """End every watch, now and from now on, with HandlerUnavailable and this reason."""
        self._closed = reason
        for topic in self._topics.values():
            topic.close()

    async def watch(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[JobUpdate | None, None]:
        """Yield the job's state, then its changes: see `JobSource.watch`.

        Watchers at the same revision get the same object. Raises HandlerUnavailable when the broadcaster is closed, and
        what `load` raises.
        """
        now = asyncio.get_running_loop().time
        topic = self._join(job_id)
        watcher = Waiter(self._turns, idle_seconds)
        revision, earliest = after_revision, 0.0
        has_begun = False
        try:
            if self._is_shared and topic.history is not None:
                await self._refresh(topic)  # another process may have acknowledged a newer state
            while True:
                watcher.restart()
                update = None
                if not has_begun or await topic.wait_for_change(watcher, revision, earliest):
                    if topic.is_retired and not (has_begun and topic.is_ahead_of(revision)):
                        self._leave(topic)
                        topic = self._join(job_id)
                        revision = _BEYOND if has_begun else after_revision
                    update = topic.updates.get(revision)  # most watchers ask for the same one
                    if update is None:
                        update = await self._update_after(topic, watcher, revision, has_begun)
                        if update is None:
                            if topic.is_retired:
                                continue
                        elif (
                            has_begun and topic.knows(revision) and _is_progress(update) and now() < earliest
                        ):
                            continue  # it was loaded because there might have been a transition
                if update is not None:
                    has_begun, revision = True, update.job.revision
                    earliest = now() + min_interval_seconds
                yield update
        finally:
            watcher.close()
            self._leave(topic)

    def _join(self, job_id: str) -> "_Topic":
        self._refuse_if_closed()
        topic = self._topics.get(job_id)
        if topic is None:
            topic = self._topics[job_id] = _Topic(job_id)
        topic.watcher_count += 1
        return topic

    def _leave(self, topic: "_Topic") -> None:
        topic.watcher_count -= 1
        if not topic.watcher_count and not topic.is_retired:
            del self._topics[topic.job_id]

    async def _refresh(self, topic: "_Topic") -> None:
        """Load the current state, unless another refresh has begun since the call."""
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        async with topic.loading:
            if topic.refreshed_at > asked_at or topic.is_retired:
                return
            topic.refreshed_at = clock()
            known = topic.history
            history = await self._load(topic.job_id, None if known is None else known.job.revision)
            if history is not None and history.has_more:
                history = await self._load(topic.job_id, None)  # its watchers load the parts
            was_set_back = history is None or (
                known is not None and history.job.revision < known.job.revision
            )
            if known is not None and known is topic.history and was_set_back:
                self._retire(topic)  # removed, or the database was set back: what it has now is the truth
                return
            if history is not None:
                self._learn(topic, history)

    def _learn(self, topic: "_Topic", learned: JobHistory) -> None:
        if topic.contradicts(learned):
            self._retire(topic)  # its watchers will load what there is instead
        else:
            topic.learn(learned)

    def _retire(self, topic: "_Topic") -> None:
        if not topic.is_retired:
            del self._topics[topic.job_id]
            topic.retire()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise HandlerUnavailable(self._closed)

    async def _update_after(
        self, topic: "_Topic", watcher: Waiter, revision: int | None, has_begun: bool
    ) -> JobUpdate | None:
        """Return the changes since `revision`, as soon as the job exists.

        None: the watcher was idle for too long, or the topic is retired and has nothing more to send.
        """
        while True:
            self._refuse_if_closed()
            if topic.is_retired and not (has_begun and topic.is_ahead_of(revision)):
                return None
            if topic.knows(revision):
                return topic.update_after(revision)
            if topic.is_retired and topic.history is not None:
                return _update_from(topic.history, revision)
            # One at a time: what one watcher loads mostly serves the others that wait.
            async with topic.loading:
                if topic.is_retired or topic.knows(revision):
                    continue
                known = topic.history
                history = await self._load(topic.job_id, revision)
            self._refuse_if_closed()
            if topic.is_retired:
                continue
            if history is not None:
                if history.has_more and not topic.contradicts(history):
                    return _update_from(history, revision)
                self._learn(topic, history)
            elif known is not None and known is topic.history:
                self._retire(topic)
            if topic.history is None:
                if not await watcher.wait_in(topic.waiting):
                    return None
            elif history is not None and not (topic.is_retired or topic.knows(revision)):
                return _update_from(history, revision)


class _Topic:
    """The known state of one watched job, and its waiting watchers."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.watcher_count = 0
        self.loading = asyncio.Lock()
        #: When the last refresh began, by the loop's clock.
        self.refreshed_at = 0.0
        #: It gets no more changes: its job was removed, or the database set back.
        self.is_retired = False
        #: None: the job may not even exist.
        self.history: JobHistory | None = None
        self._closed = False
        #: Updates to the newest revision, by the revision they start from.
        self.updates: dict[int | None, JobUpdate] = {}
        self.waiting: set[Waiter] = set()
        #: Those that only a transition wakes.
        self._pausing: set[Waiter] = set()

    def learn(self, learned: JobHistory) -> None:
        """Add what was published or loaded, and wake the watchers."""
        known = self.history
        self.history = merged = _merge(known, learned)
        if known is not None and merged.job is known.job:
            return
        self.updates = {}
        wake_all(self.waiting)
        if known is None or self._changed_status_since(known.job.revision):
            wake_all(self._pausing)

    def close(self) -> None:
        """Wake all, for good."""
        self._closed = True
        self.updates = {}
        wake_all(self.waiting)
        wake_all(self._pausing)

    def retire(self) -> None:
        """Wake all, to send what is known and to leave."""
        self.is_retired = True
        wake_all(self.waiting)
        wake_all(self._pausing)

    def contradicts(self, learned: JobHistory) -> bool:
        """Return whether this is another job: the known one was removed, and its id used again."""
        known = self.history
        return known is not None and learned.job.create_time_unix_nano != known.job.create_time_unix_nano

    def is_ahead_of(self, revision: int | None) -> bool:
        """Return whether it has a later state than `revision`."""
        return self.history is not None and (revision is None or revision < self.history.job.revision)

    def knows(self, revision: int | None) -> bool:
        """Return whether it has all changes since `revision`."""
        history = self.history
        if history is None:
            return False
        if revision is None or revision == _BEYOND:
            return True
        return history.after_revision <= revision <= history.job.revision

    def update_after(self, revision: int | None) -> JobUpdate:
        """Return the changes since a revision that it `knows`; for each watcher the same object."""
        update = self.updates.get(revision)
        if update is None:
            assert self.history is not None
            update = self.updates[revision] = _update_from(self.history, revision)
        return update

    async def wait_for_change(self, watcher: Waiter, revision: int | None, earliest: float) -> bool:
        """Wait for another revision, and unless it changes a status, until `earliest` by the loop's clock.

        Return False if the watcher has been idle for too long.
        """
        while not self._is_over and self.history is not None and self.history.job.revision == revision:
            if not await watcher.wait_in(self.waiting):
                return False
        while watcher.now() < earliest and not self._is_over and not self._changed_status_since(revision):
            if not await watcher.wait_in(self._pausing, earliest):
                return False
        return watcher.has_turn or await watcher.take_turn()

    @property
    def _is_over(self) -> bool:
        return self._closed or self.is_retired

    def _changed_status_since(self, revision: int | None) -> bool:
        """Return whether there is a transition after `revision`, or may be one that is not known."""
        if self.history is None or revision is None or revision == _BEYOND or not self.knows(revision):
            return True
        transitions = self.history.transitions
        return bool(transitions) and transitions[-1].revision > revision


def _merge(known: JobHistory | None, learned: JobHistory) -> JobHistory:
    """Return the newer state with the transitions of both, from where they are complete."""
    if known is None or learned.after_revision > known.job.revision:
        return _trimmed(learned)
    after = known.after_revision
    transitions = list(known.transitions)
    if learned.after_revision < after <= learned.job.revision:
        transitions[:0] = [transition for transition in learned.transitions if transition.revision <= after]
        after = learned.after_revision
    transitions += [item for item in learned.transitions if item.revision > known.job.revision]
    job = learned.job if learned.job.revision > known.job.revision else known.job
    merged = JobHistory(job, transitions, after)
    return _trimmed(merged) if learned.transitions else merged


def _trimmed(history: JobHistory) -> JobHistory:
    kept, _ = cut(
        reversed(history.transitions), Room(MAX_KNOWN_TRANSITIONS, MAX_PART_BYTES), transition_bytes
    )
    surplus = len(history.transitions) - len(kept)
    if surplus <= 0:
        return history
    return JobHistory(history.job, history.transitions[surplus:], history.transitions[surplus - 1].revision)


def _is_progress(update: JobUpdate) -> bool:
    return not update.transitions and not update.history_truncated


def _update_from(history: JobHistory, revision: int | None) -> JobUpdate:
    """Return the update for a watcher that was last sent `revision`; None: nothing.

    An update stands for its transitions, or without any for the last report; the other reports are coalesced.
    """
    job = history.job
    if revision is None:
        return JobUpdate(job)
    if revision > job.revision:
        return JobUpdate(job, history_truncated=True)
    transitions = tuple([item for item in history.transitions if item.revision > revision])
    if revision < history.after_revision:
        return JobUpdate(job, transitions, history_truncated=True, has_more=history.has_more)
    coalesced = job.revision - revision - max(1, len(transitions))
    return JobUpdate(job, transitions, max(0, coalesced), has_more=history.has_more)
