"""Times as an audit line has them: ISO 8601, UTC, with nine decimals. Pure."""

from datetime import datetime, timedelta
from functools import lru_cache

_NANOS_PER_SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1)


def format_time(unix_nano: int) -> str:
    """Return nanoseconds since 1970-01-01T00:00:00Z in ISO 8601, UTC, with nine decimals.

    Raises OverflowError outside of the years 1 to 9999.
    """
    # Hot path: nearly all times are of one second, that of now.
    start, prefix = _second
    nanos = unix_nano - start
    if not 0 <= nanos < _NANOS_PER_SECOND:
        start, prefix = _remember_second(unix_nano // _NANOS_PER_SECOND)
        nanos = unix_nano - start
    if nanos > 99_999_999:  # nothing to pad, which would take as long as all the rest
        return f"{prefix}{nanos}Z"
    return f"{prefix}{str(nanos).zfill(9)}Z"


#: The second last formatted: its start in nanoseconds, and the text before the decimals. Always replaced as
#: one, so that threads may meet here.
_second = (0, "1970-01-01T00:00:00.")


def _remember_second(second: int) -> tuple[int, str]:
    global _second
    _second = (second * _NANOS_PER_SECOND, _format_second(second))
    return _second


@lru_cache(maxsize=1024)
def _format_second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat() + "."


def parse_time(text: str) -> int:
    """Return the nanoseconds that `format_time` made `text` of. Raises ValueError for any other text."""
    nanos = text[20:29]
    if len(text) == 30 and text[19] == "." and text[29] == "Z" and text.isascii() and nanos.isdigit():
        return _parse_second(text[:19]) + int(nanos)
    raise ValueError(f"'{text}' is not a time in UTC with nine decimals")


@lru_cache(maxsize=1024)
def _parse_second(text: str) -> int:
    since_epoch = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S") - _EPOCH
    return (since_epoch.days * 86_400 + since_epoch.seconds) * _NANOS_PER_SECOND
