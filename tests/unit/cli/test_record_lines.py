"""Records from a file or standard input."""

import gzip
import io
import json
import lzma
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd.v1 import LEVEL_INFO, LEVEL_WARNING, LogRecord
from emitd_cli.emit import record_lines
from emitd_cli.emit.record_lines import Line, open_lines, read_batches
from emitd_cli.errors import Misuse


class Pieces(io.RawIOBase):
    """A stream that brings its bytes in the pieces given, like a pipe."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def read1(self, _: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def read(
    content: bytes | BinaryIO,
    form: str = "lines",
    source: str = "",
    batch_size: int = 512,
    live: bool = False,
) -> list[list[Line]]:
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    return list(read_batches(stream, form, LEVEL_INFO, source, batch_size=batch_size, live=live))


def read_one(content: str, form: str = "jsonl", source: str = "") -> Line:
    ((line,),) = read(content.encode(), form, source)
    return line


def record_of(line: Line) -> LogRecord:
    assert line.record is not None, line.problem
    return line.record


def test_each_line_is_a_message() -> None:
    """A line's indentation is kept, its end is not, and one that is empty or blank is passed over, but counted."""
    (batch,) = read(b"one\r\n\n  at two()\t\n \nlast", source="app")
    assert [(line.number, record_of(line).message) for line in batch] == [
        (1, "one"),
        (3, "  at two()\t"),
        (5, "last"),
    ]
    assert {(record_of(line).level, record_of(line).source) for line in batch} == {(LEVEL_INFO, "app")}


def test_every_record_has_an_id_of_its_own() -> None:
    """So that a batch that is sent again writes nothing twice."""
    (batch,) = read(b"same\nsame\n")
    assert len({record_of(line).record_id for line in batch}) == 2
    assert all(len(record_of(line).record_id) == 36 for line in batch)


def test_sizes_add_up() -> None:
    """A line's size is what it takes in the file, so that the progress bar ends at its end."""
    content = b"one\r\n\xff\nlast"
    (batch,) = read(content)
    assert sum(line.size for line in batch) == len(content)


@pytest.mark.parametrize(
    ("raw", "message", "problem"),
    [
        (b"bad \xff", "bad \\xff", "is not UTF-8 at byte 4; 1 such byte is written as \\xNN"),
        (b"\xe4 and \xf6\r", "\\xe4 and \\xf6", "is not UTF-8 at byte 0; 2 such bytes are written as \\xNN"),
        (b"cut \xe2\x82", "cut \\xe2\\x82", "is not UTF-8 at byte 4; 2 such bytes are written as \\xNN"),
        (
            b"\xef\xbb\xbfmarked \xff",
            "marked \\xff",
            "is not UTF-8 at byte 10; 1 such byte is written as \\xNN",
        ),
        ("genuine \ufffd".encode(), "genuine \ufffd", ""),
        (b"a\x00b", "a\x00b", ""),
        (b"10%\r20%\r", "10%\r20%", ""),
    ],
)
def test_a_line_of_bad_bytes_arrives(raw: bytes, message: str, problem: str) -> None:
    """They are escaped, and the line says so; its neighbours are not harmed."""
    (batch,) = read(b"good\n" + raw + b"\ngood\n")
    assert [record_of(line).message for line in batch] == ["good", message, "good"]
    assert [line.problem for line in batch] == ["", problem, ""]


@pytest.mark.parametrize("form", ["lines", "jsonl"])
def test_a_line_with_a_mark_alone_is_blank(form: str) -> None:
    """Such as an empty file of an editor on Windows, and one that was appended to another file."""
    assert list(read(b"\xef\xbb\xbf", form)) == []
    assert list(read(b"\n\xef\xbb\xbf\r\n \n", form)) == []


def test_json_of_bad_bytes_is_refused() -> None:
    """An id must not be altered. The other lines arrive."""
    (batch,) = read(b'{"message": "a"}\n{"recordId": "\xff"}\n{"message": "c"}', "jsonl")
    assert [line.problem for line in batch] == ["", "is not UTF-8 at byte 14", ""]
    assert batch[1].record is None


ENCODINGS = {
    "utf-8-sig": "",
    "utf-16": "UTF-16-LE",
    "utf-16-le": "UTF-16-LE",
    "utf-16-be": "UTF-16-BE",
}


@pytest.mark.parametrize("form", ["lines", "jsonl"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_other_encodings_are_read(
    encoding: str, form: str, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their byte order mark, or by the zeros of their first letters, in pieces of any size."""
    lines = ["first", "zweite Zeile: ä \U0001f600", "\ufefffrom a file put behind another"]
    if form == "jsonl":
        lines = [f'{{"message": "{line}"}}'.replace('"\ufeff', '"') for line in lines]
    content = "\r\n".join(lines).encode(encoding)
    pieces = [content[at : at + step] for at in range(0, len(content), step)]
    if step == 1 and encoding in {"utf-16-le", "utf-16-be"}:
        pieces[:2] = [content[:2]]  # one ASCII letter does not keep a live stream waiting
    found = [record_of(line).message for batch in read(Pieces(pieces), form, live=True) for line in batch]  # type: ignore[arg-type]
    assert found == ["first", "zweite Zeile: ä \U0001f600", "from a file put behind another"]
    kind = ENCODINGS[encoding]
    assert capsys.readouterr().err == (f"emitd: --file: is read as {kind}\n" if kind else "")


def test_what_is_no_utf_16_arrives_escaped() -> None:
    """Half a surrogate pair, and a letter of which the end is missing."""
    content = "one line\nlone \ud800 half\nend\u20ac".encode("utf-16-le", "surrogatepass")[:-1]
    (batch,) = read(content)
    assert [record_of(line).message for line in batch] == [
        "one line",
        "lone \\xed\\xa0\\x80 half",
        "end\\xac",
    ]
    assert [bool(line.problem) for line in batch] == [False, True, True]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"a\n"), "gzip"),
        (lzma.compress(b"a\n"), "xz"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
        (b"PK\x03\x04\x14\x00", "zip"),
        ("a\n".encode("utf-32"), "UTF-32"),
        ("\ufeffa\n".encode("utf-32-be"), "UTF-32"),
    ],
)
def test_what_is_no_text_is_misuse(content: bytes, kind: str) -> None:
    """Nothing of it is sent."""
    with pytest.raises(Misuse, match=f"--file: is {kind}; expected text in UTF-8 or UTF-16"):
        read(content)


def test_zeros_at_the_start_do_not_make_utf_16() -> None:
    """As a log has them that was truncated under its writer."""
    (batch,) = read(b"\0" * 4096 + b"line\nnext\n")
    assert [record_of(line).message[-4:] for line in batch] == ["line", "next"]


def test_a_line_without_an_end_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, by its number, and the next one arrives."""
    monkeypatch.setattr(record_lines, "MAX_LINE_BYTES", 1000)
    pieces = [b"one\n", *[b"x" * 999] * 50, b"\n", b"y" * 1000 + b"\n" + b"z" * 2000]
    lines = [line for batch in read(Pieces(pieces), live=True) for line in batch]  # type: ignore[arg-type]
    problem = "has more than 1000 bytes"
    assert [(line.number, line.problem) for line in lines] == [(1, ""), (2, problem), (3, ""), (4, problem)]
    assert max(line.size for line in lines) == 2000


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), min_size=1), max_size=6),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 50),
)
def test_every_text_arrives_as_it_was(
    texts: list[str], encoding: str, newline: str, is_ended: bool, step: int
) -> None:
    """In each encoding, with each end of a line, in pieces of any size."""
    texts = ["first line", *texts]
    content = (newline.join(texts) + newline * is_ended).encode(encoding)
    pieces = Pieces([content[at : at + step] for at in range(0, len(content), step)])
    lines = [line for batch in read(pieces, live=True) for line in batch]  # type: ignore[arg-type]
    kept = [(number, text) for number, text in enumerate(texts, 1) if text.encode().strip()]
    assert [(line.number, record_of(line).message) for line in lines] == kept
    assert not any(line.problem for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        '{"recordId": "r", "level": "LEVEL_WARNING", "message": "m", "timeUnixNano": "5"}',
        '{"record_id": "r", "level": 30, "message": "m", "time_unix_nano": 5}',
    ],
)
def test_both_spellings_of_json(text: str) -> None:
    """Field names may be written as protobuf's JSON or as the proto has them; a sender's own id stays."""
    expected = LogRecord(record_id="r", level=LEVEL_WARNING, message="m", time_unix_nano=5)
    assert record_of(read_one(text)) == expected


def test_the_source_of_a_record_goes_first() -> None:
    """`--source` is for the records that have none."""
    assert record_of(read_one('{"source": "mine"}', source="other")).source == "mine"
    assert record_of(read_one("{}", source="other")).source == "other"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is not a JSON object"),
        ("1", "is not a JSON object"),
        ('"x"', "is not a JSON object"),
        ("{", "Expecting property name"),
        ('{"messag": "x"}', 'has no field named "messag"'),
        ('{"message": 5}', "message"),
        ('{"level": "LEVEL_LOUD"}', "LEVEL_LOUD"),
        ('{"level": 1e400}', "infinity"),
        ('{"timeUnixNano": -1}', "timeUnixNano"),
        ('{"job": {"progress": 1.5}}', "LogRecord.job.progress"),
        ('{"audit": {}, "job": {}}', "payload"),
        ('{"message": "a", "message": "b"}', "duplicate key message"),
        ('{"message": "\\ud800"}', "message"),
        ('{"a":' * 100_000, "recursion"),
    ],
)
def test_what_is_no_record_is_told(text: str, words: str) -> None:
    """In one line that names the field at fault."""
    line = read_one(text)
    assert line.record is None
    assert words in line.problem
    assert "\n" not in line.problem


@given(st.binary(max_size=200), st.sampled_from(["lines", "jsonl"]))
def test_no_input_is_an_error(content: bytes, form: str) -> None:
    """Whatever the bytes, each line that is not blank is a record that can be sent, or has a problem."""
    lines = [line for batch in read(b"UTF-8 \n" + content, form) for line in batch]
    raws = [raw for raw in content.split(b"\n") if raw.strip()]
    assert len(lines) == len(raws) + 1
    for line in lines:
        if line.record is None:
            assert line.problem
        else:
            assert LogRecord.FromString(line.record.SerializeToString()) == line.record


@given(st.lists(st.sampled_from([b"a", b"\n", b"b\n", b"\n\n", b"  c", b"\r\n"]), max_size=20))
def test_pieces_make_no_difference(pieces: list[bytes]) -> None:
    """Lines that arrive in pieces are the same lines, with the same numbers."""

    def told(batches: list[list[Line]]) -> list[tuple[int, int, str]]:
        return [(line.number, line.size, record_of(line).message) for batch in batches for line in batch]

    assert told(read(Pieces(pieces), live=True)) == told(read(b"".join(pieces)))  # type: ignore[arg-type]


def test_a_batch_has_at_most_so_many_records() -> None:
    """The last one has the rest."""
    assert [len(batch) for batch in read(b"x\n" * 5, batch_size=2)] == [2, 2, 1]


def test_a_batch_has_at_most_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long lines make shorter batches, and a line that is longer than a batch may be goes alone."""
    monkeypatch.setattr(record_lines, "MAX_BATCH_BYTES", 10)
    sizes = [[line.size for line in batch] for batch in read(b"1234\n1234\n1234\n" + b"x" * 20 + b"\n12\n")]
    assert sizes == [[5, 5], [5], [21], [3]]


def test_what_has_come_from_a_live_stream_is_a_batch() -> None:
    """It does not wait for more; a file is read in full batches."""
    pieces = [b"one\ntw", b"o\n", b"three\nfour\n"]
    messages = [[record_of(line).message for line in batch] for batch in read(Pieces(pieces), live=True)]  # type: ignore[arg-type]
    assert messages == [["one"], ["two"], ["three", "four"]]
    assert len(read(Pieces(pieces), live=False)) == 1  # type: ignore[arg-type]


def test_a_file_has_a_size(tmp_path: Path) -> None:
    """A pipe or a device has none."""
    (tmp_path / "f").write_bytes(b"four")
    stream, size = open_lines(str(tmp_path / "f"))
    stream.close()
    assert size == 4
    stream, size = open_lines("/dev/null")
    stream.close()
    assert size is None


def test_the_json_that_is_read_is_the_contracts() -> None:
    """A record with every kind of payload comes back from its JSON as it was."""
    text = json.dumps(
        {
            "recordId": "r",
            "traceId": "AAAAAAAAAAAAAAAAAAAAAA==",
            "job": {"jobId": "j", "status": "JOB_STATE_RUNNING", "progress": 0, "labels": {"a": "b"}},
        }
    )
    record = record_of(read_one(text))
    assert record.trace_id == bytes(16)
    assert record.job.HasField("progress")
    assert dict(record.job.labels) == {"a": "b"}
