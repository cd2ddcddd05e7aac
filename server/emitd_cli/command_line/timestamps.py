"""Moments: as flags give them, and as tables show them."""

import re
import time
from datetime import UTC, datetime, timedelta

from emitd_cli.errors import Misuse

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The largest value of a fixed64.
MAX_UNIX_NANO = 2**64 - 1


def moment_from_flag(flag: str, text: str, now_unix_nano: int | None = None) -> int:
    """Return a moment in nanoseconds since 1970: ISO 8601 (UTC where it does not say), or a time ago. Raises Misuse."""
    now = time.time_ns() if now_unix_nano is None else now_unix_nano
    duration = _DURATION.fullmatch(text)
    if text and duration is not None:
        seconds = sum(
            int(count or 0) * unit for count, unit in zip(duration.groups(), _UNITS.values(), strict=True)
        )
        # What lies before 1970 is before all there is.
        return max(now - seconds * 1_000_000_000, 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misuse(
            f"{flag}: '{text}' is neither a time, such as 2026-11-23T08:00, nor so long ago, such as 15m or 2h30m",
            field=flag,
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    unix_nano = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 <= unix_nano <= MAX_UNIX_NANO:
        raise Misuse(f"{flag}: '{text}' lies before 1970 or after 2554", field=flag)
    return unix_nano


def iso_time(unix_nano: int) -> str:
    """Return a moment in ISO 8601, to the second, in UTC; `-` for none."""
    if not unix_nano:
        return "-"
    return datetime.fromtimestamp(unix_nano // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(unix_nano: int, now_unix_nano: int) -> str:
    """Return how long ago a moment was, in its largest unit: `3 h ago`; `-` for none."""
    if not unix_nano:
        return "-"
    seconds = (now_unix_nano - unix_nano) // 1_000_000_000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "now"  # also where the clocks of two machines differ
