"""Times as an audit line has them."""

import pytest

from emitd_handlers.text.times import format_time, parse_time


@pytest.mark.parametrize(
    ("unix_nano", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (99_999_999, "1970-01-01T00:00:00.099999999Z"),
        (100_000_000, "1970-01-01T00:00:00.100000000Z"),
        (999_999_999, "1970-01-01T00:00:00.999999999Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
        (2**64 - 1, "2554-07-21T23:34:33.709551615Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (-62_135_596_800_000_000_000, "0001-01-01T00:00:00.000000000Z"),
        (253_402_300_799_999_999_999, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_are_iso_8601_with_nanoseconds(unix_nano: int, text: str) -> None:
    """Any time that a sender can give, however far away, is spelt in UTC to the nanosecond, and read again."""
    assert format_time(unix_nano) == text
    assert parse_time(text) == unix_nano


@pytest.mark.parametrize("step", [1, -1])
def test_each_second_begins_and_ends_right(step: int) -> None:
    """Times that follow each other over the bounds of seconds, either way, are spelt right."""
    first, last = 7_000_000_000, 6_999_999_999
    spelt = {first: "1970-01-01T00:00:07.000000000Z", last: "1970-01-01T00:00:06.999999999Z"}
    for unix_nano in [last, first][::step]:
        assert format_time(unix_nano) == spelt[unix_nano]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-23T03:39:00Z",
        "2026-11-23T03:39:00.123Z",
        "2026-11-23 03:39:00.123456789Z",
        "2026-11-23T03:39:00.123456789+",
        "2026-11-23T03:39:00,123456789Z",
        "2026-11-23T03:39:00.12345678\u0669Z",
        "2026-11-23T03:39:00.+23456789Z",
        "2026-02-30T03:39:00.123456789Z",
        "2026-11-23T03:39:00.1234567890Z",
    ],
)
def test_other_spellings_of_times_are_refused(text: str) -> None:
    """What `format_time` does not write, `parse_time` does not read."""
    with pytest.raises(ValueError, match=r"time|day"):
        parse_time(text)
