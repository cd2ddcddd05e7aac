"""The parts that both examples share: flags, ids of lines, and sending records in batches.

Records are sent in the order of the log, one batch at a time. If the server does not answer, the batch is sent again.
That is harmless, because every record has a `record_id` that is made from its line. A second run of the whole program
is harmless for the same reason.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import islice
from typing import TextIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import grpc
from google.protobuf import json_format

from emitd.v1 import DELIVERY_COMMITTED, EmitBatchRequest, EmitBatchResponse, LogRecord, LogServiceStub

__all__ = ["LineIds", "SendSummary", "ship", "shipping_parser", "unix_nano"]

CALL_SECONDS = 30.0
#: How long a batch is tried before the program gives up, and the pause between two tries.
RETRY_SECONDS = 30.0
RETRY_PAUSE_SECONDS = 1.0
#: A call that ended with one of these may succeed later.
RETRYABLE_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
#: How many refused records are printed one by one.
SHOWN_REFUSALS = 10

# Exit codes, as those of `emitd`.
GOOD, REFUSED, MISUSE, CANNOT_TELL, INTERRUPTED = 0, 1, 2, 4, 130


class LineIds:
    """Makes the ids of lines. They are the same in every run over a log, from whichever line it is read."""

    def __init__(self) -> None:
        self._stamp = ""
        self._seen: Counter[str] = Counter()

    def make(self, scope: str, stamp: str, line: str) -> str:
        """Return an id for a line of the log of `scope`, such as a host; `stamp` is its time as text.

        Equal lines with the same time are counted, so that their ids differ.
        """
        if stamp != self._stamp:
            self._stamp = stamp
            self._seen.clear()
        self._seen[line] += 1
        return sha256(f"{scope}\n{line}\n{self._seen[line]}".encode()).hexdigest()[:32]


@dataclass
class SendSummary:
    """Counts the records by their result."""

    sent: int = 0
    committed: int = 0
    #: Accepted by handlers that keep them in a queue first.
    queued: int = 0
    #: Accepted before: by an earlier run, or by a call whose answer was lost.
    duplicates: int = 0
    refused: int = 0
    #: Accepted job reports that changed nothing, because the server knows newer ones.
    not_applied: int = 0

    def __str__(self) -> str:
        """Return the summary in one line."""
        return (
            f"{self.sent} records sent: {self.committed} committed, {self.queued} queued, "
            f"{self.duplicates} duplicates, {self.refused} refused"
            + (f"; {self.not_applied} job reports not applied" if self.not_applied else "")
        )

    def count(self, records: list[LogRecord], response: EmitBatchResponse) -> list[LogRecord]:
        """Add a reply with its receipts; return the records to send again."""
        again = []
        for error in response.errors:
            if error.retryable:
                again.append(records[error.index])
            else:
                self.refuse(records[error.index], error.status.message)
        committed = sum(
            not receipt.duplicate and any(h.delivery == DELIVERY_COMMITTED for h in receipt.handlers)
            for receipt in response.receipts
        )
        self.sent += len(records) - len(again)
        self.committed += committed
        self.queued += response.accepted_count - committed
        self.duplicates += response.duplicate_count
        self.not_applied += sum(bool(notice.stale_reason) for notice in response.job_notices)
        return again

    def refuse(self, record: LogRecord, problem: str) -> None:
        """Count a refused record, and print the first ones on standard error."""
        self.refused += 1
        if self.refused <= SHOWN_REFUSALS:
            print(f"refused: {problem}: {record.message!r}", file=sys.stderr)


def shipping_parser(description: str | None, log: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of both examples; `log` describes the file."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help=f"{log}; '-' is standard input")
    parser.add_argument(
        "--address",
        default=os.environ.get("EMITD_ADDRESS") or "127.0.0.1:50051",
        help="the server's address (or EMITD_ADDRESS; default: 127.0.0.1:50051)",
    )
    parser.add_argument("--timezone", type=_zone, default="UTC", help="the log's time zone (default: UTC)")
    parser.add_argument("--batch-size", type=_positive, default=512, help="records in a call (default: 512)")
    parser.add_argument(
        "--dry-run", action="store_true", help="send nothing; print the records as JSON, one a line"
    )
    return parser


def ship(
    options: argparse.Namespace,
    read: Callable[[TextIO], Iterator[LogRecord]],
    conclude: Callable[[LogServiceStub | None], Iterable[str]],
) -> int:
    """Read the log, send its records, print a summary; return the exit code.

    `conclude` gets the stub, or None in a dry run, and returns further lines to print at the end.
    """
    try:
        with _open_log(options.file) as log:
            code = _ship(options, read(log), conclude)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of the output has left; the rest in the buffer must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD
    except grpc.RpcError as error:
        print(f"{options.address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return CANNOT_TELL
    except (OSError, ValueError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return MISUSE
    except KeyboardInterrupt:
        return INTERRUPTED


def unix_nano(moment: datetime) -> int:
    """Return a moment in nanoseconds since 1970-01-01T00:00:00Z, without the rounding of a float."""
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1_000


def _ship(
    options: argparse.Namespace,
    records: Iterator[LogRecord],
    conclude: Callable[[LogServiceStub | None], Iterable[str]],
) -> int:
    if options.dry_run:
        for record in records:
            print(json_format.MessageToJson(record, indent=None, ensure_ascii=False))
        print(*conclude(None), sep="\n", file=sys.stderr)
        return GOOD
    summary = SendSummary()
    with grpc.insecure_channel(options.address) as channel:
        stub = LogServiceStub(channel)
        try:
            while batch := list(islice(records, options.batch_size)):
                _send(stub, batch, summary)
        finally:
            print(summary)
        print(*conclude(stub), sep="\n")
    return REFUSED if summary.refused else GOOD


def _open_log(name: str) -> TextIO:
    r"""Open a log, or standard input for `-`. Bytes that are not UTF-8 come as `\x..`."""
    file = sys.stdin.fileno() if name == "-" else name
    return open(file, encoding="utf-8", errors="backslashreplace", newline="\n", closefd=name != "-")


def _send(stub: LogServiceStub, batch: list[LogRecord], summary: SendSummary) -> None:
    """Send a batch until each of its records is accepted or refused.

    Raises grpc.RpcError when the server refuses the call, or takes none for `RETRY_SECONDS`.
    """
    give_up_at = time.monotonic() + RETRY_SECONDS
    has_said_so = False
    while batch:
        request = EmitBatchRequest(records=batch, want_receipts=True)
        out_of_time = time.monotonic() >= give_up_at
        try:
            response: EmitBatchResponse = stub.EmitBatch(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            if out_of_time or error.code() not in RETRYABLE_CODES:
                raise
            if not has_said_so:
                print(f"{error.code().name}: trying again for {RETRY_SECONDS:g} s", file=sys.stderr)
                has_said_so = True
        else:
            batch = summary.count(batch, response)
            if out_of_time:
                for record in batch:
                    summary.refuse(record, f"not accepted within {RETRY_SECONDS:g} s")
                summary.sent += len(batch)
                return
        if batch:
            time.sleep(RETRY_PAUSE_SECONDS)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, ZoneInfoNotFoundError):
        raise argparse.ArgumentTypeError(f"'{name}' is not a time zone, such as Europe/Zurich") from None


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return int(text)
