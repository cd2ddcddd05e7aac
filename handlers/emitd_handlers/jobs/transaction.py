"""`Work`: what one transaction makes of jobs that it has read. The same for every database; no input or output."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from emitd_handlers.errors import RecordInvalid
from emitd_handlers.jobs.merge import Merged, merge
from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, RecentCommit, Refused
from emitd_handlers.record import JobStatus, LogRecord

__all__ = [
    "Opener",
    "Opening",
    "ReadJob",
    "StoredReceipt",
    "Work",
    "as_read",
    "decode_receipts",
    "encode_receipts",
    "is_tick",
    "job_ids_of",
    "openers_of",
    "recent_commit",
]

#: record_id, fingerprint, job_id, revision, attempt, stale_reason.
StoredReceipt: TypeAlias = tuple[str, int, str, int, int, str]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[StoredReceipt]).decode


def encode_receipts(receipts: Sequence[StoredReceipt]) -> bytes | None:
    """Return the receipts of one transaction as they are stored; None: there are none."""
    return _encode(receipts) if receipts else None


def decode_receipts(data: bytes) -> Sequence[StoredReceipt]:
    """Return what `encode_receipts` was given."""
    return _decode(data)


def recent_commit(receipt: StoredReceipt) -> RecentCommit:
    """Return how a handler tells of it."""
    record_id, fingerprint, job_id, revision, attempt, reason = receipt
    return RecentCommit(record_id, "", fingerprint, JobReceipt(job_id, revision, attempt, not reason, reason))


#: The job_id and the record_id of a report that asks for a new attempt.
Opener: TypeAlias = tuple[str, str]
#: The revision that an opener has made, and the attempt that it has opened.
Opening: TypeAlias = tuple[int, int]


def job_ids_of(records: Sequence[LogRecord]) -> Sequence[str]:
    """Return the ids of the jobs that records are about, each once, in their order: rows are mostly in that too."""
    return list(
        dict.fromkeys([record.payload.job_id for record in records if isinstance(record.payload, JobStatus)])
    )


def openers_of(records: Sequence[LogRecord]) -> Sequence[Opener]:
    """Return those who may have opened an attempt before."""
    return [
        (record.payload.job_id, record.record_id)
        for record in records
        if isinstance(record.payload, JobStatus) and record.payload.new_attempt and record.record_id
    ]


def is_tick(before: Job, after: Job) -> bool:
    """Return whether a report has changed no more than most do: progress, message, and the times and numbers of these.

    The time of update is not looked at. Databases have a cheaper statement for such a change.
    """
    return (
        after.status is before.status
        and after.attempt == before.attempt
        and after.details_json == before.details_json
        and after.source == before.source
        and after.labels == before.labels
        and after.lease_seconds == before.lease_seconds
        and after.cancel_requested == before.cancel_requested
        and after.start_time_unix_nano == before.start_time_unix_nano
    )


class ReadJob(msgspec.Struct, gc=False):
    """A job, and how the transaction found it."""

    job: Job
    #: The same as `job` where nothing has changed; None: there was no such job.
    before: Job | None


def as_read(jobs: Iterable[Job]) -> dict[str, ReadJob]:
    """Return jobs that nothing was done to yet, by id."""
    return {job.job_id: ReadJob(job, job) for job in jobs}


class Work:
    """Changes jobs as they are in memory, and remembers what is to be written."""

    def __init__(
        self,
        jobs: dict[str, ReadJob],
        now_unix_nano: int,
        *,
        keep_progress: bool = False,
        openings: Mapping[Opener, Opening] | None = None,
    ) -> None:
        """`jobs` are, by id, those that exist of the ones that may be changed; new ones are added.

        The time is the database's.
        `openings`: what those of `openers_of` have opened that did. `keep_progress`: reports that change no status are
        for the history too.
        """
        self.now_unix_nano = now_unix_nano
        self.transitions: list[tuple[str, JobTransition]] = []
        self.receipts: list[StoredReceipt] = []
        self._keep_progress = keep_progress
        self._openings = dict(openings or {})
        self._jobs = jobs

    def merge(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Merge the reports in `records`, in order. A copy of one that opened an attempt gets the first receipt."""
        # Runs for each report, hence in one piece.
        jobs = self._jobs
        openings = self._openings
        now = self.now_unix_nano
        receipts = self.receipts
        outcomes: list[Outcome] = []
        for record in records:
            report = record.payload
            job_id = report.job_id if isinstance(report, JobStatus) else ""
            known = jobs.get(job_id)
            if openings and known is not None and report.new_attempt:  # type: ignore[union-attr]  # a report then
                opening = openings.get((job_id, record.record_id))
                if opening is not None:
                    receipt = JobReceipt(job_id, *opening, True, "", known.job.cancel_requested)
                    outcomes.append(Committed(receipt, duplicate=True))
                    continue
            try:
                merged = merge(None if known is None else known.job, record, now)
            except RecordInvalid as error:
                outcomes.append(Refused(error))
                continue
            job = merged.job
            reason = merged.stale_reason
            revision = job.revision
            attempt = job.attempt
            if not reason:
                if known is None:
                    jobs[job_id] = ReadJob(job, None)
                else:
                    known.job = job
                transition = merged.transition
                if transition is not None:
                    self.transitions.append((job_id, transition))
                    if transition.opened_by:
                        openings[job_id, transition.opened_by] = (revision, attempt)
                elif self._keep_progress:
                    self.transitions.append((job_id, _progress_of(job)))
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

    def changed(self) -> Sequence[ReadJob]:
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
            JobHistory(
                item.job,
                transitions.get(item.job.job_id, ()),
                0 if item.before is None else item.before.revision,
            )
            for item in self.changed()
            if item.job.job_id in interest
        ]


def _progress_of(job: Job) -> JobTransition:
    """Return what is kept in the history of a report that changed no status."""
    return JobTransition(
        job.revision, job.attempt, job.status, job.progress, job.event_time_unix_nano, progress_only=True
    )
