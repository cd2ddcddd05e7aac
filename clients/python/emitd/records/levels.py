"""Which of the five levels is meant by a name or number of Python's `logging`.

The five are `debug` to `critical`. Their numbers are the same in Python and in `emitd.v1.Level`.
"""

import sys
from collections.abc import Mapping

__all__ = ["is_level", "level_number"]

_DEBUG, _INFO, _CRITICAL = 10, 20, 50
_NUMBERS: Mapping[str | int, int] = {
    "DEBUG": _DEBUG,
    "INFO": _INFO,
    "WARNING": 30,
    "ERROR": 40,
    "CRITICAL": _CRITICAL,
    **{number: number for number in range(_DEBUG, _CRITICAL + 1, 10)},
}
#: Python's other names of these.
_ALIASES: Mapping[str, int] = {"WARN": 30, "FATAL": _CRITICAL}


def is_level(level: object) -> bool:
    """Return whether this is the name, in capitals, or the number of one of the five."""
    return isinstance(level, str | int) and level in _NUMBERS


def level_number(level: object) -> int:
    """Return the number of the one of the five that is meant. Never raises.

    Another number means the next lower one; below 10 it is DEBUG, above 50 CRITICAL. Names may be in small letters, and
    those given to `logging.addLevelName` mean their number. Anything else is INFO.
    """
    if isinstance(level, str):
        return _number_of_name(level)
    if isinstance(level, int):
        return min(max(level // 10 * 10, _DEBUG), _CRITICAL)
    return _INFO


def _number_of_name(name: str) -> int:
    upper = name.upper()
    number = _NUMBERS.get(upper) or _ALIASES.get(upper)
    if number is not None:
        return number
    # Not imported for this: where nobody else did, it has no further names.
    logging = sys.modules.get("logging")
    if logging is not None:
        for known in (name, upper):
            value = logging.getLevelName(known)
            if isinstance(value, int):
                return level_number(value)
    return _INFO
