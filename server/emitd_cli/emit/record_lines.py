"""Records from a file or standard input: a log line each, or the contract's JSON form.

The text is UTF-8; or UTF-16, if a byte order mark or the zeros of its first letters say so. Lines end with LF or CRLF.
Byte order marks are left out. A byte that is not UTF-8 is escaped in a message; in JSON its line is refused.
"""

import codecs
import errno
import sys
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from google.protobuf import json_format

from emitd.v1 import Level, LogRecord
from emitd_cli.errors import Misuse
from emitd_cli.terminal.output import say

READ_BYTES = 256 * 1024
#: A batch has no more bytes of input than this, unless it is a single line; a server takes 16 MiB by default.
MAX_BATCH_BYTES = 4 * 1024 * 1024
#: The whole of a longer line is not kept in memory, and the line is refused.
MAX_LINE_BYTES = 4 * 1024 * 1024
#: How files begin that are no text, and what they are.
_NO_TEXT = {
    **{b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"},
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "UTF-32"),
}


class Line(NamedTuple):
    """One line of the input: its number from 1, its size in bytes, and its record or the problem with it.

    One with both has been mended.
    """

    number: int
    size: int
    record: LogRecord | None
    problem: str = ""


def open_lines(name: str) -> tuple[BinaryIO, int | None]:
    """Open a file, or standard input for `-`; return it and its size in bytes, None if it has none.

    Raises OSError.
    """
    if name == "-" and sys.stdin is None:  # it was closed by the caller
        raise OSError(errno.EBADF, "standard input is closed")
    stream = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115  # the caller closes it
    path = Path(f"/dev/fd/{stream.fileno()}")
    return stream, path.stat().st_size if path.is_file() else None


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
    try:
        for arrived in _arrivals(stream):
            for raw in arrived:
                number += 1
                if not raw.removeprefix(codecs.BOM_UTF8).strip():
                    continue
                if batch and (len(batch) == batch_size or batch_bytes + len(raw) > MAX_BATCH_BYTES):
                    yield batch
                    batch, batch_bytes = [], 0
                batch.append(_read_line(number, raw, form, level, source))
                batch_bytes += len(raw)
            if batch and live:
                yield batch
                batch, batch_bytes = [], 0
    except OSError:  # what came before is sent
        yield batch
        raise
    if batch:
        yield batch


def _arrivals(stream: BinaryIO) -> Iterator[list[bytes]]:
    """The lines that are complete after each read, the last one also without its newline."""
    rest = bytearray()
    for data in _as_utf8(stream):
        first, *others = data.split(b"\n")
        rest += first
        del rest[MAX_LINE_BYTES + 1 :]
        if others:
            lines = [bytes(rest), *others]
            rest = bytearray(lines.pop())
            yield [line + b"\n" for line in lines]
    if rest:
        yield [bytes(rest)]


def _as_utf8(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of each read, those of UTF-16 as UTF-8. Raises Misuse for what is no text."""
    # Every buffered reader has `read1`.
    reads: Iterator[bytes] = iter(lambda: stream.read1(READ_BYTES), b"")  # type: ignore[attr-defined]
    head = next(reads, b"")
    # A pipe may bring it in pieces.
    while len(head) < 8 and b"\n" not in head and (b"\0" in head or not head.isascii()):
        if not (more := next(reads, b"")):
            break
        head += more
    reads = chain([head], reads)
    for start, kind in _NO_TEXT.items():
        if head.startswith(start):
            raise Misuse(f"--file: is {kind}; expected text in UTF-8 or UTF-16", field="--file")
    if not (codec := _utf_16(head)):
        yield from reads
        return
    say(f"--file: is read as {codec.upper()}")
    # Half a surrogate pair, and a letter cut short at the end, become bytes that are no UTF-8.
    decoder = codecs.getincrementaldecoder(codec)("surrogatepass")
    for data in reads:
        yield decoder.decode(data).encode(errors="surrogatepass")
    yield decoder.getstate()[0]


def _utf_16(head: bytes) -> str:
    """Return which UTF-16 this is, by its byte order mark or because every other byte of eight is zero; else empty."""
    start = head[:8]
    for codec, mark, zeros in (("utf-16-le", codecs.BOM_UTF16_LE, 1), ("utf-16-be", codecs.BOM_UTF16_BE, 0)):
        has_zeros = len(start) == 8 and not any(start[zeros::2]) and all(start[1 - zeros :: 2])
        if has_zeros or start.startswith(mark):
            return codec
    return ""


def _read_line(number: int, raw: bytes, form: str, level: Level, source: str) -> Line:
    content, problem = raw.rstrip(b"\r\n"), ""
    if len(content) > MAX_LINE_BYTES:
        return Line(number, len(raw), None, f"has more than {MAX_LINE_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 at byte {error.start}"
        if form == "jsonl":
            return Line(number, len(raw), None, problem)
        count = len(content) - len(content.decode(errors="ignore").encode())
        problem += f"; {count} such byte{'s are' if count > 1 else ' is'} written as \\xNN"
        text = content.decode(errors="backslashreplace")
    text = text.removeprefix("\ufeff")
    try:
        record = _from_json(text) if form == "jsonl" else LogRecord(level=level, message=text)
    except json_format.ParseError as error:
        return Line(number, len(raw), None, str(error).splitlines()[0])
    record.record_id = record.record_id or str(uuid.uuid4())
    record.source = record.source or source
    return Line(number, len(raw), record, problem)


def _from_json(text: str) -> LogRecord:
    if not text.lstrip().startswith("{"):
        raise json_format.ParseError("is not a JSON object")
    record = LogRecord()
    json_format.Parse(text, record)
    return record
