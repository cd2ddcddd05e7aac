"""The wall clock of a real server is set, for a moment and for good: times of receipt and leases stand it."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd.v1 import job_pb2, log_service_pb2, log_service_pb2_grpc
from emitd.v1 import record_pb2 as pb
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.text.times import parse_time
from support.processes.server_process import ServerProcess
from support.processes.set_clock import LIBRARIES, SetClock

#: Real processes that wait for clocks, signals and retries.
pytestmark = pytest.mark.slow

SECOND = 1_000_000_000
HOUR = 3600
LEASE = 3
AUDIT = "  audit: {type: json_audit, path: audit.json.log}\n"
CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  jobs: {type: database_job, database: "sqlite:///jobs.db", lease_check_seconds: 0.2}
"""


class Service:
    """A server whose wall clock can be set, and a client of it."""

    def __init__(self, folder: Path, clock: SetClock, config: str) -> None:
        self.folder = folder
        self.clock = clock
        (folder / "emitd.yml").write_text(config)
        self.start()

    def start(self) -> None:
        self.server = ServerProcess.launch(self.folder, "--config", "emitd.yml", environ=self.clock.environ())
        self.server.wait_until_up()
        self._channel = grpc.insecure_channel(self.server.address)
        self._stub = log_service_pb2_grpc.LogServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def kill(self) -> None:
        self._channel.close()
        self.server.kill()

    def restart(self) -> None:
        self.kill()
        self.start()

    def emit(self, record: pb.LogRecord) -> log_service_pb2.Receipt:
        return self._stub.Emit(log_service_pb2.EmitRequest(record=record), timeout=10).receipt  # type: ignore[no-any-return]

    def audit(self) -> int:
        """Commit an event; return its `received_at` in nanoseconds."""
        event = pb.AuditEvent(event_name="test", user_id="u", source_ip="unknown", details_json="{}")
        index = self.emit(pb.LogRecord(audit=event)).audit.leaf_index
        return parse_time(self.lines()[index]["received_at"])

    def report(self, job_id: str, **fields: Any) -> job_pb2.Job:
        """Report, with a lease, on a job, which must be applied; return the job."""
        fields = {"lease_seconds": LEASE} | fields
        status = pb.JobStatus(job_id=job_id, job_type="t", status=pb.JOB_STATE_RUNNING, **fields)
        assert self.emit(pb.LogRecord(record_id=str(uuid.uuid4()), job=status)).job.applied
        return self.job(job_id)

    def job(self, job_id: str) -> job_pb2.Job:
        return self._stub.GetJob(job_pb2.GetJobRequest(job_id=job_id), timeout=10).job  # type: ignore[no-any-return]

    def has_expired(self, job_id: str) -> bool:
        return self.job(job_id).failure_reason == "LEASE_EXPIRED"

    def lines(self) -> Sequence[Any]:
        return [json.loads(line) for line in (self.folder / "audit.json.log").read_text().splitlines()]

    def steps(self) -> list[float]:
        """Return the steps that the trail tells of."""
        events = [line for line in self.lines() if line["event_name"] == "emitd.clock.step"]
        assert {event["source"] for event in events} <= {"emitd"}
        for event in events:
            details = event["details"]
            change = details["new_offset_seconds"] - details["old_offset_seconds"]
            assert change == pytest.approx(details["step_seconds"], abs=1)
        return [round(event["details"]["step_seconds"]) for event in events]

    @contextmanager
    def living_worker(self, job_id: str) -> Iterator[None]:
        """Renew the lease of a job for as long as the block runs."""
        is_over = threading.Event()

        def work() -> None:
            while not is_over.wait(LEASE / 6):
                self.emit(
                    pb.LogRecord(
                        job=pb.JobStatus(job_id=job_id, status=pb.JOB_STATE_RUNNING, lease_seconds=LEASE)
                    )
                )

        self.report(job_id)
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


@pytest.fixture(params=["python", "libfaketime"])
def clock(request: pytest.FixtureRequest, tmp_path: Path) -> SetClock:
    if request.param == "python":
        return SetClock(tmp_path)
    if not LIBRARIES:
        pytest.skip("Debian's package libfaketime is not installed")
    return SetClock(tmp_path, library=LIBRARIES[0])


@pytest.fixture
def service(tmp_path: Path, clock: SetClock) -> Iterator[Service]:
    service = Service(tmp_path, clock, CONFIG + AUDIT)
    yield service
    service.kill()


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Fail if that takes longer than `seconds`, and what a loaded machine adds; without the fix it takes hours."""
    deadline = time.monotonic() + seconds + 15
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def assert_half_speed(read: Callable[[], int]) -> None:
    """Times go on, at half the speed of a steady clock."""
    first, before = read(), time.monotonic()
    time.sleep(1.0)
    second, after = read(), time.monotonic()
    assert (second - first) / SECOND == pytest.approx((after - before) / 2, abs=0.2)


def test_two_hours_forward_and_back(service: Service) -> None:
    """Nothing freezes, nothing goes back, leases run out in time: at once, and after a restart."""
    created = service.report("updated").update_time_unix_nano
    with service.living_worker("alive"):
        service.clock.set(2 * HOUR)
        wait_until(lambda: service.steps() == [2 * HOUR], 3)
        service.report("dead")
        last = service.audit()
        service.clock.set(0)
        wait_until(lambda: service.steps() == [2 * HOUR, -2 * HOUR], 3)
        assert last < service.audit()
        assert_half_speed(service.audit)
        wait_until(lambda: service.has_expired("dead"), LEASE + 2)
        assert not service.has_expired("alive")
    updated = service.report("updated", new_attempt=True).update_time_unix_nano
    assert created + 2 * HOUR * SECOND < updated
    last = service.audit()
    service.restart()
    assert "behind the last time of receipt" in service.server.stderr
    assert last < service.audit()
    assert_half_speed(service.audit)
    assert updated < service.report("updated", attempt=2).update_time_unix_nano
    assert_half_speed(lambda: service.report("updated", attempt=2).update_time_unix_nano)
    wait_until(lambda: service.has_expired("updated"), LEASE + 2)
    service.kill()
    assert verify_log(service.folder / "audit.json.log").verdict is Verdict.GOOD


def test_leases_given_before_a_restart_under_another_clock(tmp_path: Path, clock: SetClock) -> None:
    """The clock was two hours ahead when the server was killed, and there is no audit log to say so."""
    service = Service(tmp_path, clock, CONFIG)
    try:
        clock.set(2 * HOUR)
        wait_until(lambda: "the clock was set by +7200" in service.server.stderr, 3)
        last = service.report("dead").update_time_unix_nano
        service.kill()
        clock.set(0)
        service.start()
        assert service.job("dead").lease_expire_time_unix_nano < time.time_ns() + (LEASE + 1) * SECOND
        wait_until(lambda: service.has_expired("dead"), LEASE + 2)
        assert last < service.job("dead").update_time_unix_nano < service.report("new").create_time_unix_nano
    finally:
        service.kill()


@pytest.mark.parametrize("keeps", ["events", "jobs"])
def test_a_restart_while_the_clock_is_set_back(tmp_path: Path, clock: SetClock, keeps: str) -> None:
    """The audit log alone, and the last report on an old job alone, say from where times go on."""
    jobs_only = keeps == "jobs"
    service = Service(tmp_path, clock, CONFIG if jobs_only else CONFIG.split("  jobs:")[0] + AUDIT)
    try:
        if jobs_only:
            service.report("old", lease_seconds=0)
        read = service.audit if not jobs_only else lambda: service.report("old").update_time_unix_nano
        clock.set(2 * HOUR)
        last = read()
        service.kill()
        clock.set(0)
        service.start()
        assert 0 < read() - last < 60 * SECOND
        assert_half_speed(read)
    finally:
        service.kill()


def test_ten_minutes_back(service: Service) -> None:
    """A dead worker's job ends as if nothing had happened, and a living one's does not."""
    with service.living_worker("alive"):
        service.report("dead")
        service.clock.set(-600)
        wait_until(lambda: service.has_expired("dead"), LEASE + 2)
        assert_half_speed(service.audit)
        assert not service.has_expired("alive")
    assert service.steps() == [-600]


@pytest.mark.parametrize("seconds", [30, 2 * HOUR, 10 * 365 * 24 * HOUR])
def test_forward_for_good(service: Service, seconds: int) -> None:
    """No living worker's job ends, a dead one's does, and times of receipt follow."""
    with service.living_worker("alive"):
        service.report("dead")
        service.clock.set(seconds)
        wait_until(lambda: service.steps() == [seconds], 3)
        assert service.audit() == pytest.approx(time.time_ns() + seconds * SECOND, abs=2 * SECOND)
        assert not service.has_expired("dead")
        wait_until(lambda: service.has_expired("dead"), LEASE + 2)
        assert not service.has_expired("alive")
