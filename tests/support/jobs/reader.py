"""`JobReader`: a reader of WatchJob that holds every message against the `JobModel`."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from emitd.v1 import job_pb2 as pb
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.record import JobState
from emitd_server.errors import JobNotFound, ServiceStopping
from emitd_server.rpc.open_streams import OpenStreams
from support.jobs.life import Entry, Life
from support.jobs.model import JobModel

__all__ = ["JobReader", "Reader", "same_as_model"]

JOB_FIELDS = [field.name for field in pb.Job.DESCRIPTOR.fields]
NOT_COMPARED = {"lease_expire_time_unix_nano", "labels", "status", "owner"}
PLAIN_FIELDS = [name for name in JOB_FIELDS if name not in NOT_COMPARED]
#: How long a stream may be silent: the time of a heartbeat, and what the slowest database takes.
MAX_SILENCE_SECONDS = 15 + 30
#: Later than every revision.
BEYOND = 2**64


class Reader:
    """One client: it connects, reads at its own speed or stalls, and is disconnected; again and again."""

    def __init__(self, name: str, model: JobModel) -> None:
        self.name = name
        self.model = model
        #: How long it takes for a message, in seconds.
        self.pace = 0.0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.streams: OpenStreams
        #: How long progress is to be held back, and when the last news came, by the loop's clock.
        self.min_interval = 0.0
        self.last_at = -math.inf
        #: Since when it waits for a message; infinite: it does not.
        self._waits_since = math.inf
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._task is not None and not self._task.done()

    def connect(self, stream: AsyncIterator[bytes]) -> None:
        self._waits_since = math.inf
        self._task = asyncio.create_task(self._read(stream), name=self.name)

    async def drop(self) -> None:
        """Disconnect, wherever it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self.check()

    async def wait(self) -> None:
        """Wait until its stream has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])
            self.check()

    def check(self) -> None:
        """Raise what it has found wrong."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            if not task.cancelled():
                task.result()
        silence = asyncio.get_running_loop().time() - self._waits_since
        assert not self.is_connected or silence < MAX_SILENCE_SECONDS, f"{self.name} got no heartbeat"

    async def _read(self, stream: AsyncIterator[bytes]) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async with aclosing(stream):  # type: ignore[type-var]  # an asynchronous generator
                with self.streams.ending():
                    while True:
                        self._waits_since = clock()
                        data = await anext(stream)
                        self._waits_since = math.inf
                        await self.streams.send(self, data, 1)  # type: ignore[arg-type]  # it is the context too
        except (HandlerUnavailable, ServiceStopping):
            return
        except JobNotFound:
            self.on_not_found()
            return
        except StopAsyncIteration:
            self.on_end()
        except AssertionError as error:
            error.add_note(f"{self.name}: {self}")
            raise

    async def write(self, data: bytes) -> None:
        """Take a message, as the context of a call does, at the reader's pace."""
        self.take(data)
        await asyncio.sleep(self.pace)
        await self.may_read.wait()

    def take_note(self, *, is_progress: bool) -> None:
        """Take note of news, and check that they come no sooner than they may."""
        now = asyncio.get_running_loop().time()
        assert not is_progress or now - self.last_at > self.min_interval - 1e-6, "progress came too soon"
        self.last_at = now

    def forget(self, model: JobModel) -> None:
        """Go on with another model."""
        self.model = model

    def take(self, data: bytes) -> None:
        raise NotImplementedError

    def on_not_found(self) -> None:
        raise AssertionError("NOT_FOUND")

    def on_end(self) -> None:
        raise AssertionError("the stream ended by itself")

    def __str__(self) -> str:
        return str({key: value for key, value in vars(self).items() if key not in ("model", "_task")})


class JobReader(Reader):
    """Watches one job."""

    def __init__(self, name: str, model: JobModel, job_id: str) -> None:
        super().__init__(name, model)
        self.job_id = job_id
        self.request = pb.WatchJobRequest(job_id=job_id)
        #: The last message with news, over all connections.
        self.last: pb.Job | None = None
        #: The revision of the last message, if any.
        self.resume_point: int | None = None
        #: All transitions from revision `since` to `until`, over all connections that went on where the last had ended.
        self.since = 0
        self.until: int | None = None
        self.transitions: list[Entry] = []
        self._life: Life | None = None

    def begin(self, stream: AsyncIterator[bytes], request: pb.WatchJobRequest) -> None:
        self.request = request
        self.min_interval, self.last_at = (request.min_interval_ms or 100) / 1000, -math.inf
        self.is_first = True
        self.must_end = False
        self._life = None
        #: Nothing older may be told.
        self.floor = self.model.floors.get(self.job_id, (0, 0))
        self.told = request.after_revision if request.HasField("after_revision") else None
        if self.told is None or self.told != self.until:
            self._forget(self.told)
        self.connect(stream)

    def forget(self, model: JobModel) -> None:
        """Keep of what was seen the resume point alone: the database was set back, to what this model has."""
        super().forget(model)
        self.last = self.until = None

    def take(self, data: bytes) -> None:
        message = pb.WatchJobResponse.FromString(data)
        if message.heartbeat:
            self._take_heartbeat(message)
            return
        assert not self.must_end, "something came after the end"
        life = same_as_model(self.model, message.job)
        revision = message.job.revision
        if self.is_first:
            self._check_is_current(life, revision)
        told = self.told
        if self._life is not None and life is not self._life:
            assert message.history_truncated, "another job under the same id came as if it were the same"
            told = BEYOND
        is_progress = not message.transitions and not message.history_truncated
        self.take_note(is_progress=is_progress and not self.is_first)
        told_more = self._check_transitions(message, life, told)
        if not self.is_first:
            assert told_more, "nothing new was told"
        self._remember(message, life, told)

    def _check_is_current(self, life: Life, revision: int) -> None:
        """Check that what comes first is no older than what was committed when it connected."""
        index = self.model.lives[self.job_id].index(life)
        assert index >= self.floor[0], "a job was told that had been removed"
        assert index > self.floor[0] or revision >= self.floor[1], "an old state was told as the current"

    def _check_transitions(self, message: pb.WatchJobResponse, life: Life, told: int | None) -> bool:
        """Check what leads from what was told to the message; return whether that is anything."""
        revision = message.job.revision
        given = [entry_of(item) for item in message.transitions]
        if told is None or told > revision:
            assert not given
            assert not message.coalesced_count
            assert message.history_truncated == (told is not None)
            assert self.is_first or told == BEYOND, "an earlier state was told after a later one"
            return True
        due = life.transitions_after(told, revision)
        if message.history_truncated:
            assert len(given) < len(due), "history was said to be lost that was not"
            missing = due[: len(due) - len(given)]
            assert given == due[len(missing) :], "what was kept of the history is not its end"
            assert missing[-1].revision <= life.kept_after, "history was lost that must have been kept"
            assert not message.coalesced_count
        else:
            assert given == due, f"transitions {given} were told instead of {due}"
            reports = max(0, revision - told - max(1, len(given)))
            assert message.coalesced_count == reports, "the count of coalesced reports is wrong"
        return revision > told

    def _remember(self, message: pb.WatchJobResponse, life: Life, told: int | None) -> None:
        revision = message.job.revision
        is_another = (
            self.last is not None and self.last.create_time_unix_nano != message.job.create_time_unix_nano
        )
        if told is None or told > revision or message.history_truncated or is_another:
            self._forget(revision)
        else:
            self.transitions += [entry_of(item) for item in message.transitions]
        self.last, self.told, self.is_first, self._life = message.job, revision, False, life
        self.resume_point = self.until = revision
        self.must_end = message.job.ended and not self.request.follow

    def _forget(self, since: int | None) -> None:
        self.since, self.until = since or 0, since
        self.transitions = []

    def _take_heartbeat(self, message: pb.WatchJobResponse) -> None:
        assert not self.must_end, "a heartbeat came after the end"
        assert message == pb.WatchJobResponse(
            heartbeat=True, job=self.last if message.HasField("job") else None
        )
        if self.is_first:
            assert not message.HasField("job")
            assert self.request.wait_for_creation
        else:
            assert message.HasField("job")

    def on_not_found(self) -> None:
        assert self.is_first
        assert not self.request.wait_for_creation
        lives, (index, revision) = self.model.lives.get(self.job_id, ()), self.floor
        was_removed = len(lives) > index + 1 or self.job_id not in self.model.present
        assert not revision or was_removed, "an existing job was not found"

    def on_end(self) -> None:
        assert self.must_end, "the stream ended before the job had"

    def check_transitions_are_told(self) -> None:
        """A change of status is never held back: with nothing under way, all have been told."""
        life = self._life_to_know()
        if life is not None:
            assert self.told is not None
            assert not self.is_first
            assert not life.transitions_after(self.told, life.revision), "a transition was held back"

    def check_all_is_told(self) -> None:
        """Who reads on comes to know the last state, and has every transition once."""
        lives = self.model.lives.get(self.job_id, ())
        if self.is_connected and self.floor == (len(lives), 0):
            assert self.request.wait_for_creation, f"{self.name} waits for a job that never was"
        life = self._life_to_know()
        if life is not None:
            assert self.told == life.revision, f"{self.name} was told {self.told} and not {life.revision}"
            assert self._life is life
            due = life.transitions_after(self.since, life.revision)
            assert self.transitions == due, (
                f"since {self.since}, it was told {self.transitions} instead of {due}"
            )

    def _life_to_know(self) -> Life | None:
        """What a connected reader must know: the job as it is, or what it was when it was removed."""
        if not self.is_connected or self.must_end:
            return None
        life = self.model.life(self.job_id)
        return self._life if life is None else life


def same_as_model(model: JobModel, job: pb.Job) -> Life:
    """Check that the message is a state that was committed; return the life that it is of."""
    life = model.life_of(job.job_id, job.create_time_unix_nano)
    assert life is not None, f"a job was told that never was: {job}"
    assert 0 < job.revision <= life.revision, (
        f"revision {job.revision} of {job.job_id} was told and is not committed"
    )
    state = life.states[job.revision - 1]
    given, expected = plain(job), plain(state)
    assert given == expected, f"{given} was told instead of {expected}"
    assert job.status == state.status
    assert job.labels == state.labels
    ends = {state.lease_expire_time_unix_nano} | life.earlier_lease_ends.get(job.revision, set())
    assert job.lease_expire_time_unix_nano in ends
    return life


def plain(job: object) -> Mapping[str, Any]:
    return {name: getattr(job, name) for name in PLAIN_FIELDS}


def entry_of(item: pb.JobTransition) -> Entry:
    return Entry(
        item.revision,
        item.attempt,
        JobState(item.status),
        item.progress,
        item.time_unix_nano,
        item.failure_reason,
        item.failure_message,
        item.progress_only,
    )
