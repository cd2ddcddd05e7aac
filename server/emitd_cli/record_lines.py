"""Records from a file or standard input: a log line each, or the contract's JSON form."""

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from google.protobuf import json_format

from emitd.v1 import LogRecord

__all__ = ["Line", "open_lines", "read_batches"]

READ_BYTES = 256 * 1024


class Line(NamedTuple):
    """One line of the input: its number from 1, its size in bytes, and its record or what is wrong with it."""

    number: int
    size: int
    record: LogRecord | None
    problem: str = ""


def open_lines(name: str) -> tuple[BinaryIO, int | None]:
    """Open a file, or standard input for `-`; return it and its size in bytes, None where it has none.

    Raises OSError.
    """
    if name != "-":
        path = Path(name)
        return path.open("rb"), path.stat().st_size if path.is_file() else None
    stdin = sys.stdin.buffer
    path = Path(f"/dev/fd/{stdin.fileno()}")
    return stdin, path.stat().st_size if path.is_file() else None


def read_batches(
    stream: BinaryIO, form: str, level: str, source: str, *, batch_size: int, live: bool
) -> Iterator[list[Line]]:
    """Read a stream's lines in batches of at most `batch_size`; empty lines are passed over.

    A `live` stream, such as a pipe, is not kept waiting for a full batch: what has come is a batch. `form` is
    `lines`, where each is the message of a log line of `level`, such as `LEVEL_INFO`, and `source`, or `jsonl`, where
    each is a LogRecord in JSON; a record without `record_id` gets a new one, so that sending it again is harmless.
    """
    batch: list[Line] = []
    number = 0
    for arrived in _arrivals(stream):
        for raw in arrived:
            number += 1
            if raw.strip():
                batch.append(_read_line(number, raw, form, level, source))
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch and live:
            yield batch
            batch = []
    if batch:
        yield batch


def _arrivals(stream: BinaryIO) -> Iterator[list[bytes]]:
    """The lines that are complete after each read, the last one also without its newline."""
    rest = b""
    while data := stream.read1(READ_BYTES):  # type: ignore[attr-defined]  # every buffered reader has it
        *lines, rest = (rest + data).split(b"\n")
        yield [line + b"\n" for line in lines]
    if rest:
        yield [rest]


def _read_line(number: int, raw: bytes, form: str, level: str, source: str) -> Line:
    try:
        text = raw.strip().decode()
        record = _from_json(text) if form == "jsonl" else LogRecord(level=level, message=text)
    except UnicodeDecodeError as error:
        return Line(number, len(raw), None, f"is not UTF-8 at byte {error.start}")
    except json_format.ParseError as error:
        return Line(number, len(raw), None, str(error).splitlines()[0])
    record.record_id = record.record_id or str(uuid.uuid4())
    record.source = record.source or source
    return Line(number, len(raw), record)


def _from_json(text: str) -> LogRecord:
    record = LogRecord()
    json_format.Parse(text, record)
    return record
