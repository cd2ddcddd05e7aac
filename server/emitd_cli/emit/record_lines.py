"""Records from a file or standard input: a log line each, or the contract's JSON form."""

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from google.protobuf import json_format

from emitd.v1 import Level, LogRecord

READ_BYTES = 256 * 1024
#: A batch has no more bytes of input than this, unless it is a single line; a server takes 16 MiB by default.
MAX_BATCH_BYTES = 4 * 1024 * 1024


class Line(NamedTuple):
    """One line of the input: its number from 1, its size in bytes, and its record or the problem with it."""

    number: int
    size: int
    record: LogRecord | None
    problem: str = ""


def open_lines(name: str) -> tuple[BinaryIO, int | None]:
    """Open a file, or standard input for `-`; return it and its size in bytes, None if it has none.

    Raises OSError.
    """
    if name != "-":
        path = Path(name)
        return path.open("rb"), path.stat().st_size if path.is_file() else None
    if sys.stdin is None:
        raise OSError(0, "standard input is closed")
    stdin = sys.stdin.buffer
    path = Path(f"/dev/fd/{stdin.fileno()}")
    return stdin, path.stat().st_size if path.is_file() else None


def read_batches(
    stream: BinaryIO, form: str, level: Level, source: str, *, batch_size: int, live: bool
) -> Iterator[list[Line]]:
    """Read a stream's lines in batches of at most `batch_size`; empty lines are passed over.

    A `live` stream, such as a pipe, is not kept waiting for a full batch: what has come is a batch. `form` is
    `lines`: each is the message of a log line of `level` and `source`; or `jsonl`: each is a LogRecord
    in JSON, whose own source goes first. A record without `record_id` gets a new one, so that sending it again is
    harmless.
    """
    batch: list[Line] = []
    batch_bytes = number = 0
    for arrived in _arrivals(stream):
        for raw in arrived:
            number += 1
            if not raw.strip():
                continue
            if batch and (len(batch) == batch_size or batch_bytes + len(raw) > MAX_BATCH_BYTES):
                yield batch
                batch, batch_bytes = [], 0
            batch.append(_read_line(number, raw, form, level, source))
            batch_bytes += len(raw)
        if batch and live:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def _arrivals(stream: BinaryIO) -> Iterator[list[bytes]]:
    """The lines that are complete after each read, the last one also without its newline."""
    rest: list[bytes] = []
    while data := stream.read1(READ_BYTES):  # type: ignore[attr-defined]  # every buffered reader has it
        first, *others = data.split(b"\n")
        rest.append(first)
        if others:
            lines = [b"".join(rest), *others]
            rest = [lines.pop()]
            yield [line + b"\n" for line in lines]
    if last_line := b"".join(rest):
        yield [last_line]


def _read_line(number: int, raw: bytes, form: str, level: Level, source: str) -> Line:
    try:
        text = raw.rstrip(b"\r\n").decode()
        record = _from_json(text) if form == "jsonl" else LogRecord(level=level, message=text)
    except UnicodeDecodeError as error:
        return Line(number, len(raw), None, f"is not UTF-8 at byte {error.start}")
    except json_format.ParseError as error:
        return Line(number, len(raw), None, str(error).splitlines()[0])
    record.record_id = record.record_id or str(uuid.uuid4())
    record.source = record.source or source
    return Line(number, len(raw), record)


def _from_json(text: str) -> LogRecord:
    if not text.lstrip().startswith("{"):
        raise json_format.ParseError("is not a JSON object")
    record = LogRecord()
    json_format.Parse(text, record)
    return record
