"""Moments, as flags give them and as tables show them."""

import pytest

from emitd_cli.command_line.values import iso_time, moment_from_flag
from emitd_cli.errors import Misuse

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND + 7


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h30m", 9000), ("7d", 604_800), ("1d1h1m1s", 90_061), ("0s", 0)],
)
def test_a_time_ago(text: str, seconds: int) -> None:
    """Counts back from now, to the nanosecond."""
    assert moment_from_flag("--f", text, NOW) == NOW - seconds * SECOND


def test_a_time_ago_before_1970_is_all_there_is() -> None:
    """Nobody needs to work out how many days that were."""
    assert moment_from_flag("--f", "999999999d", NOW) == 0


@pytest.mark.parametrize(
    ("text", "unix_nano"),
    [
        ("2001-09-09T01:46:40Z", 1_000_000_000 * SECOND),
        ("2001-09-09T01:46:40", 1_000_000_000 * SECOND),
        ("2001-09-09 03:46:40+02:00", 1_000_000_000 * SECOND),
        ("2001-09-09T01:46:40.123457Z", 1_000_000_000 * SECOND + 123_457_000),
        ("2001-09-09", 999_993_600 * SECOND),
        ("1970-01-01", 0),
    ],
)
def test_a_time_in_iso_8601(text: str, unix_nano: int) -> None:
    """It is UTC where it does not say, and no digit of a microsecond is lost."""
    assert moment_from_flag("--f", text) == unix_nano


@pytest.mark.parametrize(
    "text", ["", "soon", "15", "m", "-15m", "15 m", "15m2h", "2026-13-01", "yesterday", "١٥m"]
)
def test_what_is_no_moment(text: str) -> None:
    """The flag, what was found and both forms are told."""
    with pytest.raises(Misuse, match=f"--f: '{text}' is neither a time, .* nor a time ago, ") as raised:
        moment_from_flag("--f", text)
    assert raised.value.field == "--f"


@pytest.mark.parametrize("text", ["1969-12-31", "2555-01-01", "9999-12-31"])
def test_a_time_that_the_contract_cannot_say(text: str) -> None:
    """Is refused here, instead of as a number out of range."""
    with pytest.raises(Misuse, match="before 1970 or after 2554"):
        moment_from_flag("--f", text)


def test_no_time_at_all() -> None:
    """Is a dash, so that columns stay columns."""
    assert iso_time(0) == "-"
    assert iso_time(1_000_000_000_999_999_999) == "2001-09-09T01:46:40Z"
