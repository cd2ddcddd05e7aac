"""`emitd.line_requests`: questions about log lines as messages."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from emitd import RequestRejected, v1
from emitd.line_requests import log_lines, tail_request

TRACE = bytes(range(16))
MOMENT = datetime(2001, 9, 9, 1, 46, 40, 5, tzinfo=UTC)
MOMENT_UNIX_NANO = 1_000_000_000_000_005_000


def listed(**lines: Any) -> v1.ListLogsRequest:
    request: v1.ListLogsRequest = log_lines(**lines).request
    return request


def test_every_filter_is_in_the_request() -> None:
    """By the contract's fields, in a list and in a tail."""
    given: dict[str, Any] = {
        "min_level": "WARNING",
        "sources": ["auth.*", "shop"],
        "text": "Timeout",
        "job_id": "j1",
        "trace_id": TRACE,
    }
    wanted = v1.LogFilter(
        min_level=v1.LEVEL_WARNING, sources=["auth.*", "shop"], text="Timeout", job_id="j1", trace_id=TRACE
    )
    assert listed(**given, since=MOMENT, until=7, newest_first=True, page_size=3) == v1.ListLogsRequest(
        filter=wanted,
        received_after_unix_nano=MOMENT_UNIX_NANO,
        received_before_unix_nano=7,
        newest_first=True,
        page_size=3,
    )
    assert tail_request(None, 5, **given) == v1.TailLogsRequest(filter=wanted, last=5)


def test_without_a_filter_nothing_is_set() -> None:
    """So that any line matches, and a tail begins with the next one."""
    assert listed() == v1.ListLogsRequest(filter=v1.LogFilter(), page_size=100)
    assert tail_request(None, None) == v1.TailLogsRequest(filter=v1.LogFilter())
    empty: dict[str, Any] = {"min_level": "", "sources": (), "text": "", "job_id": "", "trace_id": ""}
    assert tail_request(None, None, **empty) == v1.TailLogsRequest(filter=v1.LogFilter())


@pytest.mark.parametrize("level", ["WARNING", "warning", 30, v1.LEVEL_WARNING])
def test_a_level_has_a_name_and_a_number(level: str | int) -> None:
    """In capitals or not, as `emitd.v1` or `logging` has it."""
    assert listed(min_level=level).filter.min_level == v1.LEVEL_WARNING


@pytest.mark.parametrize("level", ["AUDIT", "LOUD", 60, 35, -10, "30+"])
def test_another_level_is_refused(level: str | int) -> None:
    """By its field; a filter must not be guessed."""
    with pytest.raises(
        RequestRejected, match=r"min_level: .* is not DEBUG, INFO, WARNING, ERROR or CRITICAL"
    ) as caught:
        listed(min_level=level)
    assert caught.value.field == "min_level"


@pytest.mark.parametrize("trace_id", [TRACE, TRACE.hex(), TRACE.hex().upper()])
def test_a_trace_is_bytes_or_digits(trace_id: Any) -> None:
    """As OpenTelemetry has it, and as people copy it."""
    assert listed(trace_id=trace_id).filter.trace_id == TRACE


@pytest.mark.parametrize("trace_id", ["abc", "xyz", TRACE[:8], TRACE.hex() + "00", "0" * 31 + "g"])
def test_another_trace_is_refused(trace_id: Any) -> None:
    """By its field."""
    with pytest.raises(RequestRejected, match="trace_id: ") as caught:
        listed(trace_id=trace_id)
    assert caught.value.field == "trace_id"


def test_one_source_alone_need_not_stand_in_a_list() -> None:
    """A text is taken for a pattern, not for its letters."""
    assert list(listed(sources="auth.*").filter.sources) == ["auth.*"]


def test_a_moment_is_a_time_or_a_time_ago_or_a_number() -> None:
    """In any time zone, to the microsecond; a number is exact."""
    for moment in (MOMENT, MOMENT.astimezone(timezone(timedelta(hours=2)))):
        assert listed(since=moment).received_after_unix_nano == MOMENT_UNIX_NANO
    assert tail_request(17, None).received_after_unix_nano == 17
    assert tail_request(0, None).HasField("received_after_unix_nano")
    before = datetime.now(UTC)
    ago = listed(since=timedelta(minutes=5)).received_after_unix_nano
    after = datetime.now(UTC)
    bounds = [
        listed(since=moment - timedelta(minutes=5)).received_after_unix_nano for moment in (before, after)
    ]
    assert bounds[0] <= ago <= bounds[1]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"since": datetime(2026, 1, 1)}, "since: 2026-01-01 00:00:00 has no time zone"),
        ({"until": datetime(1969, 1, 1, tzinfo=UTC)}, "until: -31536000000000000 is not from 0"),
        ({"since": -1}, "since: -1 is not from 0"),
        ({"page_size": -1}, "page_size: -1 is not from 0"),
    ],
)
def test_what_makes_no_sense_names_its_field(fields: dict[str, Any], problem: str) -> None:
    """Before anything is sent."""
    with pytest.raises(RequestRejected, match=problem) as caught:
        listed(**fields)
    assert caught.value.field == next(iter(fields))


def test_a_tail_has_one_beginning() -> None:
    """And its numbers have limits."""
    with pytest.raises(RequestRejected, match="last: cannot be given together with since"):
        tail_request(1, 1)
    with pytest.raises(RequestRejected, match="last: -1 is not from 0"):
        tail_request(None, -1)


def test_an_unknown_filter_is_an_error() -> None:
    """As for any function."""
    with pytest.raises(TypeError, match="level"):
        listed(level="INFO")
