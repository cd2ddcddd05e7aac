"""Why a command ends without having done what it should, and with which exit code."""

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
    #: The command cannot tell, or cannot reach the server.
    CANNOT_TELL = 4
    #: `serve`: the service could not start or run.
    CANNOT_RUN = 5
    #: Ended by Ctrl-C.
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command with `exit_code`. The message is one line: what is wrong, and what to do.

    `code` is a word for programs: MISUSE and the like, or the name of the status by which the server answered.
    `field` is the flag or the record's field that is wrong, or empty; the message names it as well.
    """

    exit_code = ExitCode.BAD
    default_code = "BAD"

    def __init__(self, message: str, *, code: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.field = field


class Misuse(CommandError):
    """The command was called wrongly."""

    exit_code = ExitCode.MISUSE
    default_code = "MISUSE"


class Refused(CommandError):
    """The server has looked at the record that was sent, and refuses it."""

    default_code = "REFUSED"


class CannotTell(CommandError):
    """The server did not say, or cannot be reached."""

    exit_code = ExitCode.CANNOT_TELL
    default_code = "CANNOT_TELL"


class CannotRun(CommandError):
    """Something that the command needs is missing on this machine."""

    exit_code = ExitCode.CANNOT_RUN
    default_code = "CANNOT_RUN"
