"""How fast `emitd audit verify` reads: lines a second, on one processor and on two.

    python tests/benchmarks/bench_verify.py [--lines N] [--line-bytes N]

The log is made in a temporary folder: lines of about so many bytes, with a UUIDv7 that the service assigned and a
random record id; their hashes; a checkpoint every 10,000 lines.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))
from emitd_handlers.audit.format.line import encode_line
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.text.uuid7 import uuid7
from support.audit.sealed_log import TIME, SealedLog

LINES_A_CHECKPOINT = 10_000
ROUNDS = 5


def main() -> None:
    """Make the log, verify it with one process and with two, and print the best of some rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--line-bytes", type=int, default=350)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder, "audit.json.log")
        _make_log(path, options.lines, options.line_bytes)
        size = path.stat().st_size
        print(f"{options.lines} lines of {size // options.lines} bytes")
        processors = sorted(os.sched_getaffinity(0))
        for count in (1, 2):
            if len(processors) < count:
                print(f"{count} processors: not on this machine")
                continue
            os.sched_setaffinity(0, processors[:count])
            seconds = min(_verify(path, options.lines, count) for _ in range(ROUNDS))
            print(
                f"{count} processor{'s' * (count > 1)}: {options.lines / seconds:,.0f} lines/s, {seconds:.2f} s"
            )


def _make_log(path: Path, count: int, line_bytes: int) -> None:
    log = SealedLog(path, index_every=800)
    padding = "x" * max(0, line_bytes - len(_make_line(0, "")))
    for first in range(0, count, LINES_A_CHECKPOINT):
        numbers = range(first, min(first + LINES_A_CHECKPOINT, count))
        log.append([_make_line(number, padding) for number in numbers])
        log.checkpoint()


def _make_line(number: int, padding: str) -> bytes:
    user, address = f"user-{number % 997}", f"10.0.{number % 8}.{number % 250}"
    event = AuditEvent(uuid7(), "user.login.failure", user, address, f'{{"method":"{padding}"}}')
    time_unix_nano = TIME + number * 100_000
    record = LogRecord(
        Level.AUDIT,
        record_id=str(uuid4()),
        time_unix_nano=time_unix_nano,
        received_unix_nano=time_unix_nano,
        source="auth-service",
        payload=event,
    )
    return encode_line(record)


def _verify(path: Path, lines: int, workers: int) -> float:
    start = time.perf_counter()
    report = verify_log(path, workers=workers)
    seconds = time.perf_counter() - start
    assert (report.verdict, report.lines, report.covered_lines) == (Verdict.GOOD, lines, lines), report
    return seconds


if __name__ == "__main__":
    main()
