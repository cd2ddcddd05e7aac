"""The names and numbers of levels and of job states; and which level is meant by one of Python's `logging`.

The levels of log lines are DEBUG to CRITICAL. Their numbers are the same in Python and in `emitd.v1.Level`.
"""

import sys
from collections.abc import Mapping

_DEBUG, _INFO, _CRITICAL = 10, 20, 50
#: Of `emitd.v1.Level`; the first five are levels of log lines.
LEVELS: Mapping[str, int] = {
    "DEBUG": _DEBUG,
    "INFO": _INFO,
    "WARNING": 30,
    "ERROR": 40,
    "CRITICAL": _CRITICAL,
    "AUDIT": 60,
    "JOB_STATUS": 70,
}
#: Of `emitd.v1.JobState`.
JOB_STATES: Mapping[str, int] = {"QUEUED": 1, "RUNNING": 2, "COMPLETED": 3, "FAILED": 4}
_LEVEL_NAMES = {number: name for name, number in LEVELS.items()}
_JOB_STATE_NAMES = {number: name for name, number in JOB_STATES.items()}

_NUMBERS: Mapping[str | int, int] = {
    key: number for pair in LEVELS.items() if (number := pair[1]) <= _CRITICAL for key in pair
}
#: Python's other names of these.
_ALIASES: Mapping[str, int] = {"WARN": 30, "FATAL": _CRITICAL}


def level_name(number: int) -> str:
    """Return the name of a number of `emitd.v1.Level`; of another number, its digits."""
    return _LEVEL_NAMES.get(number, str(number))


def job_state_name(number: int) -> str:
    """Return the name of a number of `emitd.v1.JobState`; of another number, its digits."""
    return _JOB_STATE_NAMES.get(number, str(number))


def is_level(level: object) -> bool:
    """Return whether this is the name, in capitals, or the number of one of the five."""
    return isinstance(level, str | int) and level in _NUMBERS


def level_number(level: object) -> int:
    """Return the number of the one of the five that is meant. Never raises.

    Another number means the next lower one; below 10 it is DEBUG, above 50 CRITICAL. Names may be in small letters, and
    those given to `logging.addLevelName` mean their number. Anything else is INFO.
    """
    if isinstance(level, str):
        upper = level.upper()
        if number := _NUMBERS.get(upper) or _ALIASES.get(upper):
            return number
        # Not imported for this: where nobody else did, it has no further names.
        if (logging := sys.modules.get("logging")) is not None:
            numbers = map(logging.getLevelName, (level, upper))
            level = next((number for number in numbers if isinstance(number, int)), _INFO)
    if isinstance(level, int):
        return min(max(level // 10 * 10, _DEBUG), _CRITICAL)
    return _INFO
