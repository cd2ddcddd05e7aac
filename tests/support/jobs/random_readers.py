"""`RandomReaders`: readers of WatchJob and WatchJobs in a simulation, who come, stall and go."""

from collections.abc import Callable, Sequence
from random import Random

from emitd.v1 import job_pb2 as pb
from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.record import JobState
from emitd_handlers.scope import EVERYTHING
from emitd_server.rpc.job_streams import JobWatches
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.settings import WatchSettings
from support.jobs.life import State
from support.jobs.model import JobModel
from support.jobs.random_reports import JOB_IDS, TEAMS
from support.jobs.reader import JobReader
from support.jobs.subscription_reader import JobsReader

__all__ = ["RandomReaders"]

READERS_A_JOB = 2
READERS_OF_MANY = 4


class RandomReaders:
    """They read what `serve` says."""

    def __init__(self, model: JobModel, random: Random, note: Callable[[str, object], None]) -> None:
        """`note(what, detail)` is told what they do."""
        self.watches: JobWatches
        self._handler: DatabaseJobHandler
        self._random = random
        self._note = note
        self._of_a_job = [
            JobReader(f"reader-{number}-of-{job_id}", model, job_id)
            for number in range(READERS_A_JOB)
            for job_id in JOB_IDS
        ]
        self._of_many = [JobsReader(f"dashboard-{number}", model) for number in range(READERS_OF_MANY)]

    @property
    def all(self) -> Sequence[JobReader | JobsReader]:
        return [*self._of_a_job, *self._of_many]

    def serve(self, handler: DatabaseJobHandler, streams: OpenStreams) -> None:
        """Let those who connect from now on watch the jobs of this handler."""
        self._handler = handler
        self.watches = JobWatches(WatchSettings(heartbeat_seconds=15.0, min_interval_ms=100))
        for reader in self.all:
            reader.streams = streams

    async def connect_to_job(self) -> None:
        """Let a reader watch its job, mostly from where it was."""
        reader = self._random.choice(self._of_a_job)
        if reader.is_connected:
            return
        random, last = self._random, reader.resume_point
        points = (
            [None, 0, *[last] * 4] if last is None else [None, 0, *[last] * 6, last + random.randint(1, 5)]
        )
        request = pb.WatchJobRequest(
            job_id=reader.job_id,
            after_revision=random.choice(points),
            wait_for_creation=random.random() < 0.7,
            follow=random.random() < 0.6,
            min_interval_ms=random.choice([0, 1, 1000, 5000]),
        )
        self._note("watch", f"{reader.name}: {str(request).splitlines()}")
        reader.begin(self.watches.watch(self._handler, request, EVERYTHING), request)

    async def connect_to_jobs(self) -> None:
        """Let a reader watch the jobs that match some filter."""
        reader = self._random.choice(self._of_many)
        if reader.is_connected:
            return
        random = self._random
        states = random.choice([(), (), (JobState.RUNNING,), (JobState.COMPLETED, JobState.FAILED)])
        job_ids = random.choice([(), (), ("a", "b", "unknown")])
        team = random.choice(["", "", *TEAMS])
        request = pb.WatchJobsRequest(
            job_type=random.choice(["", "", "t", "u"]),
            statuses=[state.value for state in states],
            job_ids=job_ids,
            labels={"team": team} if team else {},
            min_interval_ms=random.choice([0, 1, 5000]),
        )

        def matches(state: State) -> bool:
            return (
                request.job_type in ("", state.job_type)
                and (not states or state.status in states)
                and (not job_ids or state.job_id in job_ids)
                and (not team or state.labels.get("team") == team)
            )

        self._note("watch many", f"{reader.name}: {str(request).splitlines()}")
        reader.begin(self.watches.watch_many(self._handler, request, EVERYTHING), request, matches)

    async def drop_one(self) -> None:
        """Cut a reader's connection."""
        reader = self._random.choice(self.all)
        if reader.is_connected:
            self._note("drop", reader.name)
            await reader.drop()

    async def change_pace(self) -> None:
        """Let a reader stall, read slowly or read as fast as it can."""
        reader = self._random.choice(self.all)
        reader.pace = self._random.choice([0.0, 0.0, 0.2, 2.0])
        if self._random.random() < 0.4:
            reader.may_read.clear()
        else:
            reader.may_read.set()
