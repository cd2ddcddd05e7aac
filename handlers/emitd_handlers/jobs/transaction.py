"""`Work`: changes the jobs of one transaction in memory. Pure, and the same for every database."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from emitd_handlers.clock import NANOS_A_SECOND
from emitd_handlers.errors import RecordForbidden, RecordInvalid
from emitd_handlers.jobs.merge import MAX_ATTEMPT_JUMP, Merged, merge, refuse_foreign
from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.jobs.store import JobHistory
from emitd_handlers.outcome import Committed, JobReceipt, Outcome, RecentCommit, Refused
from emitd_handlers.record import JobStatus, LogRecord


class StoredReceipt(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is needed to answer a copy of a report."""

    record_id: str
    #: If there is no source, one of `earlier_fingerprints`.
    fingerprint: int
    job_id: str
    revision: int
    attempt: int
    stale_reason: str
    #: None: stored by an earlier version, which did not store it.
    source: str | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[StoredReceipt]).decode


def encode_receipts(receipts: Sequence[StoredReceipt]) -> bytes | None:
    """Return the receipts of one transaction as they are stored; None: there are none."""
    return _encode(receipts) if receipts else None


def recent_commits(stored: Iterable[bytes], limit: int) -> Sequence[RecentCommit]:
    """Return the last `limit` receipts, oldest first, of transactions that come newest first; read no more of these."""
    groups: list[Sequence[StoredReceipt]] = []
    count = 0
    for data in stored:
        groups.append(_decode(data))
        count += len(groups[-1])
        if count >= limit:
            break
    receipts = [receipt for group in reversed(groups) for receipt in group]
    return [_recent_commit(receipt) for receipt in receipts[max(0, count - limit) :]]


def _recent_commit(stored: StoredReceipt) -> RecentCommit:
    reason = stored.stale_reason
    receipt = JobReceipt(stored.job_id, stored.revision, stored.attempt, not reason, reason)
    return RecentCommit(stored.record_id, "", stored.fingerprint, receipt, stored.source)


#: The job_id, the record_id and the source of a report that asks for a new attempt.
Opener: TypeAlias = tuple[str, str, str]
#: The revision that an opener has made, and the attempt that it has opened.
Opening: TypeAlias = tuple[int, int]


def job_ids_of(records: Sequence[LogRecord]) -> Sequence[str]:
    """Return the ids of the records' jobs, each once, in their order: mostly it is that of the rows too."""
    return list(
        dict.fromkeys([record.payload.job_id for record in records if isinstance(record.payload, JobStatus)])
    )


def openers_of(records: Sequence[LogRecord]) -> Sequence[Opener]:
    """Return the job and the record of each report that may have opened an attempt before."""
    return [
        (record.payload.job_id, record.record_id, record.source)
        for record in records
        if isinstance(record.payload, JobStatus) and record.payload.new_attempt and record.record_id
    ]


def is_tick(before: Job, after: Job) -> bool:
    """Return whether a report has changed progress, message, and their times and numbers alone, as most do.

    The time of update is not looked at. Databases have a cheaper statement for such a change.
    """
    return (
        after.status is before.status
        and after.attempt == before.attempt
        and after.details_json == before.details_json
        and after.source == before.source
        and after.owner == before.owner
        and after.labels == before.labels
        and after.lease_seconds == before.lease_seconds
        and after.cancel_requested == before.cancel_requested
        and after.start_time_unix_nano == before.start_time_unix_nano
    )


class ReadJob(msgspec.Struct, gc=False):
    """A job, and how the transaction found it."""

    job: Job
    #: The same object as `job` if nothing has changed; None: there was no such job.
    before: Job | None


def as_read(jobs: Iterable[Job]) -> dict[str, ReadJob]:
    """Return unchanged jobs by id."""
    return {job.job_id: ReadJob(job, job) for job in jobs}


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How reports are applied; see `DatabaseJobSettings`."""

    keep_progress: bool = False
    max_attempt_jump: int = MAX_ATTEMPT_JUMP


DEFAULT_RULES = Rules()


class Work:
    """Changes jobs in memory, and remembers what to write."""

    def __init__(
        self,
        jobs: dict[str, ReadJob],
        now_unix_nano: int,
        wall_unix_nano: int,
        *,
        rules: Rules = DEFAULT_RULES,
        openings: Mapping[Opener, Opening] | None = None,
    ) -> None:
        """Take the existing jobs by id, to which new ones are added, and the times of receipt and wall.

        `openings`: the attempts that `openers_of` have opened before.
        """
        self.now_unix_nano = now_unix_nano
        self._wall = wall_unix_nano - wall_unix_nano % 1000
        self.transitions: list[tuple[str, JobTransition]] = []
        self.receipts: list[StoredReceipt] = []
        self._rules = rules
        self._openings = dict(openings or {})
        self._jobs = jobs

    def merge(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Merge the reports in order. A copy of one that opened an attempt gets the first receipt."""
        # Runs for each report, hence in one piece.
        jobs = self._jobs
        openings = self._openings
        now, wall, rules = self.now_unix_nano, self._wall, self._rules
        receipts = self.receipts
        outcomes: list[Outcome] = []
        for record in records:
            report = record.payload
            job_id = report.job_id if isinstance(report, JobStatus) else ""
            known = jobs.get(job_id)
            try:
                if openings and known is not None and report.new_attempt:  # type: ignore[union-attr]  # a report then
                    opening = openings.get((job_id, record.record_id, record.source))
                    if opening is not None:
                        refuse_foreign(known.job, record)
                        receipt = JobReceipt(job_id, *opening, True, "", known.job.cancel_requested)
                        outcomes.append(Committed(receipt, duplicate=True))
                        continue
                merged = merge(None if known is None else known.job, record, now, rules.max_attempt_jump)
            except (RecordInvalid, RecordForbidden) as error:
                outcomes.append(Refused(error))
                continue
            job = merged.job
            reason = merged.stale_reason
            revision = job.revision
            attempt = job.attempt
            if not reason:
                if job.lease_expire_time_unix_nano and job.update_time_unix_nano != wall:
                    # Times of receipt are ahead of the clock, and go slower; a lease does not.
                    end = wall + job.lease_seconds * NANOS_A_SECOND
                    job = replace(job, lease_expire_time_unix_nano=end)
                if known is None:
                    jobs[job_id] = ReadJob(job, None)
                else:
                    known.job = job
                transition = merged.transition
                if transition is not None:
                    self.transitions.append((job_id, transition))
                    if transition.opened_by:
                        openings[job_id, transition.opened_by, record.source] = (revision, attempt)
                elif rules.keep_progress:
                    event_time = job.event_time_unix_nano
                    transition = JobTransition(
                        revision, attempt, job.status, job.progress, event_time, progress_only=True
                    )
                    self.transitions.append((job_id, transition))
            outcomes.append(
                Committed(JobReceipt(job_id, revision, attempt, not reason, reason, job.cancel_requested))
            )
            if record.record_id:
                sent = (record.record_id, record.fingerprint, job_id)
                receipts.append(StoredReceipt(*sent, revision, attempt, reason, record.source))
        return outcomes

    def change(self, merged: Merged) -> None:
        """Replace an existing job by its merged state."""
        job = merged.job
        self._jobs[job.job_id].job = job
        if merged.transition is not None:
            self.transitions.append((job.job_id, merged.transition))

    def changed(self) -> Sequence[ReadJob]:
        """Return the jobs that have changed."""
        return [item for item in self._jobs.values() if item.job is not item.before]

    def changes(self, interest: Container[str]) -> Sequence[JobHistory]:
        """Return the changes of those jobs that are in `interest`."""
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
