"""`make bench`: what tails of log lines cost the server and those who send.

Lines are sent at a steady pace, in batches, to a server whose one handler discards them; its ring is on. CPU time is
the server's, for each line, read from the operating system: with no tail, with tails of every line, and with tails
whose filter matches one line in ten. What the sender pays is the delay of its calls. All crowds run the same load in
turn, each on a server of its own; a figure is the median of the rounds. Memory is the server's after the run.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc

from bench_records import server
from emitd.v1 import log_line_pb2, log_service_pb2, record_pb2
from load import cpu_seconds, resident_bytes
from stream_client import StreamClient

#: How many tails, and whether they have a filter.
CROWDS = ((0, False), (1, False), (100, False), (100, True))
LINES_A_SECOND = 5000
BATCH_LINES = 100
SECONDS = 10.0
ROUNDS = 3
CONNECTIONS = 10
PATH = "/emitd.v1.LogService/"
COMMAND = [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"]
CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  lines: {type: discard, levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL]}
"""


@dataclass(frozen=True)
class Run:
    """What one run cost."""

    cpu_us_per_line: float
    p50_ms: float
    p99_ms: float
    #: The server after the run, and what it grew by from the first tail on.
    resident_mb: float
    grown_mb: float
    wall_seconds: float


def batch(first: int) -> bytes:
    """A request with lines as a shop writes them; every tenth is a warning."""
    records = [
        record_pb2.LogRecord(
            record_id=f"bench-{number}",
            level=record_pb2.LEVEL_INFO if number % 10 else record_pb2.LEVEL_WARNING,
            source="shop.orders",
            message=f"order {number} taken by customer {number % 997}",
            attributes_json=f'{{"order":{number},"tenant":"acme"}}',
        )
        for number in range(first, first + BATCH_LINES)
    ]
    # The last one carries the time, by which the reader knows messages.
    records[-1].message = f"@{time.time_ns()}"
    records[-1].level = record_pb2.LEVEL_WARNING
    return log_service_pb2.EmitBatchRequest(records=records).SerializeToString()


@contextmanager
def running() -> Iterator[tuple[str, int]]:
    """Run a server until the end of the block: one for each run, because memory once taken is not given back."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "emitd.yml").write_text(CONFIG)
        with server(COMMAND, Path(folder)) as place:
            yield place


def run(tails: int, is_filtered: bool, seconds: float) -> Run:
    """Send lines at a steady pace for some seconds, while tails follow them."""
    with running() as (address, pid), grpc.insecure_channel(address) as channel:
        emit = channel.unary_unary(f"{PATH}EmitBatch")
        before = resident_bytes(pid)
        client = StreamClient(address, connections=min(CONNECTIONS, max(tails, 1)))
        level = record_pb2.LEVEL_WARNING if is_filtered else record_pb2.LEVEL_UNSPECIFIED
        request = log_line_pb2.TailLogsRequest(filter=log_line_pb2.LogFilter(min_level=level))
        client.open_streams(f"{PATH}TailLogs", [request.SerializeToString()] * tails)
        client.read(until=lambda: False, seconds=1.0)
        client.forget()
        delays: list[float] = []
        count = int(seconds * LINES_A_SECOND / BATCH_LINES)
        cpu, began = cpu_seconds(pid), time.monotonic()
        for number in range(count):
            due = began + number * BATCH_LINES / LINES_A_SECOND
            data = batch(number * BATCH_LINES)
            # What the tails get is read in the pauses.
            while (pause := due - time.monotonic()) > 0:
                client.read(until=lambda: False, seconds=pause)
            sent = time.monotonic()
            emit(data, timeout=30)
            delays.append(time.monotonic() - sent)
        wall = time.monotonic() - began
        # The reader overlooks a mark that two frames share.
        arrived = client.read(until=lambda: len(client.delays) >= 0.95 * tails * count, seconds=30)
        cpu = cpu_seconds(pid) - cpu
        assert arrived, f"{len(client.delays)} of {tails * count} marks came"
        resident = resident_bytes(pid)
        client.close()
    delays.sort()
    return Run(
        cpu / (count * BATCH_LINES) * 1e6,
        delays[len(delays) // 2] * 1e3,
        delays[int(len(delays) * 0.99)] * 1e3,
        resident / 1e6,
        (resident - before) / 1e6,
        wall,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    print(f"\n{LINES_A_SECOND} lines a second in batches of {BATCH_LINES}")
    print(
        f"{'tails':>5} {'filter':<8} {'CPU µs/line':>11} {'call p50 ms':>11} {'p99 ms':>7} {'lines/s':>8} "
        f"{'server MB':>9} {'grown MB':>8}"
    )
    runs: dict[tuple[int, bool], list[Run]] = {crowd: [] for crowd in CROWDS}
    for _ in range(arguments.rounds):
        for tails, is_filtered in CROWDS:
            runs[tails, is_filtered].append(run(tails, is_filtered, arguments.seconds))
    for (tails, is_filtered), of_crowd in runs.items():
        lines = int(arguments.seconds * LINES_A_SECOND)
        print(
            f"{tails:>5} {'WARNING+' if is_filtered else '-':<8} "
            f"{median(run.cpu_us_per_line for run in of_crowd):>11.1f} "
            f"{median(run.p50_ms for run in of_crowd):>11.2f} {median(run.p99_ms for run in of_crowd):>7.2f} "
            f"{median(lines / run.wall_seconds for run in of_crowd):>8.0f} "
            f"{median(run.resident_mb for run in of_crowd):>9.1f} {median(run.grown_mb for run in of_crowd):>8.1f}"
        )


if __name__ == "__main__":
    main()
