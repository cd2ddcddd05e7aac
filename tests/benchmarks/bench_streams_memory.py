"""What readers that take nothing cost the server, in memory: watches of a long history, of many large jobs, and lists.

    python tests/benchmarks/bench_streams_memory.py [READERS] [--old]    # --old: a server that lacks `stall_seconds`

Each reader has a connection with the smallest window, opens one call and reads nothing. Memory is what the server
process grows by while they wait, and after the streams have stalled.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from bench_records import server
from bench_watchers import COMMANDS
from emitd.v1 import LogServiceStub, job_pb2, log_service_pb2, record_pb2
from load import resident_bytes

CONFIG = """
server: {listen: "127.0.0.1:0"%s}
handlers:
  jobs: {type: database_job, levels: [JOB_STATUS], database: "sqlite:///jobs.db"}
"""
#: Settings that older servers do not have.
STALL = ", watch: {stall_seconds: 8}"
READERS = 200
WAIT_SECONDS = 5.0
STALLED_SECONDS = 7.0
ATTEMPTS = 60
JOBS = 100
SMALL_WINDOW = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_535),
    ("grpc.max_receive_message_length", -1),
)
RUNNING, FAILED = record_pb2.JOB_STATE_RUNNING, record_pb2.JOB_STATE_FAILED


def main() -> None:
    """Print a row for each kind of call."""
    readers = int(sys.argv[1]) if len(sys.argv) > 1 else READERS
    calls: dict[str, tuple[str, Message]] = {
        "WatchJob, history of 6 MB": ("WatchJob", job_pb2.WatchJobRequest(job_id="long", after_revision=0)),
        "WatchJobs, jobs of 6 MB": ("WatchJobs", job_pb2.WatchJobsRequest(job_type="large")),
        "ListJobs, jobs of 6 MB": ("ListJobs", job_pb2.ListJobsRequest(job_type="large", page_size=1000)),
    }
    print(f"{readers} readers that take nothing; MB of the server")
    for name, (method, request) in calls.items():
        with tempfile.TemporaryDirectory() as folder:
            before, waiting, stalled = _measure(Path(folder), method, request, readers)
        each = (waiting - before) / readers
        print(
            f"{name:28} {before:6.0f} before {waiting:6.0f} waiting ({each:5.2f} each) {stalled:6.0f} stalled"
        )


def _measure(folder: Path, method: str, request: Message, readers: int) -> tuple[float, float, float]:
    watch = STALL if "--old" not in sys.argv else ""
    (folder / "emitd.yml").write_text(CONFIG % watch)
    with server(COMMANDS["emitd"], folder) as (address, pid):
        with grpc.insecure_channel(address) as channel:
            _fill(LogServiceStub(channel))
        before = resident_bytes(pid) / 1e6
        channels = [grpc.insecure_channel(address, options=SMALL_WINDOW) for _ in range(readers)]
        # Also a unary call, whose reply grpc would read by itself.
        opened = [
            channel.unary_stream(f"/emitd.v1.LogService/{method}")(request.SerializeToString())
            for channel in channels
        ]
        time.sleep(WAIT_SECONDS)
        waiting = resident_bytes(pid) / 1e6
        time.sleep(STALLED_SECONDS)
        stalled = resident_bytes(pid) / 1e6
        for call in opened:
            call.cancel()
        for channel in channels:
            channel.close()
        return before, waiting, stalled


def _fill(stub: LogServiceStub) -> None:
    """Report one job with a long history, and many jobs with large details."""
    text = "x" * 100_000
    for attempt in range(1, ATTEMPTS + 1):
        _report(stub, job_id="long", status=FAILED, attempt=attempt, failure_message=text)
    for number in range(JOBS):
        _report(stub, job_id=f"j{number}", job_type="large", details_json='{"x":"' + text[:60_000] + '"}')


def _report(stub: LogServiceStub, **fields: Any) -> None:
    job = record_pb2.JobStatus(**{"job_type": "t", "status": RUNNING} | fields)
    stub.Emit(log_service_pb2.EmitRequest(record=record_pb2.LogRecord(job=job)))


if __name__ == "__main__":
    main()
