"""`make bench`, third table: what a watcher of a job costs, beside a bare grpc.aio stream of the same bytes.

Many watchers of one job on ten connections; progress reports at a steady pace. Each figure is the median of short
runs, which take turns over the servers. CPU time is the server's, read from the operating system, for each message
delivered, less what the same number of reports cost while nobody watched; with one watcher that difference is mostly
noise. The delay of a change runs from before its report is sent until a watcher has it; in emitd a commit to disk lies
between. Memory is what the server grows by while the watchers connect.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc

from bench_records import CONFIG, HERE, server
from emitd.v1 import job_pb2, log_service_pb2, record_pb2
from load import cpu_seconds, resident_bytes
from stream_client import StreamClient

WATCHERS = (1, 100, 1000)
CONNECTIONS = 10
CHANGES_A_SECOND = 20
SECONDS = 4.0
ROUNDS = 3
PATH = "/emitd.v1.LogService/"
DETAILS = '{"copied":1048576,"total":104857600}'


@dataclass(frozen=True)
class Run:
    """What one run cost."""

    cpu_us_per_delivery: float
    p50_ms: float
    p99_ms: float
    kb_per_watcher: float


def report(job_id: str, revision: int, stamp: int, status: int) -> bytes:
    """A report on the job, for emitd; its message says when it was made."""
    record = record_pb2.LogRecord(
        time_unix_nano=stamp,
        source="worker-7",
        message=f"copying @{stamp}",
        job=record_pb2.JobStatus(
            job_id=job_id,
            job_type="sync",
            status=status,
            progress=revision * 100 // 1000,
            details_json=DETAILS,
        ),
    )
    return log_service_pb2.EmitRequest(record=record).SerializeToString()


def update(job_id: str, revision: int, stamp: int, status: int) -> bytes:
    """The message that emitd makes of `report`, for the bare server to send."""
    job = job_pb2.Job(
        job_id=job_id,
        job_type="sync",
        status=status,
        progress=revision * 100 // 1000,
        message=f"copying @{stamp}",
        details_json=DETAILS,
        source="worker-7",
        attempt=1,
        revision=revision,
        create_time_unix_nano=stamp,
        update_time_unix_nano=stamp,
    )
    return job_pb2.WatchJobResponse(job=job).SerializeToString()


def run(name: str, address: str, pid: int, watchers: int, job_id: str) -> Run:
    """Open the watchers, report for some seconds, and wait for the last message."""
    make = update if name == "bare" else report
    first = make(job_id, 1, time.time_ns(), record_pb2.JOB_STATE_RUNNING)
    request = job_pb2.WatchJobRequest(job_id=job_id, min_interval_ms=1).SerializeToString()
    client = StreamClient(address, connections=CONNECTIONS)
    changes = int(SECONDS * CHANGES_A_SECOND)
    with grpc.insecure_channel(address) as channel:
        emit = channel.unary_unary(f"{PATH}Emit")
        emit(first)
        unwatched_cpu = cpu_seconds(pid)
        _report_steadily(emit, make, "unwatched", changes)
        unwatched_cpu = cpu_seconds(pid) - unwatched_cpu
        time.sleep(0.3)
        memory = resident_bytes(pid)
        client.open_streams(watchers, f"{PATH}WatchJob", first if name == "bare" else request)
        arrived = client.read(until=lambda: client.messages >= watchers, seconds=30)
        assert arrived, f"{client.messages} of {watchers} watchers got their first message"
        time.sleep(0.3)
        kb_per_watcher = (resident_bytes(pid) - memory) / watchers / 1024
        client.messages, client.delays = 0, []
        cpu = cpu_seconds(pid)
        reporter = threading.Thread(target=_report_steadily, args=(emit, make, job_id, changes))
        reporter.start()
        client.read(until=lambda: client.messages >= watchers * changes, seconds=SECONDS + 15)
        reporter.join()
        cpu = cpu_seconds(pid) - cpu - unwatched_cpu
    client.close()
    delays = sorted(client.delays)
    missing = watchers * changes - len(delays)
    if missing:
        print(f"  ({name}: {missing} of {watchers * changes} messages were coalesced)")
    return Run(cpu / len(delays) * 1e6, _percentile(delays, 50), _percentile(delays, 99), kb_per_watcher)


def _report_steadily(emit: grpc.UnaryUnaryMultiCallable, make, job_id: str, changes: int) -> None:
    begin = time.monotonic()
    for change in range(changes):
        time.sleep(max(0.0, begin + change / CHANGES_A_SECOND - time.monotonic()))
        emit(make(job_id, change + 2, time.time_ns(), record_pb2.JOB_STATE_RUNNING))


def _percentile(sorted_seconds: Sequence[float], percent: float) -> float:
    return sorted_seconds[min(len(sorted_seconds) - 1, int(len(sorted_seconds) * percent / 100))] * 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, nargs="+", default=list(WATCHERS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    commands = {
        "bare": [sys.executable, str(HERE / "bare_server.py")],
        "emitd": [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"],
    }
    print(
        f"{'watchers':>8} {'server':<6} {'CPU µs/delivery':>15} {'× bare':>7} {'p50 ms':>7} {'p99 ms':>7} "
        f"{'× bare':>7} {'kB/watcher':>10}"
    )
    for watchers in arguments.watchers:
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for turn in range(arguments.rounds):
            for name, command in commands.items():
                # A server for each run: memory once taken is not given back.
                with ExitStack() as stack:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    (folder / "emitd.yml").write_text(CONFIG)
                    address, pid = stack.enter_context(server(command, folder))
                    runs[name].append(run(name, address, pid, watchers, f"job-{turn}"))
        _print_rows(watchers, runs)


def _print_rows(watchers: int, runs: dict[str, list[Run]]) -> None:
    bare_cpu = median(run.cpu_us_per_delivery for run in runs["bare"])
    bare_p99 = median(run.p99_ms for run in runs["bare"])
    for name, of_server in runs.items():
        cpu = median(run.cpu_us_per_delivery for run in of_server)
        p99 = median(run.p99_ms for run in of_server)
        print(
            f"{watchers:>8} {name:<6} {cpu:>15.1f} {cpu / bare_cpu:>7.2f} "
            f"{median(run.p50_ms for run in of_server):>7.2f} {p99:>7.2f} {p99 / bare_p99:>7.2f} "
            f"{median(run.kb_per_watcher for run in of_server):>10.1f}"
        )


if __name__ == "__main__":
    main()
