"""Load for benchmarks: requests made beforehand, a fixed number of calls in flight, the server's CPU time read
from the operating system.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc

from emitd.v1 import log_service_pb2, record_pb2

CALLS_IN_FLIGHT = 8


@dataclass(frozen=True)
class Measurement:
    """What one run cost."""

    records: int
    #: Of the server process, user and system, all threads.
    cpu_seconds: float
    wall_seconds: float
    #: Of each call, in seconds, sorted.
    latencies: Sequence[float]
    #: Of the server process, after the run.
    resident_bytes: int

    @property
    def cpu_us_per_record(self) -> float:
        """Microseconds of server CPU for each record."""
        return self.cpu_seconds / self.records * 1e6

    @property
    def records_per_second(self) -> float:
        """Records acknowledged in a second of wall time."""
        return self.records / self.wall_seconds

    def percentile_ms(self, percent: float) -> float:
        """The call latency in milliseconds that `percent` of the calls stayed under."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))] * 1e3


def context(number: int) -> dict[str, Any]:
    """What every second event also has: the trace that it belongs to, and attributes."""
    if number % 2:
        return {}
    attributes = f'{{"http.request.method":"POST","url.path":"/login","tenant":{number % 97}}}'
    return {"trace_id": uuid4().bytes, "span_id": uuid4().bytes[:8], "attributes_json": attributes}


def audit_record(number: int) -> record_pb2.LogRecord:
    """An audit event as a login service sends it: ids from the sender, a small flat object of details."""
    return record_pb2.LogRecord(
        record_id=str(uuid4()),
        time_unix_nano=time.time_ns(),
        source="auth-service",
        audit=record_pb2.AuditEvent(
            event_name="user.login.failure",
            user_id=f"user-{number % 997}",
            source_ip=f"10.0.{number % 8}.{number % 250}",
            details_json=f'{{"method":"password","port":{40000 + number % 9999},"invalid":false,"attempt":3}}',
        ),
        **context(number),
    )


def console_record(number: int) -> record_pb2.LogRecord:
    """A log line with an id."""
    return record_pb2.LogRecord(
        record_id=str(uuid4()),
        time_unix_nano=time.time_ns(),
        level=record_pb2.LEVEL_INFO,
        source="auth-service",
        message=f"User 'user-{number % 997}' successfully authenticated.",
        **context(number),
    )


def job_record(number: int) -> record_pb2.LogRecord:
    """A progress report, one of 4,096 jobs in turn."""
    return record_pb2.LogRecord(
        record_id=str(uuid4()),
        time_unix_nano=time.time_ns(),
        source="worker-7",
        message="copying",
        job=record_pb2.JobStatus(
            job_id=f"job-{number % 4096:05}",
            job_type="sync",
            status=record_pb2.JOB_STATE_RUNNING,
            progress=number // 4096 % 100,
        ),
    )


RECORD_MAKERS = {"audit": audit_record, "console": console_record, "jobs": job_record}


def requests(kind: str, batch: int, calls: int, numbers: Iterator[int]) -> list[bytes]:
    """Return `calls` serialised requests, each of `batch` new records: Emit for a batch of 1, else EmitBatch."""
    make = RECORD_MAKERS[kind]
    if batch == 1:
        return [
            log_service_pb2.EmitRequest(record=make(next(numbers))).SerializeToString() for _ in range(calls)
        ]
    return [
        log_service_pb2.EmitBatchRequest(
            records=[make(next(numbers)) for _ in range(batch)]
        ).SerializeToString()
        for _ in range(calls)
    ]


async def measure(
    address: str, pid: int, payloads: Sequence[bytes], batch: int, *, in_flight: int = CALLS_IN_FLIGHT
) -> Measurement:
    """Send the payloads with `in_flight` calls at a time; every record must be accepted."""
    method = "Emit" if batch == 1 else "EmitBatch"
    latencies: list[float] = []
    position = count()

    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/emitd.v1.LogService/{method}")
        await channel.channel_ready()

        async def worker() -> None:
            while (index := next(position)) < len(payloads):
                begin = time.perf_counter()
                reply = await call(payloads[index])
                latencies.append(time.perf_counter() - begin)
                if batch > 1 and reply:
                    accepted = log_service_pb2.EmitBatchResponse.FromString(reply).accepted_count
                    assert accepted == batch, f"{accepted} of {batch} records were accepted"

        cpu, begin = cpu_seconds(pid), time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        wall = time.perf_counter() - begin
        cpu = cpu_seconds(pid) - cpu
    return Measurement(len(payloads) * batch, cpu, wall, sorted(latencies), resident_bytes(pid))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system, all its threads, those that have ended too.

    It is Linux's clock of another process, in nanoseconds; the usual counter ticks a hundred times a second.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
