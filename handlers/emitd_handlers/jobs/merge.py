"""How a report changes a job: the one rule for all databases. Pure.

A report is merged, not assigned, so that reports that come twice, late or out of order do no harm:

- a report of a lower attempt than the job's is stale (`SUPERSEDED`); one of a higher attempt, or one that asks
  for a new attempt, starts the job afresh;
- within an attempt QUEUED < RUNNING < COMPLETED = FAILED, and a lower rank is stale (`OUT_OF_ORDER`); once
  ended, every further report of the attempt is stale (`ATTEMPT_ENDED`);
- among equals the later event time wins, then the higher progress; a report with neither is stale
  (`OUT_OF_ORDER`), so that an identical copy changes nothing.

Afresh means: progress 0, no message, no details, no lease, no failure, unless the report has them. Type, time of
creation and labels belong to the job, not to the attempt, and stay. A request to cancel stays until the job has ended;
the next attempt after that begins without it.

The caller (see `transaction`) sees to it that a report opens an attempt only once, however often it is sent. Leases
that ran out and requests to cancel change a job here too.
"""

import msgspec
from msgspec.structs import replace

from emitd_handlers.clock import NANOS_A_SECOND
from emitd_handlers.errors import RecordForbidden, RecordInvalid
from emitd_handlers.jobs.source import Job, JobTransition
from emitd_handlers.record import JobState, JobStatus, Level, LogRecord
from emitd_handlers.scope import ANYONE, owners

#: A newer attempt has replaced the report's.
SUPERSEDED = "SUPERSEDED"
#: The report's attempt has ended.
ATTEMPT_ENDED = "ATTEMPT_ENDED"
#: A later report of the same attempt was applied before, or the same report.
OUT_OF_ORDER = "OUT_OF_ORDER"

#: The `failure_reason` of an attempt whose lease ran out.
LEASE_EXPIRED = "LEASE_EXPIRED"

#: The limit of the wire.
MAX_ATTEMPT = 2**32 - 1
#: By how much a report's attempt may be higher than its job's, unless a setting says otherwise.
MAX_ATTEMPT_JUMP = 1000

_QUEUED, _RUNNING, _COMPLETED, _FAILED = JobState


class Merged(msgspec.Struct, frozen=True, gc=False):
    """The result of a merge."""

    #: The job after the report; the same object as before if the report was stale.
    job: Job
    #: The change of status or the start of an attempt that the report made, if any.
    transition: JobTransition | None = None
    #: Why the report was not applied; empty if it was.
    stale_reason: str = ""

    @property
    def applied(self) -> bool:
        """Whether the report changed the job."""
        return not self.stale_reason


def merge(
    job: Job | None, record: LogRecord, now_unix_nano: int, max_attempt_jump: int = MAX_ATTEMPT_JUMP
) -> Merged:
    """Merge the report in `record` into `job`; None: into a new job.

    `now_unix_nano` is the time of receipt, see `clock.Clock`. The job's times by that clock are cut to microseconds, as
    databases keep them. An attempt that is higher than the job's (0 for a new job) by more than `max_attempt_jump` is
    refused: it would leave the job few attempts or none. Raises RecordInvalid, naming the field, and RecordForbidden
    for a job that is not for the sender.
    """
    report = record.payload
    if not isinstance(report, JobStatus):
        raise RecordInvalid("job", "is mandatory where jobs are kept")
    progress = report.progress
    if progress is not None and not 0 <= progress <= 100:
        raise RecordInvalid("job.progress", f"{progress} is not a percentage from 0 to 100")
    if job is not None and record.sender is not ANYONE:
        refuse_foreign(job, record)
    last_attempt = 0 if job is None else job.attempt
    if report.attempt - last_attempt > max_attempt_jump and not report.new_attempt:
        raise RecordInvalid(
            "job.attempt",
            f"{report.attempt} is more than {max_attempt_jump} above the job's last attempt, {last_attempt}: "
            "send `new_attempt` instead, or raise the setting max_attempt_jump",
        )
    if job is None:
        return _begin_first(record, report, now_unix_nano)
    if report.job_type != job.job_type and report.job_type:
        raise RecordInvalid("job.job_type", f"'{report.job_type}' differs from the job's, '{job.job_type}'")
    attempt = _next_attempt(job) if report.new_attempt else report.attempt
    if attempt < job.attempt:
        return Merged(job, None, SUPERSEDED)
    if attempt > job.attempt:
        return _begin(job, attempt, record, report, now_unix_nano)
    current = job.status
    if current is _COMPLETED or current is _FAILED:
        return Merged(job, None, ATTEMPT_ENDED)
    event_time = _event_time(job, record)
    if report.status is not current:
        if report.status < current:
            return Merged(job, None, OUT_OF_ORDER)
        return _with_transition(_apply(job, record, report, event_time, now_unix_nano), record)
    if event_time <= job.event_time_unix_nano and (
        event_time < job.event_time_unix_nano or progress is None or progress <= job.progress
    ):
        return Merged(job, None, OUT_OF_ORDER)
    return Merged(_apply(job, record, report, event_time, now_unix_nano))


def refuse_foreign(job: Job, record: LogRecord) -> None:
    """Raise RecordForbidden if the job is not for the record's sender to report on."""
    sender = record.sender
    if not sender.is_anonymous and job.owner and job.owner not in owners(sender.principal):
        raise RecordForbidden(
            "job.job_id", f"the job belongs to '{job.owner}', not to '{sender.principal.name}'"
        )
    if not sender.scope.has(Level.JOB_STATUS, record.source, job.job_type):
        problem = f"no grant covers jobs of type '{job.job_type}', for '{sender.principal.name}'"
        raise RecordForbidden("job.job_type", problem)


def expire(job: Job, now_unix_nano: int) -> Merged:
    """Fail a job whose lease has run out, with LEASE_EXPIRED."""
    update_time = _update_time(job, now_unix_nano)
    failed = replace(
        job,
        status=_FAILED,
        revision=job.revision + 1,
        update_time_unix_nano=update_time,
        event_time_unix_nano=max(now_unix_nano, job.event_time_unix_nano),
        lease_expire_time_unix_nano=0,
        failure_reason=LEASE_EXPIRED,
        failure_message=f"no report came within the lease of {job.lease_seconds} s",
        end_time_unix_nano=update_time,
    )
    return Merged(failed, _transition_to(failed, now_unix_nano))


def put_off(expire_time: int, lease_seconds: int, unwatched_since: int, now: int) -> int:
    """Return the new end of a lease that nobody watched until now; times are in nanoseconds.

    It is later by the time that the lease ran unwatched: since the last pass, or since it was renewed. If the clock was
    set back since then, the lease lasts from now at most.
    """
    renewed_at = expire_time - lease_seconds * NANOS_A_SECOND
    return expire_time + now - max(min(unwatched_since, now), renewed_at)


def unwatched_since(passed_at: int, now: int, interval_seconds: float, set_by: int | None) -> int | None:
    """Return since when nobody watched the leases, for `put_off`; None: they are right. Times are in nanoseconds.

    `set_by`: by how much the clock was set since the last pass; None: it was not.
    """
    if now - passed_at > 2 * interval_seconds * NANOS_A_SECOND:
        return passed_at
    return None if set_by is None else now - set_by


def request_cancel(job: Job, reason: str, now_unix_nano: int) -> Job:
    """Return the job with a request to cancel; the same object if it has one already, or the job has ended."""
    if job.cancel_requested or job.status.ended:
        return job
    return replace(
        job,
        revision=job.revision + 1,
        update_time_unix_nano=_update_time(job, now_unix_nano),
        cancel_requested=True,
        cancel_reason=reason,
    )


def _begin_first(record: LogRecord, report: JobStatus, now_unix_nano: int) -> Merged:
    if not report.job_id:
        raise RecordInvalid("job.job_id", "is mandatory")
    if not report.job_type:
        raise RecordInvalid("job.job_type", "is mandatory in the first report of a job")
    create_time = record.received_unix_nano - record.received_unix_nano % 1000
    nothing = Job(
        job_id=report.job_id,
        job_type=report.job_type,
        status=_QUEUED,
        revision=0,
        create_time_unix_nano=create_time,
        update_time_unix_nano=create_time,
    )
    return _begin(nothing, 1 if report.new_attempt else report.attempt, record, report, now_unix_nano)


def _begin(job: Job, attempt: int, record: LogRecord, report: JobStatus, now_unix_nano: int) -> Merged:
    """Start `job` afresh with a report of a new attempt."""
    is_asked_to_stop = job.cancel_requested and not job.status.ended
    fresh = replace(
        job,
        attempt=attempt,
        progress=0,
        message="",
        details_json="",
        lease_seconds=0,
        failure_reason="",
        failure_message="",
        cancel_requested=is_asked_to_stop,
        cancel_reason=job.cancel_reason if is_asked_to_stop else "",
        start_time_unix_nano=0,
        end_time_unix_nano=0,
    )
    begun = _apply(fresh, record, report, _event_time(job, record), now_unix_nano)
    return _with_transition(begun, record, record if report.new_attempt and record.record_id else None)


def _apply(job: Job, record: LogRecord, report: JobStatus, event_time: int, now_unix_nano: int) -> Job:
    """Return `job` with the values of the report; values that it leaves out stay."""
    status = report.status
    progress = report.progress
    if progress is None:
        progress = 100 if status is _COMPLETED else job.progress
    update_time = now_unix_nano - now_unix_nano % 1000
    if update_time < job.update_time_unix_nano:  # the clock has been set back
        update_time = job.update_time_unix_nano
    lease_seconds = job.lease_seconds if report.lease_seconds is None else report.lease_seconds
    start_time = job.start_time_unix_nano
    if not start_time and status is _RUNNING:
        start_time = update_time
    # Fewer than 15 names in one call: with more Python makes a dict of them first, which costs as much as the rest.
    applied = replace(
        job,
        status=status,
        progress=progress,
        message=record.message or job.message,
        details_json=report.details_json or job.details_json,
        labels=report.labels or job.labels,
        source=record.source,
        owner=job.owner or owners(record.sender.principal)[0],
        revision=job.revision + 1,
        update_time_unix_nano=update_time,
        event_time_unix_nano=event_time,
        lease_seconds=lease_seconds,
        lease_expire_time_unix_nano=update_time + lease_seconds * NANOS_A_SECOND if lease_seconds else 0,
        start_time_unix_nano=start_time,
    )
    failed = status is _FAILED
    if not failed and status is not _COMPLETED:
        return applied
    return replace(
        applied,
        lease_expire_time_unix_nano=0,
        failure_reason=report.failure_reason if failed else "",
        failure_message=report.failure_message if failed else "",
        end_time_unix_nano=update_time,
    )


def _update_time(job: Job, now_unix_nano: int) -> int:
    update_time = now_unix_nano - now_unix_nano % 1000
    last = job.update_time_unix_nano
    return update_time if update_time > last else last  # the clock may have been set back


def _event_time(job: Job, record: LogRecord) -> int:
    """Return the record's time, but not later than its receipt.

    A time of receipt is later than all that were applied before, even if the clock has been set back.
    """
    event_time, received = record.time_unix_nano, record.received_unix_nano
    if event_time < received:
        return event_time
    last = job.event_time_unix_nano
    return received if received > last else last + 1


def _next_attempt(job: Job) -> int:
    if job.attempt == MAX_ATTEMPT:
        raise RecordInvalid("job.new_attempt", f"the job is at its last attempt, {MAX_ATTEMPT}")
    return job.attempt + 1


def _with_transition(job: Job, record: LogRecord, opener: LogRecord | None = None) -> Merged:
    return Merged(job, _transition_to(job, record.time_unix_nano, opener))


def _transition_to(job: Job, time_unix_nano: int, opener: LogRecord | None = None) -> JobTransition:
    return JobTransition(
        job.revision,
        job.attempt,
        job.status,
        job.progress,
        time_unix_nano,
        job.failure_reason,
        job.failure_message,
        opened_by=opener.record_id if opener else "",
        opened_by_source=opener.source if opener else "",
    )
