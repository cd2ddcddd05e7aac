"""`JobsReader`: a reader of WatchJobs that holds every message against the `JobModel`."""

import math
from collections.abc import AsyncIterator, Callable

from emitd.v1 import job_pb2 as pb
from support.jobs.life import Life, State
from support.jobs.model import JobModel
from support.jobs.reader import Reader, same_as_model

__all__ = ["JobsReader"]


class JobsReader(Reader):
    """Watches many jobs."""

    def __init__(self, name: str, model: JobModel) -> None:
        super().__init__(name, model)
        self.matches: Callable[[State], bool] = lambda state: True
        #: What it knows by the messages: each job's life and revision.
        self.known: dict[str, tuple[Life, int]] = {}
        self.is_complete = False

    def begin(
        self, stream: AsyncIterator[bytes], request: pb.WatchJobsRequest, matches: Callable[[State], bool]
    ) -> None:
        self.min_interval, self.last_at = (request.min_interval_ms or 100) / 1000, -math.inf
        self.matches = matches
        self.known = {}
        self.is_complete = False
        self.connect(stream)

    def take(self, data: bytes) -> None:
        message = pb.WatchJobsResponse.FromString(data)
        assert bool(message.changes) + message.snapshot_end + message.heartbeat == 1
        assert not message.heartbeat or self.is_complete
        if message.snapshot_end:
            assert not self.is_complete
            self.is_complete = True
        if message.changes and self.is_complete:
            self.take_note(is_progress=all(map(self._is_progress, message.changes)))
        for change in message.changes:
            if change.left_filter:
                self._take_left(change.job)
            else:
                self._take_job(change.job)

    def _is_progress(self, change: pb.JobChange) -> bool:
        job = change.job
        if change.left_filter or job.job_id not in self.known:
            return False
        life, revision = self.known[job.job_id]
        return not life.transitions_after(revision, job.revision)

    def _take_job(self, job: pb.Job) -> None:
        life = same_as_model(self.model, job)
        assert self.matches(life.states[job.revision - 1]), "a job was told that does not match"
        if job.job_id in self.known:
            assert self.is_complete, "the snapshot has a job twice"
            assert self.known[job.job_id][0] is life, "a removal was not told"
            assert self.known[job.job_id][1] < job.revision, "an old state was told after a newer one"
        self.known[job.job_id] = life, job.revision

    def _take_left(self, job: pb.Job) -> None:
        assert job.job_id in self.known, "a job left that was never told"
        life, revision = self.known.pop(job.job_id)
        if job.job_type:
            assert same_as_model(self.model, job) is life
            assert job.revision > revision
            assert not self.matches(life.states[job.revision - 1]), "a job left that matches"
        else:
            assert life is not self.model.life(job.job_id), "a job left as removed that exists"
            assert job.revision == revision

    def check_transitions_are_told(self) -> None:
        """Neither a change of status, nor of what matches, is held back."""
        if self.is_connected:
            assert self.is_complete
            due = self._due()
            assert self.known.keys() == due.keys()
            for job_id, (life, revision) in self.known.items():
                assert life is due[job_id][0]
                assert not life.transitions_after(revision, life.revision), "a transition was held back"

    def check_all_is_told(self) -> None:
        """Who reads on comes to know each job that matches, as it is."""
        if self.is_connected:
            assert self.known == self._due()

    def _due(self) -> dict[str, tuple[Life, int]]:
        found = {job_id: self.model.lives[job_id][-1] for job_id in self.model.present}
        return {job_id: (life, life.revision) for job_id, life in found.items() if self.matches(life.now)}
