"""`make bench`: what a log line costs its sender, beside Python's other ways to log, each to a real receiver.

Then what a disabled level costs, how long importing takes, and how much memory an outage takes. Rivals that are not
installed are left out: `pip install 'emitd[bench]'` brings them.
"""

import argparse
import tempfile
from pathlib import Path

from client_contestants import CONTESTANTS, QUEUE_RECORDS
from client_costs import print_disabled_level, print_imports, print_outage
from client_race import Course, race
from client_receivers import Receivers

#: Fewer than fit in the queues.
BURST = Course(records=20_000, rate=0, rounds=5)
PACED = Course(records=5_000, rate=5_000, rounds=3)
OUTAGE_RECORDS = 1_000_000


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--rounds", type=int, default=BURST.rounds, help="laps of the first table; 0: none")
    parser.add_argument("--paced-rounds", type=int, default=PACED.rounds, help="laps of the second; 0: none")
    parser.add_argument("--outage", type=int, default=OUTAGE_RECORDS, help="records in an outage; 0: none")
    parser.add_argument("--folder", type=Path, help="where files are written (default: temporary)")
    arguments = parser.parse_args()
    courses = [
        Course(BURST.records, BURST.rate, arguments.rounds),
        Course(PACED.records, PACED.rate, arguments.paced_rounds),
    ]
    print(f"cost of a log line with two scalar attributes: median (best); queues hold {QUEUE_RECORDS:,}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, Receivers(Path(folder)) as receivers:
        for course in courses:
            if course.rounds:
                race(receivers, course, arguments.contestants)
                print()
    print_disabled_level()
    print_imports()
    if arguments.outage:
        print_outage(arguments.outage)


if __name__ == "__main__":
    main()
