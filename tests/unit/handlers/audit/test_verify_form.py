"""The form of a log's lines: what is wrong with one is told, with its number."""

from pathlib import Path

import pytest

from emitd_handlers.audit.verify.findings import Findings, Kind
from emitd_handlers.audit.verify.form import check_form
from support.audit.sealed_log import TIME, make_line

GOOD = make_line(1)


def check(*lines: bytes) -> list[tuple[str, int | None]]:
    findings = Findings()
    data = b"".join(line + b"\n" for line in lines)
    parsed, _ = check_form(Path("log"), 100, data, lines, findings)
    bad = {finding.index for finding in findings.listed if finding.kind in ("NOT_JSON", "FIELD_MISSING")}
    assert len(parsed) == len(lines) - len(bad)
    return [(finding.kind.value, finding.index) for finding in findings.listed]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"", Kind.NOT_JSON),
        (GOOD[:-1], Kind.NOT_JSON),
        (GOOD + b"}", Kind.NOT_JSON),
        (GOOD + GOOD, Kind.NOT_JSON),
        (GOOD.replace(b'"n":1', b'"n":01'), Kind.NOT_JSON),
        (GOOD.replace(b'"n":1', b'"n":"\xff"'), Kind.NOT_JSON),
        (GOOD.replace(b"test", b"t\xffst"), Kind.NOT_JSON),
        (b"[]", Kind.FIELD_MISSING),
        (GOOD.replace(b'"user_id"', b'"user"'), Kind.FIELD_MISSING),
        (GOOD.replace(b'"user-1"', b'""'), Kind.FIELD_MISSING),
        (GOOD.replace(b'"user-1"', b"1"), Kind.FIELD_MISSING),
        (GOOD.replace(b'{"n":1}', b"[1]"), Kind.FIELD_MISSING),
        (GOOD.replace(b'"test"', b"1"), Kind.FIELD_MISSING),
        (GOOD.replace(b'{"n":1}', b'{"n":"' + b"x" * 66_000 + b'"}'), Kind.LINE_TOO_LONG),
        (GOOD.replace(b'received_at":"2026-11', b'received_at":"2026-13'), Kind.TIME_WRONG),
        (GOOD.replace(b'received_at":"2026-11-23T03:39', b'received_at":"2026-11-23T03:61'), Kind.TIME_WRONG),
        (GOOD.replace(b'received_at":"2026-11', b'received_at":"2026-1x'), Kind.TIME_WRONG),
        (GOOD.replace(b'000Z","source', b'000","source'), Kind.TIME_WRONG),
        (make_line(1, time=TIME - 1), Kind.TIME_WENT_BACK),
    ],
)
def test_a_bad_line(line: bytes, kind: Kind) -> None:
    """It is told; the good ones around it are not."""
    assert line != GOOD
    assert check(make_line(0), line, make_line(2)) == [(kind, 101)]


def test_good_lines() -> None:
    """Lines of any second, with what else a record can carry, and in any letters, are good."""
    seconds = [make_line(number, time=TIME + number * 700_000_000) for number in range(1, 9)]
    same = [make_line(10, time=TIME + 9 * 700_000_000)] * 2
    rich = GOOD.replace(
        b'"source":"test"', '"source":"ü","attributes":{"a":[{}]},"assigned":["event_id"]'.encode()
    )
    assert check(rich, *seconds, *same) == []
    assert check() == []


def test_nests_too_deep() -> None:
    """Such a line ends nothing but its own reading."""
    deep = GOOD.replace(b'{"n":1}', b'{"n":' + b"[" * 20_000 + b"]" * 20_000 + b"}")
    assert check(deep, make_line(2)) == [("NOT_JSON", 100)]
