"""`JobModel`: what must become of jobs, said a second time and differently from the code that is tested.

It is told of each transaction at the moment of its commit, works out what that must have done, and forgets nothing:
neither states nor transitions nor jobs that were removed. So whatever a watcher is told can be held against it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from emitd_handlers.record import JobState, JobStatus, LogRecord
from support.jobs.life import RANKS, Life, State

__all__ = ["Answer", "JobModel"]

SECOND = 1_000_000_000


class Answer(NamedTuple):
    """What a report must be answered: the field that it is refused for, or what is in its receipt."""

    refused: str = ""
    revision: int = 0
    attempt: int = 0
    stale_reason: str = ""
    cancel_requested: bool = False
    duplicate: bool = False
    #: Which of the jobs under its id it was about.
    life: int = 0


class JobModel:
    """All jobs that ever were. Times are nanoseconds since 1970-01-01T00:00:00Z."""

    def __init__(self) -> None:
        #: By id, the lives in their order.
        self.lives: dict[str, list[Life]] = {}
        #: The ids of jobs that exist.
        self.present: set[str] = set()
        #: When the leases were last looked at; None: never.
        self.passed_at: int | None = None
        #: What has been acknowledged, or is known to have been told: by id, which life, and its revision (0: removed).
        self.floors: dict[str, tuple[int, int]] = {}
        #: How often each rule was applied.
        self.counts: dict[str, int] = {}

    def life(self, job_id: str) -> Life | None:
        """The job that exists now."""
        return self.lives[job_id][-1] if job_id in self.present else None

    def life_of(self, job_id: str, create_time_unix_nano: int) -> Life | None:
        """The job that was created then."""
        for life in reversed(self.lives.get(job_id, ())):
            if life.now.create_time_unix_nano == create_time_unix_nano:
                return life
        return None

    def raise_floor(self, job_id: str, life: int, revision: int) -> None:
        """Take note that no reader that connects from now on may be told anything older."""
        self.floors[job_id] = max(self.floors.get(job_id, (0, 0)), (life, revision))

    def raise_floors(self) -> None:
        """Take note that all that is committed is known to everybody."""
        for job_id, lives in self.lives.items():
            is_present = job_id in self.present
            self.raise_floor(job_id, len(lives) - is_present, lives[-1].revision if is_present else 0)

    def copy(self) -> "JobModel":
        """What is known now, to go back to."""
        other = JobModel()
        other.lives = {job_id: [life.copy() for life in lives] for job_id, lives in self.lives.items()}
        other.present, other.passed_at = set(self.present), self.passed_at
        other.counts = self.counts
        return other

    def apply(self, records: Sequence[LogRecord], now: int, wall: int) -> list[Answer]:
        """Take a transaction's reports; `now` is the time of receipt."""
        return [self._report(record, now, wall) for record in records]

    def pass_over_leases(
        self, interval_seconds: float, waited_seconds: float, now: int, wall: int, set_by: int | None
    ) -> list[tuple[str, int]]:
        """Take a pass over the leases; return the jobs that it ends, and when their leases ran out."""
        running = [self.lives[job_id][-1] for job_id in self.present]
        leased = [life for life in running if life.now.lease_expire_time_unix_nano]
        since = None if set_by is None else wall - max(set_by, 0)
        if self.passed_at is None or wall - self.passed_at > 2 * interval_seconds * SECOND:
            self._count("gap")
            since = self.passed_at or 0
        if since is not None:
            for life in leased:
                self._put_off(life, wall, since)
        self.passed_at = _microsecond(wall)
        latest = wall - int(waited_seconds * SECOND)
        over = [life for life in leased if life.now.lease_expire_time_unix_nano <= latest]
        ends = [(life.now.job_id, life.now.lease_expire_time_unix_nano) for life in over]
        for life in over:
            self._expire(life, now)
        return ends

    def request_cancel(self, job_id: str, reason: str, now: int) -> State | None:
        """Take a wish; return the job as it then stands."""
        life = self.life(job_id)
        if life is None:
            return None
        if not life.now.ended and not life.now.cancel_requested:
            self._count("cancelled")
            asked = replace(self._next(life.now, now), cancel_requested=True, cancel_reason=reason)
            life.add(asked, 0, is_transition=False, is_report=False)
        return life.now

    def remove_ended(
        self,
        removed: Sequence[str],
        now: int,
        *,
        ended_seconds: float | None,
        ended_count: int | None,
        history_seconds: float | None,
    ) -> None:
        """Take a pass of retention that says which jobs it has removed; those must be the right ones."""
        ended = {
            job_id: life.now.end_time_unix_nano
            for job_id in self.present
            if (life := self.life(job_id)) and life.now.ended
        }
        assert set(removed) <= set(ended), "a job was removed that had not ended"
        due = {
            job_id
            for job_id, end in ended.items()
            if ended_seconds is not None and end <= now - int(ended_seconds * SECOND)
        }
        assert due <= set(removed), "a job was kept for too long"
        kept = [end for job_id, end in ended.items() if job_id not in removed]
        surplus = [end for job_id, end in ended.items() if job_id in removed and job_id not in due]
        if ended_count is None:
            assert not surplus, "a job was removed too soon"
        else:
            assert len(kept) == min(len(ended) - len(due), ended_count), (
                "a wrong number of ended jobs was kept"
            )
            assert not surplus or not kept or max(surplus) <= min(kept), "not those were kept that ended last"
        for job_id in removed:
            self.present.remove(job_id)
            life = self.lives[job_id][-1]
            life.kept_after = life.revision
            self._count("removed")
        for job_id in set(ended) - set(removed):
            life = self.lives[job_id][-1]
            if (
                history_seconds is not None
                and ended[job_id] <= now - int(history_seconds * SECOND)
                and life.kept_after < life.revision
            ):
                life.kept_after = life.revision
                life.openings = {}
                self._count("trimmed")

    def _report(self, record: LogRecord, now: int, wall: int) -> Answer:
        report = record.payload
        assert isinstance(report, JobStatus)
        if report.progress is not None and report.progress not in range(101):
            return Answer("job.progress")
        life = self.life(report.job_id)
        if not report.new_attempt and report.attempt > (life.now.attempt if life else 0) + 1000:
            self._count("jumped")
            return Answer("job.attempt")
        index = len(self.lives.get(report.job_id, ())) - (life is not None)
        if life is None:
            if not report.job_type:
                return Answer("job.job_type")
            created = _microsecond(record.received_unix_nano)
            life, state = Life(), State(report.job_id, report.job_type, created, created)
            number = 1 if report.new_attempt else report.attempt
        else:
            state = life.now
            if report.job_type not in ("", state.job_type):
                return Answer("job.job_type")
            opening = life.openings.get((record.record_id, record.source))
            if report.new_attempt and opening:
                self._count("copy")
                return Answer("", *opening, "", state.cancel_requested, True, index)
            number = state.attempt + 1 if report.new_attempt else report.attempt
        reason = _stale_reason(state, number, record, report)
        if reason:
            self._count(reason)
            return Answer("", state.revision, state.attempt, reason, state.cancel_requested, life=index)
        self._count("applied")
        after = _after(self._next(state, now), state, number, record, report, wall)
        if not life.states:
            self.lives.setdefault(report.job_id, []).append(life)
            self.present.add(report.job_id)
        is_transition = (after.attempt, after.status) != (state.attempt, state.status)
        life.add(after, record.time_unix_nano, is_transition=is_transition, is_report=True)
        if report.new_attempt and record.record_id:
            life.openings[record.record_id, record.source] = (after.revision, after.attempt)
        return Answer("", after.revision, after.attempt, "", after.cancel_requested, life=index)

    def _expire(self, life: Life, now: int) -> None:
        assert not life.now.ended
        self._count("expired")
        failed = replace(
            self._next(life.now, now),
            status=JobState.FAILED,
            event_time_unix_nano=max(now, life.now.event_time_unix_nano),
            lease_expire_time_unix_nano=0,
            failure_reason="LEASE_EXPIRED",
            failure_message=f"no report came within the lease of {life.now.lease_seconds} s",
        )
        failed = replace(failed, end_time_unix_nano=failed.update_time_unix_nano)
        life.add(failed, now, is_transition=True, is_report=False)

    def _put_off(self, life: Life, now: int, since: int) -> None:
        """Give back the time in which nobody watched, as far as the lease ran then."""
        end = life.now.lease_expire_time_unix_nano
        life.earlier_lease_ends.setdefault(life.revision, set()).add(end)
        left = life.now.lease_seconds * SECOND  # what a lease has when it is renewed
        left = min(left, end - since)
        life.states[-1] = replace(life.now, lease_expire_time_unix_nano=_microsecond(now + left))

    def _next(self, state: State, now: int) -> State:
        """The next revision, which is made now."""
        updated = max(_microsecond(now), state.update_time_unix_nano)
        return replace(state, revision=state.revision + 1, update_time_unix_nano=updated)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _microsecond(time_unix_nano: int) -> int:
    return time_unix_nano // 1000 * 1000


def _event_time(state: State, record: LogRecord) -> int:
    """A report that happens as it is received, or later, is the newest of all."""
    if record.time_unix_nano < record.received_unix_nano:
        return record.time_unix_nano
    return max(record.received_unix_nano, state.event_time_unix_nano + 1)


def _stale_reason(state: State, number: int, record: LogRecord, report: JobStatus) -> str:
    if number != state.attempt:
        return "SUPERSEDED" if number < state.attempt else ""
    if state.ended:
        return "ATTEMPT_ENDED"
    progress = -1 if report.progress is None else report.progress
    told = (RANKS[report.status], _event_time(state, record), progress)
    known = (RANKS[state.status], state.event_time_unix_nano, state.progress)
    return "" if told > known else "OUT_OF_ORDER"


def _after(base: State, before: State, number: int, record: LogRecord, report: JobStatus, wall: int) -> State:
    """The state that a report makes; `base` is `before` at the new revision and time."""
    changes: dict[str, Any] = {}
    if number != before.attempt:
        changes = {
            "attempt": number,
            "progress": 0,
            "message": "",
            "details_json": "",
            "lease_seconds": 0,
            "start_time_unix_nano": 0,
        }
        if before.ended:
            changes |= {"cancel_requested": False, "cancel_reason": ""}
    changes |= {"status": report.status, "source": record.source}
    if record.message:
        changes["message"] = record.message
    changes["event_time_unix_nano"] = _event_time(before, record)
    if report.progress is not None:
        changes["progress"] = report.progress
    elif report.status is JobState.COMPLETED:
        changes["progress"] = 100
    if report.details_json:
        changes["details_json"] = report.details_json
    if report.labels:
        changes["labels"] = report.labels
    if report.lease_seconds is not None:
        changes["lease_seconds"] = report.lease_seconds
    after = replace(base, **changes)
    now, failed = after.update_time_unix_nano, report.status is JobState.FAILED
    lease = (
        _microsecond(wall) + after.lease_seconds * SECOND if after.lease_seconds and not after.ended else 0
    )
    started = now if report.status is JobState.RUNNING else 0
    return replace(
        after,
        lease_expire_time_unix_nano=lease,
        failure_reason=report.failure_reason if failed else "",
        failure_message=report.failure_message if failed else "",
        start_time_unix_nano=after.start_time_unix_nano or started,
        end_time_unix_nano=now if after.ended else 0,
    )
