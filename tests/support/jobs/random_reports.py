"""`RandomReports`: reports on a few jobs as careless senders make them: late, twice, out of order."""

from collections import deque
from random import Random

from msgspec.structs import replace

from emitd_handlers.record import JobState, JobStatus, Level, LogRecord
from support.jobs.life import State
from support.jobs.model import JobModel

__all__ = ["JOB_IDS", "TEAMS", "RandomReports", "in_short"]

SECOND = 1_000_000_000
MICROSECOND = 1000
JOB_IDS = ("a", "b", "c", "d", "e")
#: Values of the label `team`.
TEAMS = ("x", "y")


class RandomReports:
    """Makes reports by a random generator. `model` may change; it says what is worth reporting."""

    def __init__(self, random: Random) -> None:
        self._random = random
        #: What was made, to be sent again.
        self._sent: deque[LogRecord] = deque(maxlen=60)
        self._last_received = 0
        self._serial = 0

    def make(self, model: JobModel, now: int) -> LogRecord:
        """Return a new report, or one that was sent before, as it comes in now."""
        random, received = self._random, self._receive(now)
        if self._sent and random.random() < 0.2:
            again = random.choice(self._sent)
            had_no_time = again.time_unix_nano == again.received_unix_nano
            time = received if had_no_time else again.time_unix_nano
            # Another program may use the same ids.
            source = random.choice([again.source] * 5 + ["w3"])
            return replace(again, time_unix_nano=time, received_unix_nano=received, source=source)
        life = model.life(job_id := random.choice(JOB_IDS))
        now_there = life.now if life else None
        record = self._record(
            self._make_status(job_id, now_there), self._make_time(now_there, received), received
        )
        self._sent.append(record)
        return record

    def make_tick(self, model: JobModel, now: int, job_id: str) -> LogRecord:
        """Return a sign of life of a job's newest attempt, with a lease of 2 s."""
        life, received = model.life(job_id), self._receive(now)
        attempt = life.now.attempt if life else 1
        status = JobStatus(job_id, "t", JobState.RUNNING, attempt=attempt, lease_seconds=2)
        return self._record(status, received, received)

    def _receive(self, now: int) -> int:
        """Return when a report is received: no two in one microsecond, by which jobs under one id are told apart."""
        self._last_received = max(self._last_received + MICROSECOND, now)
        return self._last_received

    def _record(self, status: JobStatus, time_unix_nano: int, received: int) -> LogRecord:
        self._serial += 1
        return LogRecord(
            Level.JOB_STATUS,
            self._random.choice(["", f"report {self._serial}"]),
            record_id=self._random.choice(["", f"id-{self._serial}"]),
            time_unix_nano=time_unix_nano,
            received_unix_nano=received,
            source=self._random.choice(["w1", "w1", "w1", "w2"]),
            payload=status,
        )

    def _make_time(self, state: State | None, received: int) -> int:
        random = self._random
        last = state.event_time_unix_nano if state else received
        earlier = received - random.randint(1, 5 * SECOND)
        return random.choice([received, received, received, earlier, last, last + 1, received + SECOND])

    def _make_status(self, job_id: str, state: State | None) -> JobStatus:
        random = self._random
        attempt = state.attempt if state else 1
        states = [JobState.QUEUED, *[JobState.RUNNING] * 7, JobState.COMPLETED, JobState.FAILED]
        has_ended = state is not None and state.ended
        return JobStatus(
            job_id,
            random.choice(["t", "t", "t", "t", "", "u"]) if random.random() < 0.1 else "t",
            random.choice(states),
            random.choice([None, *[random.randint(0, 100)] * 3])
            if random.random() < 0.98
            else random.choice([-1, 101]),
            random.choice(["", "", '{"a":1}', '{"b":2}']),
            random.choice([{}, {}, {}, {"team": random.choice(TEAMS)}]),
            random.choice(["", "OOM"]),
            random.choice(["", "out of memory"]),
            max(1, attempt + random.choice([0] * 20 + [-1, -1, 1]))
            if random.random() < 0.99
            else random.choice([attempt + 1001, 2**32 - 1]),
            random.random() < (0.3 if has_ended else 0.03),
            random.choice([None, None, None, None, 0, 2, 20, 60]),
        )


def in_short(record: LogRecord) -> str:
    """Return a report in a line, without what it leaves out."""
    report, before = record.payload, (record.received_unix_nano - record.time_unix_nano) / SECOND
    told = {name: value for name in JobStatus.__struct_fields__ if (value := getattr(report, name))}
    return f"{told} {record.record_id} of {before:.3f} s before"
