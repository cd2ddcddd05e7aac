"""How commands end; the same everywhere."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit code of a command means."""

    GOOD = 0
    #: The thing looked at is bad: a job FAILED, a file is wrong, a record was refused.
    BAD = 1
    #: The command was called wrongly.
    MISUSE = 2
    #: `serve`: the configuration is bad.
    BAD_CONFIGURATION = 3
    #: It cannot be told, or the server cannot be reached.
    CANNOT_TELL = 4
    #: `serve`: the service could not start or run.
    CANNOT_RUN = 5
    #: Ended by Ctrl-C.
    INTERRUPTED = 130
