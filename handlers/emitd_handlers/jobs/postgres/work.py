"""`Work`: what one transaction makes of the jobs whose rows it has locked. No input or output."""

from collections.abc import Container, Iterable, Sequence

import msgspec

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.job import Job, JobTransition
from emitd_handlers.jobs.merge import Merged, merge
from emitd_handlers.jobs.postgres.receipts import StoredReceipt
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, Refused
from emitd_handlers.record import JobStatus, LogRecord

__all__ = ["ChangedJob", "Work"]


class ChangedJob(msgspec.Struct, gc=False):
    """A job, and how the transaction found it."""

    job: Job
    #: The same as `job` where nothing has changed; None: there was no such job.
    before: Job | None


class Work:
    """Changes jobs as they are in memory, and remembers what is to be written."""

    def __init__(self, jobs: Iterable[Job], now_unix_nano: int, *, keep_progress: bool = False) -> None:
        """`jobs` are those that exist of the ones that may be changed; the time is the database's."""
        self.now_unix_nano = now_unix_nano
        self.transitions: list[tuple[str, JobTransition]] = []
        self.receipts: list[StoredReceipt] = []
        self._keep_progress = keep_progress
        self._jobs = {job.job_id: ChangedJob(job, job) for job in jobs}

    def merge(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Merge the reports in `records`, in order."""
        # Runs for each report, hence in one piece.
        jobs = self._jobs
        now = self.now_unix_nano
        receipts = self.receipts
        outcomes: list[Outcome] = []
        for record in records:
            job_id = record.payload.job_id if isinstance(record.payload, JobStatus) else ""
            known = jobs.get(job_id)
            try:
                merged = merge(None if known is None else known.job, record, now)
            except RecordInvalid as error:
                outcomes.append(Refused(error))
                continue
            job = merged.job
            reason = merged.stale_reason
            if merged.is_copy:
                receipt = JobReceipt(job_id, job.opened_revision, job.attempt, True, "", job.cancel_requested)
                outcomes.append(Committed(receipt, duplicate=True))
                continue
            if not reason:
                if known is None:
                    jobs[job_id] = ChangedJob(job, None)
                else:
                    known.job = job
                if merged.transition is not None:
                    self.transitions.append((job_id, merged.transition))
                elif self._keep_progress:
                    self.transitions.append((job_id, _progress_of(job)))
            revision = job.revision
            attempt = job.attempt
            outcomes.append(
                Committed(JobReceipt(job_id, revision, attempt, not reason, reason, job.cancel_requested))
            )
            if record.record_id:
                receipts.append((record.record_id, record.fingerprint, job_id, revision, attempt, reason))
        return outcomes

    def change(self, merged: Merged) -> None:
        """Let a job that exists become what was made of it."""
        job = merged.job
        self._jobs[job.job_id].job = job
        if merged.transition is not None:
            self.transitions.append((job.job_id, merged.transition))

    def changed(self) -> Sequence[ChangedJob]:
        """Return the jobs that are not as they were found."""
        return [item for item in self._jobs.values() if item.job is not item.before]

    def changes(self, interest: Container[str]) -> Sequence[JobHistory]:
        """Return what was done to those of the jobs that are asked for."""
        if not interest:
            return ()
        transitions: dict[str, list[JobTransition]] = {}
        for job_id, transition in self.transitions:
            if not transition.progress_only:
                transitions.setdefault(job_id, []).append(transition)
        return [
            JobHistory(job, transitions.get(job.job_id, ()), 0 if before is None else before.revision)
            for job, before in [(item.job, item.before) for item in self.changed()]
            if job.job_id in interest
        ]


def _progress_of(job: Job) -> JobTransition:
    """Return what is kept in the history of a report that changed no status."""
    return JobTransition(
        job.revision, job.attempt, job.status, job.progress, job.event_time_unix_nano, progress_only=True
    )
