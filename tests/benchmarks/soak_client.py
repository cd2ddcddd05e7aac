"""A soak of the Python client: four processes send, the server is killed every 20 seconds, and so are clients.

    python soak_client.py --seconds 600

Then both ends are compared: what the clients were told, and what the service has. The exit code is 1 if that differs.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.soak.run import Soak

CLIENTS = 4


def main() -> int:
    """Run it, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--kill-every", type=float, default=20.0)
    arguments = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emitd-soak-") as folder:
        soak = Soak(Path(folder), clients=CLIENTS, kill_every=arguments.kill_every, longest_job=8.0)
        verdict = soak.run(arguments.seconds)
    print(f"{time.monotonic() - begin:.0f} seconds, {CLIENTS} processes at a time")
    for figure, count in sorted(verdict.figures.items()):
        print(f"{count:10,} {figure}")
    print(*verdict.problems or ["equal at both ends"], sep="\n")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
