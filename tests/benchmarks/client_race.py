"""The first tables of the client's benchmark: what a record costs each contestant.

A lap is a fresh process, and the laps take turns, so that a slow moment of the machine falls on all alike. Each
figure is the median of the laps, with the best lap in brackets.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench_records import HERE
from client_contestants import CONTESTANTS
from client_lap import WARM_RECORDS
from client_receivers import Receivers, is_installed

__all__ = ["Course", "race"]

LAP_SECONDS = 60.0
COLUMNS = {"caller": "caller CPU µs", "wall": "caller wall µs", "process": "total CPU µs"}


@dataclass(frozen=True)
class Course:
    """How a lap is run."""

    records: int
    #: Records a second; 0: all at once.
    rate: int
    rounds: int

    def __str__(self) -> str:
        pace = f"{self.rate:,} a second" if self.rate else "back to back"
        return f"{self.records:,} records {pace}, {self.rounds} laps each"


@dataclass(frozen=True)
class Lap:
    """What one lap cost, in µs a record, and how many of its records did not arrive."""

    costs: Mapping[str, float]
    lost: int


def race(receivers: Receivers, course: Course, names: Sequence[str]) -> None:
    """Run the laps and print the table."""
    running = [name for name in names if is_installed(CONTESTANTS[name].module)]
    laps: dict[str, list[Lap]] = {name: [] for name in running}
    for _ in range(course.rounds):
        for name in running:
            laps[name].append(run_lap(receivers, course, name))
    print(f"{course}\n{'':<20}" + "".join(f"{title:>18}" for title in COLUMNS.values()) + "   arrived")
    for name in names:
        print(f"{name:<20}{_row(laps[name]) if name in laps else '     not installed'}")


def run_lap(receivers: Receivers, course: Course, name: str) -> Lap:
    """Run one lap. Raises CalledProcessError when it fails; what it says goes to standard error."""
    with receivers.open(CONTESTANTS[name].receiver) as (target, wait_for):
        command = [sys.executable, str(HERE / "client_lap.py"), name, target, str(course.records)]
        process = subprocess.run(
            [*command, "--rate", str(course.rate)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            timeout=LAP_SECONDS,
        )
        sent = course.records + WARM_RECORDS
        return Lap(json.loads(process.stdout), sent - wait_for(sent))


def _row(laps: Sequence[Lap]) -> str:
    figures = [[lap.costs[column] for lap in laps] for column in COLUMNS]
    cells = "".join(f"{f'{median(costs):.2f} ({min(costs):.2f})':>18}" for costs in figures)
    return f"{cells}   {_verdict(sum(lap.lost for lap in laps))}"


def _verdict(lost: int) -> str:
    if lost > 0:
        return f"LOST {lost:,}: its figures do not count"
    return f"{-lost:,} TWICE" if lost else "all"
