"""`python tests/benchmarks/bench_overload.py`: what one server accepts when more is offered than it can take.

The best accepted throughput of durable audit events is found with calls that wait for each other; then 1, 2 and 4 times
that is offered by the clock, whatever becomes of it. Also: what a principal within its rate sees of another that is far
over its own.
"""

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from bench_records import server
from emitd.v1 import log_service_pb2
from emitd_server.access.tokens import new_token
from frames import Result, Template, run
from load import audit_record, cpu_seconds

CONFIG = """
server:
  listen: [{address: "127.0.0.1:0", identity: token}]
  access:
    tokens_file: tokens.yml
    grants: [{to: [quiet, loud], role: writer}]
  limits: {LIMITS}
handlers:
  audit: {type: json_audit, path: audit.json.log}
"""
BATCHES = (1, 64, 512)
FACTORS = (1.0, 2.0, 4.0)
IN_FLIGHT = (8, 32, 96)
SECONDS = 6.0
#: Of the principal that is far over its rate, and of the other, which is within it.
RATE_BYTES = 1_000_000


def template(batch: int, name: str) -> Template:
    """Return a request of audit events as a login service sends them."""
    numbers = count()
    records = [audit_record(next(numbers)) for _ in range(batch)]
    ids = [record.record_id for record in records]
    message: Any = log_service_pb2.EmitRequest(record=records[0])
    if batch > 1:
        message = log_service_pb2.EmitBatchRequest(records=records)
    return Template(message.SerializeToString(), ids, name)


def in_process(
    queue: "multiprocessing.Queue[Result]", address: str, batch: int, name: str, options: dict[str, Any]
) -> None:
    """Generate in a process of its own."""
    queue.put(run(address, template(batch, name), **options))


def offer(address: str, batch: int, **options: Any) -> Result:
    """Run the generator in another process, and return what it saw."""
    queue: multiprocessing.Queue[Result] = multiprocessing.Queue()
    name = os.urandom(4).hex()
    process = multiprocessing.Process(target=in_process, args=(queue, address, batch, name, options))
    process.start()
    result = queue.get(timeout=120)
    process.join()
    return result


def percentile_ms(result: Result, percent: float) -> float:
    """The latency that `percent` of the accepted calls stayed under."""
    latencies = sorted(result.latencies) or [float("nan")]
    return latencies[min(len(latencies) - 1, int(len(latencies) * percent / 100))] * 1e3


def peak_mb(pid: int) -> int:
    """The most that a process has had resident."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) // 1000


def curve(batch: int, folder: Path, seconds: float, factors: Sequence[float]) -> None:
    """Print what is accepted of more and more."""
    with started(folder, "{}") as (address, pid, tokens):
        token = tokens["loud"]
        offer(address, batch, seconds=2.0, token=token, in_flight=8)  # warms up
        best = 0.0
        for in_flight in IN_FLIGHT:
            result = offer(address, batch, seconds=seconds, token=token, in_flight=in_flight)
            best = max(best, result.accepted_records / seconds)
        print(f"{batch:>5} {'best':>5} {'':>10} {best:>10,.0f}")
        for factor in factors:
            cpu = cpu_seconds(pid)
            result = offer(
                address, batch, seconds=seconds, token=token, rate=factor * best / batch, connections=16
            )
            cpu = (cpu_seconds(pid) - cpu) / seconds
            accepted = result.accepted_records / seconds
            print(
                f"{batch:>5} {factor:>4.0f}x {result.offered * batch / seconds:>10,.0f} {accepted:>10,.0f} "
                f"{accepted / best:>6.0%} {percentile_ms(result, 50):>8.1f} {percentile_ms(result, 99):>8.1f} "
                f"{cpu:>5.0%} {peak_mb(pid):>6} {os.getloadavg()[0]:>5.1f}  {dict(result.refused)}",
                flush=True,
            )


class started:  # noqa: N801  # a context manager
    """A server with two principals."""

    def __init__(self, folder: Path, limits: str) -> None:
        self._folder = folder
        folder.mkdir()
        self._tokens = {
            name: new_token(folder / "tokens.yml", name, (), None)[0] for name in ("loud", "quiet")
        }
        (folder / "emitd.yml").write_text(CONFIG.replace("{LIMITS}", limits))
        command = [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"]
        self._server = server(command, folder)

    def __enter__(self) -> tuple[str, int, dict[str, str]]:
        return (*self._server.__enter__(), self._tokens)

    def __exit__(self, *exc_info: Any) -> None:
        self._server.__exit__(*exc_info)


def neighbours(folder: Path, seconds: float) -> None:
    """Print what a principal within its rate sees, alone and next to one that is far over its own."""
    batch = 64
    with started(folder, f"{{bytes_per_second: {RATE_BYTES}}}") as (address, _, tokens):
        size = len(template(batch, "")._data)
        within = 0.5 * RATE_BYTES / size
        offer(address, batch, seconds=2.0, token=tokens["loud"], rate=within)
        for factor in (0, 10, 40):
            loud: list[Result] = []
            options = {"seconds": seconds + 1, "token": tokens["loud"], "rate": factor * RATE_BYTES / size}
            thread = threading.Thread(target=lambda: loud.append(offer(address, batch, **options)))  # noqa: B023
            if factor:
                thread.start()
            quiet = offer(address, batch, seconds=seconds, token=tokens["quiet"], rate=within, connections=2)
            if factor:
                thread.join()
            others = f"{loud[0].accepted_records / (seconds + 1):,.0f}" if loud else "-"
            print(
                f"{factor:>4}x the rate: the other's accepted {quiet.accepted_records / (quiet.offered * batch):.0%}, "
                f"p50 {percentile_ms(quiet, 50):.1f} ms, p99 {percentile_ms(quiet, 99):.1f} ms; "
                f"its own accepted records/s {others}, load {os.getloadavg()[0]:.1f} {dict(quiet.refused)}",
                flush=True,
            )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(
            f"{'batch':>5} {'load':>5} {'offered/s':>10} {'accepted/s':>10} {'of best':>6} {'p50 ms':>8} "
            f"{'p99 ms':>8} {'CPU':>5} {'RSS MB':>6} {'l.avg':>5}  refused"
        )
        for batch in arguments.batches:
            curve(batch, Path(folder, str(batch)), arguments.seconds, arguments.factors)
        neighbours(Path(folder, "neighbours"), arguments.seconds)


if __name__ == "__main__":
    main()
