"""`make bench`: from a report on one replica to the watchers on another, over one PostgreSQL.

Two servers share a database. Reports go to one, at a steady pace; watchers are on the other: of one job, of a job each,
or of all jobs at once with WatchJobs. The delay runs from before a report is sent until a watcher has it.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from bench_records import server
from bench_watchers import COMMANDS, CONNECTIONS, PATH, Reporter, Target, percentile_ms
from emitd.v1 import job_pb2
from load import cpu_seconds
from stream_client import StreamClient
from support.processes.postgres import running_postgres


@dataclass(frozen=True)
class Case:
    """Who watches what, and how often each job changes."""

    watchers: int
    jobs: int
    changes_a_second: int
    watches_all: bool = False


CASES = (Case(1, 1, 20), Case(100, 1, 20), Case(100, 100, 5), Case(10, 100, 5, watches_all=True))
SECONDS = 5.0
CONFIG = """
server: {{listen: "127.0.0.1:0"}}
handlers:
  jobs: {{type: database_job, database: "{}"}}
"""


def delays(case: Case, reports: Target, watches: Target) -> Sequence[float]:
    """Watch on one replica what is reported on the other; return the delays, sorted."""
    client = StreamClient(watches.address, connections=min(CONNECTIONS, case.watchers))
    reports.change()
    reports.wait_for_replies()
    if case.watches_all:
        request = job_pb2.WatchJobsRequest(min_interval_ms=1).SerializeToString()
        client.open_streams(f"{PATH}WatchJobs", [request] * case.watchers)
        first = case.watchers * case.jobs
        assert client.read(until=lambda: len(client.delays) >= first, seconds=30)
        client.forget()
    else:
        watches.connect(client, case.watchers, min_interval_ms=1)
    changes = int(SECONDS * case.changes_a_second)
    each = case.watchers * case.jobs if case.watches_all else case.watchers
    reporter = Reporter(reports.change, changes, case.changes_a_second)
    reporter.start()
    client.read(
        until=lambda: reporter.has_ended and client.arrivals[reporter.stamps[-1]] >= each,
        seconds=SECONDS + 15,
    )
    reporter.join()
    reports.wait_for_replies()
    client.close()
    assert client.arrivals[reporter.stamps[-1]] == each, "a watcher has not got the last change"
    return sorted(client.delays)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    print(
        f"{'watchers':>8} {'jobs':>5} {'of':>4} {'changes/s':>9} {'p50 ms':>7} {'p99 ms':>7} "
        f"{'CPU where watched':>17}"
    )
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "emitd.yml").write_text(CONFIG.format(postgres.dsn()))
        replicas = [stack.enter_context(server(COMMANDS["emitd"], folder)) for _ in range(2)]
        for case in CASES:
            for _ in range(arguments.rounds):
                reports, watches = (Target("emitd", address, pid, case.jobs) for address, pid in replicas)
                cpu = cpu_seconds(watches.pid)
                found = delays(case, reports, watches)
                share = (cpu_seconds(watches.pid) - cpu) / SECONDS
                print(
                    f"{case.watchers:>8} {case.jobs:>5} {'all' if case.watches_all else 'one':>4} "
                    f"{case.jobs * case.changes_a_second:>9} {percentile_ms(found, 50):>7.2f} "
                    f"{percentile_ms(found, 99):>7.2f} {share:>17.0%}"
                )
                reports.close()
                watches.close()


if __name__ == "__main__":
    main()
