"""One lap of one contestant, in a process of its own: prints one JSON object with what a record cost, in µs.

    python client_lap.py "FileHandler" /tmp/lines 20000 --rate 0

A first piece, delivered before the clock starts, opens connections and warms up. `caller` is the CPU time of the
calling thread, `wall` what passed on the clock during the calls, which is more where another thread holds the
interpreter or a pipe is full, and `process` the CPU time of all threads until everything is delivered and the sender
is closed.
"""

import argparse
import json
import time
from collections.abc import Iterator

from client_contestants import CONTESTANTS, Sender

__all__ = ["WARM_RECORDS"]

WARM_RECORDS = 1_000
#: At a rate, so many records back to back, then a pause.
PIECE_RECORDS = 50


def pieces(records: int, rate: int) -> Iterator[int]:
    """Yield how many records to send back to back, each time when they are due; rate 0: all at once."""
    if not rate:
        yield records
        return
    begin = time.perf_counter()
    for sent in range(0, records, PIECE_RECORDS):
        time.sleep(max(0.0, begin + sent / rate - time.perf_counter()))
        yield min(PIECE_RECORDS, records - sent)


def run(sender: Sender, records: int, rate: int) -> dict[str, float]:
    """Send the records, and close."""
    emit = sender.emit
    for _ in range(WARM_RECORDS):
        emit()
    sender.settle()
    caller = wall = 0.0
    process = time.process_time()
    for piece in pieces(records, rate):
        wall_begin, caller_begin = time.perf_counter(), time.thread_time()
        for _ in range(piece):
            emit()
        caller += time.thread_time() - caller_begin
        wall += time.perf_counter() - wall_begin
    sender.close()
    process = time.process_time() - process
    seconds = {"caller": caller, "wall": wall, "process": process}
    return {name: value / records * 1e6 for name, value in seconds.items()}


def main() -> None:
    """Run the lap that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("target", help="the path of a file, or the address of a server")
    parser.add_argument("records", type=int)
    parser.add_argument("--rate", type=int, default=0, help="records a second; 0: all at once")
    arguments = parser.parse_args()
    sender = CONTESTANTS[arguments.contestant].make(arguments.target)
    print(json.dumps(run(sender, arguments.records, arguments.rate)), flush=True)


if __name__ == "__main__":
    main()
