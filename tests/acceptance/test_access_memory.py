"""Hostile peers with valid tokens send and hold far more than the process can bear: it stays under the sum of
docs/security.md, and another principal's calls are answered.
"""

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from emitd.v1 import audit_service_pb2, job_pb2, log_service_pb2, record_pb2
from support.access.known_peer import GuardedServer, connect

pytestmark = pytest.mark.slow
MEMORY_MB = 96
CONFIG = f"""
server: {{listen: "127.0.0.1:0", limits: {{memory_bytes: {MEMORY_MB * 1_000_000}}}}}
handlers:
  audit: {{type: json_audit, path: audit.json.log}}
  jobs: {{type: database_job, database: "sqlite:///jobs.db"}}
"""
CONNECTIONS = 6
#: For each connection: batches under way, streams that nobody reads, and calls that never send their request. A call
#: has 4 MB and the process takes about 40,000 records a second, so this is more than four times what it can bear.
BATCHES, STREAMS, SILENT = 16, 40, 20
SECONDS = 20.0
#: What a process has that did nothing is measured. Beyond it and `memory_bytes`: for each connection what grpc buffers,
#: for each call and stream its objects and what is in flow, and what the allocator keeps.
CONNECTION_MB, CALL_MB, ALLOCATOR_MB = 4.0, 0.1, 64.0
DETAILS = '{"x":"' + "x" * 300 + '"}'
EVENT = record_pb2.AuditEvent(event_name="e", user_id="u", source_ip="unknown", details_json=DETAILS)
SMALL_WINDOW = [
    ("grpc.http2.lookahead_bytes", 65_535),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


def memory_mb(pid: int, field: str) -> float:
    match = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024 / 1e6


def batch(count: int) -> bytes:
    records = [record_pb2.LogRecord(audit=EVENT, record_id=str(uuid4())) for _ in range(count)]
    return log_service_pb2.EmitBatchRequest(records=records).SerializeToString()


class Flood:
    """Keeps calls under way on a channel until it is stopped, whatever becomes of them."""

    def __init__(self, outcomes: Counter[str]) -> None:
        self.stopped = threading.Event()
        self._outcomes = outcomes

    def keep(self, call: Callable[[], grpc.Future]) -> None:
        """Make a call, and another when it has ended."""
        if self.stopped.is_set():
            return
        future = call()

        def again(done: grpc.Future) -> None:
            code = done.code()  # type: ignore[attr-defined]  # of a call
            self._outcomes[code.name] += 1
            # Not in grpc's thread, which would wait for itself.
            threading.Timer(0.0 if code is grpc.StatusCode.OK else 0.01, self.keep, (call,)).start()

        future.add_done_callback(again)


def silent(stopped: threading.Event) -> Iterator[bytes]:
    stopped.wait(SECONDS + 30)
    yield from ()


def test_the_process_stays_under_its_sum_at_four_times_its_load(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(
            GuardedServer.guarded(CONFIG, tmp_path, "hostile", "accomplice", "honest")
        )
        base = memory_mb(server.pid, "VmRSS")
        outcomes: Counter[str] = Counter()
        flood = Flood(outcomes)
        stack.callback(flood.stopped.set)
        datas = itertools.cycle([batch(8_000) for _ in range(4)])
        tail = audit_service_pb2.TailAuditEventsRequest(from_index=0).SerializeToString()
        watch = job_pb2.WatchJobsRequest().SerializeToString()
        unread = []
        for number in range(CONNECTIONS):
            peer = ("hostile", "accomplice")[number % 2]
            channel = stack.enter_context(connect(server, peer, options=SMALL_WINDOW))
            emit = channel.unary_unary("/emitd.v1.LogService/EmitBatch")
            for place in range(BATCHES):
                kind = grpc.Compression.Gzip if place % 4 == 0 else None
                flood.keep(
                    lambda emit=emit, kind=kind: emit.future(next(datas), timeout=30, compression=kind)
                )
            never = channel.stream_unary("/emitd.v1.LogService/Emit")
            for _ in range(SILENT):
                flood.keep(lambda never=never: never.future(silent(flood.stopped), timeout=30))
            for service, method, request in (("Audit", "TailAuditEvents", tail), ("Log", "WatchJobs", watch)):
                stream = channel.unary_stream(f"/emitd.v1.{service}Service/{method}")
                unread += [stream(request) for _ in range(STREAMS // 2)]
        honest = stack.enter_context(connect(server, "honest"))
        one = honest.unary_unary("/emitd.v1.LogService/Emit")
        event = log_service_pb2.EmitRequest(record=record_pb2.LogRecord(audit=EVENT)).SerializeToString()
        seen: Counter[str] = Counter()
        slowest, end = 0.0, time.monotonic() + SECONDS
        while (begin := time.monotonic()) < end:
            try:
                one(event, timeout=20)
                seen["OK"] += 1
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                seen[error.code().name] += 1
            slowest = max(slowest, time.monotonic() - begin)
            time.sleep(0.1)
        peak = memory_mb(server.pid, "VmHWM")
        flood.stopped.set()
        for stream in unread:
            stream.cancel()
    calls = CONNECTIONS * (BATCHES + STREAMS + SILENT)
    bound = base + MEMORY_MB + CONNECTIONS * CONNECTION_MB + calls * CALL_MB + ALLOCATOR_MB
    print(
        f"base {base:.0f} MB, peak {peak:.0f} MB, bound {bound:.0f} MB, slowest {slowest:.1f} s",
        seen,
        outcomes,
    )
    assert peak < bound
    assert outcomes["OK"] > 0
    assert outcomes["RESOURCE_EXHAUSTED"] > 0
    assert seen["OK"] > seen.total() // 2, seen
    assert set(seen) <= {"OK", "RESOURCE_EXHAUSTED", "CANCELLED"}  # what a client tries again
