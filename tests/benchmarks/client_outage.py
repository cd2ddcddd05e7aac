"""What an outage costs in memory: a LogClient logs, and nobody listens at its address.

    python client_outage.py 1000000

Run as a program, so that nothing else is in the process.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping

from emitd import LogClient
from load import resident_bytes

QUEUE_RECORDS = 20_000
QUEUE_BYTES = 8 * 1024 * 1024
#: By then the queue is full.
FULL_RECORDS = 2 * QUEUE_RECORDS
STEP_RECORDS = 10_000
FATES = ("sent", "unconfirmed", "spooled")


def resident_mb() -> float:
    """Resident memory of this process."""
    return resident_bytes(os.getpid()) / 1e6


def log(client: LogClient, records: int) -> float:
    """Log so many lines; return the peak of resident memory on the way."""
    peak = resident_mb()
    for number in range(records):
        client.info("order taken", order=17, user="u1")
        if not number % STEP_RECORDS:
            peak = max(peak, resident_mb())
    return max(peak, resident_mb())


def accounted(stats: Mapping[str, int]) -> int:
    """Of how many records a closed client says what became of them."""
    return sum([count for fate, count in stats.items() if fate in FATES or fate.startswith("dropped_")])


def main() -> None:
    """Print memory before, with a full queue, at the peak and after."""
    records = int(sys.argv[1])
    # Bound and not listening: connections are refused.
    with socket.socket() as taken, tempfile.TemporaryDirectory() as spool:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        client = LogClient(
            address,
            source="bench",
            max_queue_records=QUEUE_RECORDS,
            max_queue_bytes=QUEUE_BYTES,
            spool=spool,
        )
        before, begin = resident_mb(), time.perf_counter()
        full = log(client, FULL_RECORDS)
        peak = log(client, records - FULL_RECORDS)
        seconds = time.perf_counter() - begin
        client.close()
        stats = client.stats()
    print(
        f"an outage of {records:,} records in {seconds:.1f} s, bounds {QUEUE_RECORDS:,} records, "
        f"{QUEUE_BYTES / 1e6:.0f} MB\nresident MB: before {before:.1f}, after {FULL_RECORDS:,} records {full:.1f}, "
        f"peak {peak:.1f}, after close {resident_mb():.1f}\n"
        f"stats after close: { {fate: count for fate, count in stats.items() if count} }; "
        f"not accounted for: {records - accounted(stats):,}"
    )


if __name__ == "__main__":
    main()
