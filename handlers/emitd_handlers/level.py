"""`Level`: how important a record is, and which kind it is of."""

from enum import IntEnum


class Level(IntEnum):
    """How important a record is; the common five have the numbers of Python's `logging`."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50
    AUDIT = 60
    JOB_STATUS = 70

    # Enum's own hash is a Python function; levels are looked up for each record.
    __hash__ = int.__hash__
