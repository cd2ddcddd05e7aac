"""`make bench`: what a job report costs with SQLite and with PostgreSQL, beside a bare grpc server and the edge alone.

`edge` is emitd with a handler that discards reports: what is left is parsing, checks, dispatch and the reply. CPU time
is the service's own, without the database's processes. Each figure is the median of short runs, which take turns over
the servers and send the same reports to each: progress of 4,096 jobs in turn, with record ids.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from bench_records import HERE, medians, server
from load import Measurement, measure, requests
from support.processes.postgres import running_postgres

#: Calls of one run, by batch size.
CALLS = {1: 1000, 64: 300, 512: 60}
ROUNDS = 5
EMITD = [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"]
CONFIG = """
server: {{listen: "127.0.0.1:0"}}
handlers:
  jobs: {{{handler}}}
"""
DISCARD = "type: discard, levels: [JOB_STATUS]"
DATABASE = 'type: database_job, database: "{}"'


async def compare(batches: Sequence[int], servers: dict[str, tuple[str, int]], rounds: int) -> None:
    """Print the table."""
    numbers = count()
    print(
        f"{'batch':>5} {'server':<10} {'CPU µs/report':>13} {'over bare':>9} {'over edge':>9} {'reports/s':>10} "
        f"{'p50 ms':>7} {'p99 ms':>7} {'RSS MB':>7}"
    )
    for batch in batches:
        runs: dict[str, list[Measurement]] = {name: [] for name in servers}
        for turn in range(rounds + 1):
            payloads = requests("jobs", batch, CALLS[batch], numbers)
            for name, (address, pid) in servers.items():
                result = await measure(address, pid, payloads, batch)
                if turn:  # the first turn warms up
                    runs[name].append(result)
        costs = {name: medians(of_server) for name, of_server in runs.items()}
        for name, (cpu, rate, p50, p99, memory) in costs.items():
            print(
                f"{batch:>5} {name:<10} {cpu:>13.2f} {cpu - costs['bare'][0]:>9.2f} {cpu - costs['edge'][0]:>9.2f} "
                f"{rate:>10,.0f} {p50:>7.2f} {p99:>7.2f} {memory:>7.1f}"
            )


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=list(CALLS), choices=CALLS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-postgres", action="store_true", help="leave PostgreSQL out")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        handlers = {"edge": DISCARD, "sqlite": DATABASE.format("sqlite:///jobs.db")}
        if not arguments.no_postgres:
            postgres = stack.enter_context(running_postgres())
            handlers["postgres"] = DATABASE.format(postgres.dsn())
        bare = [sys.executable, str(HERE / "bare_server.py")]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {"bare": stack.enter_context(server(bare, folder))}
        for name, handler in handlers.items():
            of_server = folder / name
            of_server.mkdir()
            (of_server / "emitd.yml").write_text(CONFIG.format(handler=handler))
            servers[name] = stack.enter_context(server(EMITD, of_server))
        asyncio.run(compare(arguments.batches, servers, arguments.rounds))


if __name__ == "__main__":
    main()
