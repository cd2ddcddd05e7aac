"""`make bench`: what a record costs, beside a bare grpc.aio server that answers the same bytes.

Each figure is the median of a few short runs, which take turns over the servers, so that a slow moment of the
machine falls on all alike. CPU time is the server's, read from the operating system; wall time includes the
load generator on the same machine.
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median

from load import Measurement, cpu_seconds, measure, requests, resident_bytes

HERE = Path(__file__).parent
CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console:
    type: console
    levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL]
    delivery: {kind: queued, max_records: 1000000}
  audit: {type: json_audit, levels: [AUDIT], path: audit.json.log}
  jobs: {type: database_job, levels: [JOB_STATUS], database: "sqlite:///jobs.db"}
"""
KINDS = ("console", "audit", "jobs")
#: Calls of one run, by batch size: about a second's worth each.
CALLS = {1: 1500, 64: 500, 512: 100, 2048: 30}
ROUNDS = 5


@contextmanager
def server(command: Sequence[str], folder: Path) -> Iterator[tuple[str, int]]:
    """Run a server until the end of the block; give its address and process id."""
    with (folder / "stdout").open("ab") as stdout:
        process = subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "listening on " in line:
                yield line.split("listening on ")[1].split()[0], process.pid
                break
        else:
            raise RuntimeError(f"{command} did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def medians(runs: Sequence[Measurement]) -> tuple[float, float, float, float, float]:
    """CPU µs a record, records a second, p50 ms, p99 ms, resident MB."""
    return (
        median(run.cpu_us_per_record for run in runs),
        median(run.records_per_second for run in runs),
        median(run.percentile_ms(50) for run in runs),
        median(run.percentile_ms(99) for run in runs),
        max(run.resident_bytes for run in runs) / 1e6,
    )


async def compare(
    batches: Sequence[int], kinds: Sequence[str], servers: dict[str, tuple[str, int]], rounds: int
) -> None:
    """Print the table; the first server is the one that the others are compared with."""
    numbers = count()
    print(
        f"{'batch':>5} {'server':<14} {'CPU µs/record':>13} {'× bare':>7} {'records/s':>10} "
        f"{'p50 ms':>7} {'p99 ms':>7} {'RSS MB':>7}"
    )
    for batch in batches:
        runs: dict[tuple[str, str], list[Measurement]] = {
            (name, kind): [] for kind in kinds for name in servers
        }
        for turn in range(rounds + 1):
            for kind in kinds:
                payloads = requests(kind, batch, CALLS[batch], numbers)
                for name, (address, pid) in servers.items():
                    result = await measure(address, pid, payloads, batch)
                    if turn:  # the first turn warms up
                        runs[name, kind].append(result)
        for (name, kind), measured in runs.items():
            base = medians(runs[next(iter(servers)), kind])[0]
            cpu, rate, p50, p99, memory = medians(measured)
            print(
                f"{batch:>5} {name + ' ' + kind:<14} {cpu:>13.2f} {cpu / base:>7.2f} {rate:>10,.0f} "
                f"{p50:>7.2f} {p99:>7.2f} {memory:>7.1f}"
            )


async def single(emitd: tuple[str, int]) -> None:
    """Print the latency of a lone durable Emit."""
    address, pid = emitd
    result = await measure(address, pid, requests("audit", 1, 500, count()), 1, in_flight=1)
    print(
        f"\na single durable Emit alone: p50 {result.percentile_ms(50):.2f} ms, "
        f"p99 {result.percentile_ms(99):.2f} ms"
    )


async def idle(command: Sequence[str], seconds: float) -> None:
    """Print what a server costs that nobody calls."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "emitd.yml").write_text(CONFIG)
        with server(command, Path(folder)) as (_, pid):
            before = cpu_seconds(pid)
            await asyncio.sleep(seconds)
            share = (cpu_seconds(pid) - before) / seconds
            print(f"idle: {resident_bytes(pid) / 1e6:.1f} MB resident, {share:.2%} of a core")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=list(CALLS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--folder", type=Path, help="where the servers keep their files (default: temporary)")
    parser.add_argument("--loops", nargs="+", default=["auto"], choices=["auto", "asyncio", "uvloop"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    emitd_command = [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        bare = [sys.executable, str(HERE / "bare_server.py")]
        servers = {"bare": stack.enter_context(server(bare, folder))}
        for loop in arguments.loops:
            name = "emitd" if loop == "auto" else loop
            (folder / name).mkdir()
            (folder / name / "emitd.yml").write_text(CONFIG.replace("{listen", f"{{loop: {loop}, listen"))
            servers[name] = stack.enter_context(server(emitd_command, folder / name))
        asyncio.run(compare(arguments.batches, arguments.kinds, servers, arguments.rounds))
        asyncio.run(single(servers[name]))
    asyncio.run(idle(emitd_command, seconds=5.0))


if __name__ == "__main__":
    main()
