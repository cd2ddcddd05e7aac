"""`make bench`, third table: what a watcher of a job costs, beside a bare grpc.aio stream of the same bytes.

Many watchers of one job, or of a job each, on ten connections; progress reports at a steady pace. Each figure is the
median of short runs, which take turns over the servers. CPU time is the server's, read from the operating system, for
each message delivered, less what the same number of reports cost while nobody watched; with one watcher that difference
is mostly noise. The delay of a change runs from before its report is sent until a watcher has it; in emitd a commit to
disk lies between. Memory is what the server grows by while the watchers connect.

A second table has what a change of status takes to reach watchers when progress comes faster than they can be told.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import grpc

from bench_records import CONFIG, HERE, server
from emitd.v1 import job_pb2, log_service_pb2, record_pb2
from load import cpu_seconds, resident_bytes
from stream_client import StreamClient

#: Watchers, jobs, and changes of each job a second: no more than a server can tell them all.
CROWDS = ((1, 1, 20), (100, 1, 20), (1000, 1, 20), (5000, 1, 2), (1000, 1000, 5))
CONNECTIONS = 10
SECONDS = 4.0
ROUNDS = 3
#: The second table: watchers, and reports a second, of which each tenth ends an attempt and begins the next.
CROWD = 5000
FLOODS = (20, 200)
#: grpc refuses calls when more than about a thousand wait to be begun.
MAX_CALLS_AT_ONCE = 500
PATH = "/emitd.v1.LogService/"
DETAILS = '{"copied":1048576,"total":104857600}'
RUNNING, FAILED = record_pb2.JOB_STATE_RUNNING, record_pb2.JOB_STATE_FAILED
COMMANDS = {
    "bare": [sys.executable, str(HERE / "bare_server.py")],
    "emitd": [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"],
}


@dataclass(frozen=True)
class Run:
    """What one run cost."""

    cpu_us_per_delivery: float
    p50_ms: float
    p99_ms: float
    kb_per_watcher: float


def report(job_id: str, attempt: int, progress: int, stamp: int) -> record_pb2.LogRecord:
    """A report on a job; its message says when it was made."""
    return record_pb2.LogRecord(
        time_unix_nano=stamp,
        source="worker-7",
        message=f"copying @{stamp}",
        job=record_pb2.JobStatus(
            job_id=job_id,
            job_type="sync",
            attempt=attempt,
            status=RUNNING,
            progress=progress,
            details_json=DETAILS,
        ),
    )


def update(job_id: str, revision: int, stamp: int) -> bytes:
    """The message that emitd makes of `report`, for the bare server to send."""
    job = job_pb2.Job(
        job_id=job_id,
        job_type="sync",
        status=RUNNING,
        progress=revision,
        message=f"copying @{stamp}",
        details_json=DETAILS,
        source="worker-7",
        attempt=1,
        revision=revision,
        create_time_unix_nano=stamp,
        update_time_unix_nano=stamp,
    )
    return job_pb2.WatchJobResponse(job=job).SerializeToString()


class Target:
    """A server, and jobs on it that change together."""

    def __init__(self, name: str, address: str, pid: int, jobs: int) -> None:
        self.address = address
        self.pid = pid
        self._is_bare = name == "bare"
        self._jobs = [f"job-{number:05}" for number in range(jobs)]
        self._attempt = 1
        self._numbers = count(1)
        self._channel = grpc.insecure_channel(address)
        self._emit_batch = self._channel.unary_unary(f"{PATH}EmitBatch")
        self._replies: deque[grpc.Future[bytes]] = deque()

    def close(self) -> None:
        """Close the connection that reports go over."""
        self._channel.close()

    def change(self, prefix: str = "") -> int:
        """Report on every job at once; return the time that the messages carry. With a prefix they are other jobs."""
        stamp, number = time.time_ns(), next(self._numbers)
        if self._is_bare:
            self._send(b"" if prefix else update(self._jobs[0], number, stamp))
        else:
            records = [report(prefix + job_id, self._attempt, number // 50, stamp) for job_id in self._jobs]
            self.emit(records)
        return stamp

    def begin_again(self) -> int:
        """End the attempt of every job and begin the next; return the time that the messages carry."""
        stamp = time.time_ns()
        for job_id in self._jobs:
            failure = report(job_id, self._attempt, 0, stamp)
            failure.job.status = FAILED
            failure.job.failure_message = f"#{stamp}"
            self.emit([failure, report(job_id, self._attempt + 1, 0, stamp)])
        self._attempt += 1
        return stamp

    def emit(self, records: Sequence[record_pb2.LogRecord]) -> None:
        """Report, without waiting for the reply."""
        self._send(log_service_pb2.EmitBatchRequest(records=records).SerializeToString())

    def wait_for_replies(self) -> None:
        """Wait until all that was reported is acknowledged, and see that every record was accepted."""
        while self._replies:
            reply = log_service_pb2.EmitBatchResponse.FromString(self._replies.popleft().result(timeout=60))
            assert not reply.errors, reply
            assert not reply.job_notices, reply

    def _send(self, request: bytes) -> None:
        self._replies.append(self._emit_batch.future(request))

    def connect(self, client: StreamClient, watchers: int, **fields: object) -> None:
        """Open the streams of watchers, spread over the jobs, and wait until each has its first message."""
        if self._is_bare:
            requests = [update(self._jobs[0], 1, time.time_ns())]
        else:
            messages = (job_pb2.WatchJobRequest(job_id=job_id, **fields) for job_id in self._jobs)  # type: ignore[arg-type]
            requests = [message.SerializeToString() for message in messages]
        for start in range(0, watchers, MAX_CALLS_AT_ONCE):
            opened = min(watchers, start + MAX_CALLS_AT_ONCE)
            wave = [requests[number % len(requests)] for number in range(start, opened)]
            client.open_streams(f"{PATH}WatchJob", wave)
            arrived = client.read(until=lambda opened=opened: len(client.delays) >= opened, seconds=30)  # type: ignore[misc]
            assert arrived, f"{len(client.delays)} of {opened} watchers got their first message"
        client.read(until=lambda: False, seconds=0.3)
        client.forget()


@contextmanager
def target(name: str, jobs: int) -> Iterator[Target]:
    """Run a server until the end of the block: one for each run, because memory once taken is not given back."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "emitd.yml").write_text(CONFIG)
        with server(COMMANDS[name], Path(folder)) as (address, pid):
            target = Target(name, address, pid, jobs)
            try:
                yield target
            finally:
                target.close()


class Reporter(threading.Thread):
    """Calls something at a steady pace, and keeps what it returns."""

    def __init__(self, call: Callable[[], int], times: int, times_a_second: int) -> None:
        super().__init__()
        self.stamps: list[int] = []
        self._call = call
        self._times = times
        self._times_a_second = times_a_second

    def run(self) -> None:
        begin = time.monotonic()
        for number in range(self._times):
            time.sleep(max(0.0, begin + number / self._times_a_second - time.monotonic()))
            self.stamps.append(self._call())

    @property
    def has_ended(self) -> bool:
        """Whether all calls were made."""
        return len(self.stamps) == self._times


def run(target: Target, watchers: int, changes_a_second: int) -> Run:
    """Let the watchers connect, change the jobs for some seconds, and wait until each has the last change."""
    changes = int(SECONDS * changes_a_second)
    target.change()
    target.wait_for_replies()
    unwatched_cpu = cpu_seconds(target.pid)
    unwatched = Reporter(lambda: target.change("unwatched-"), changes, changes_a_second)
    unwatched.run()
    target.wait_for_replies()
    unwatched_cpu = cpu_seconds(target.pid) - unwatched_cpu
    memory = resident_bytes(target.pid)
    client = StreamClient(target.address, connections=CONNECTIONS)
    target.connect(client, watchers, min_interval_ms=1)
    kb_per_watcher = (resident_bytes(target.pid) - memory) / watchers / 1024
    cpu = cpu_seconds(target.pid)
    reporter = Reporter(target.change, changes, changes_a_second)
    reporter.start()
    client.read(
        until=lambda: reporter.has_ended and client.arrivals[reporter.stamps[-1]] == watchers,
        seconds=SECONDS + 15,
    )
    reporter.join()
    target.wait_for_replies()
    cpu = cpu_seconds(target.pid) - cpu - unwatched_cpu
    client.close()
    delays = sorted(client.delays)
    missing = watchers * changes - len(delays)
    if missing:
        print(f"  ({missing} of {watchers * changes} messages were coalesced)")
    return Run(cpu / len(delays) * 1e6, percentile_ms(delays, 50), percentile_ms(delays, 99), kb_per_watcher)


def flood(target: Target, watchers: int, reports_a_second: int) -> tuple[Sequence[float], float]:
    """Report faster than watchers can be served; return the sorted delays of transitions, and messages a watcher."""
    numbers = count(1)

    def report_or_begin_again() -> int:
        return target.change() if next(numbers) % 10 else target.begin_again()

    times = int(SECONDS * reports_a_second)
    expected = times // 10 * watchers
    target.change()
    target.wait_for_replies()
    client = StreamClient(target.address, connections=CONNECTIONS)
    target.connect(client, watchers, min_interval_ms=1, follow=True)
    reporter = Reporter(report_or_begin_again, times, reports_a_second)
    reporter.start()
    client.read(
        until=lambda: reporter.has_ended and len(client.transition_delays) >= expected, seconds=SECONDS + 30
    )
    reporter.join()
    target.wait_for_replies()
    client.close()
    told = len(client.transition_delays)
    assert told == expected, f"{told} of {expected} transitions were told"
    return sorted(client.transition_delays), len(client.delays) / watchers


def percentile_ms(sorted_seconds: Sequence[float], percent: float) -> float:
    return sorted_seconds[min(len(sorted_seconds) - 1, int(len(sorted_seconds) * percent / 100))] * 1e3


def print_crowds(crowds: Sequence[tuple[int, int, int]], rounds: int) -> None:
    """Print the first table."""
    print(
        f"{'watchers':>8} {'jobs':>5} {'server':<6} {'CPU µs/delivery':>15} {'× bare':>7} {'p50 ms':>7} {'p99 ms':>7} "
        f"{'× bare':>7} {'kB/watcher':>10}"
    )
    for watchers, jobs, changes_a_second in crowds:
        runs: dict[str, list[Run]] = {name: [] for name in COMMANDS}
        for _ in range(rounds):
            for name, of_server in runs.items():
                with target(name, jobs) as server:
                    of_server.append(run(server, watchers, changes_a_second))
        _print_rows(watchers, jobs, runs)


def _print_rows(watchers: int, jobs: int, runs: dict[str, list[Run]]) -> None:
    bare_cpu = median(run.cpu_us_per_delivery for run in runs["bare"])
    bare_p99 = median(run.p99_ms for run in runs["bare"])
    for name, of_server in runs.items():
        cpu = median(run.cpu_us_per_delivery for run in of_server)
        p99 = median(run.p99_ms for run in of_server)
        print(
            f"{watchers:>8} {jobs:>5} {name:<6} {cpu:>15.1f} {cpu / bare_cpu:>7.2f} "
            f"{median(run.p50_ms for run in of_server):>7.2f} {p99:>7.2f} {p99 / bare_p99:>7.2f} "
            f"{median(run.kb_per_watcher for run in of_server):>10.1f}"
        )


def print_floods(watchers: int, rounds: int) -> None:
    """Print the second table."""
    print(
        f"\n{'watchers':>8} {'reports/s':>9} {'messages/watcher':>16} {'transition p50 ms':>17} {'p99 ms':>7} "
        f"{'max ms':>7}"
    )
    for reports_a_second in FLOODS:
        for _ in range(rounds):
            with target("emitd", 1) as server:
                delays, messages = flood(server, watchers, reports_a_second)
            print(
                f"{watchers:>8} {reports_a_second:>9} {messages:>16.1f} {percentile_ms(delays, 50):>17.1f} "
                f"{percentile_ms(delays, 99):>7.1f} {delays[-1] * 1e3:>7.1f}"
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--crowds",
        nargs="*",
        type=lambda text: tuple(map(int, text.split("/"))),
        default=CROWDS,
        help="watchers/jobs/changes a second",
    )
    parser.add_argument("--floods", type=int, default=CROWD, help="watchers of the second table; 0: none")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    if arguments.crowds:
        print_crowds(arguments.crowds, arguments.rounds)
    if arguments.floods:
        print_floods(arguments.floods, arguments.rounds)


if __name__ == "__main__":
    main()
