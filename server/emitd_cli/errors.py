"""Why a command ends without having done what it should.

CommandError            the message is one line: what is wrong, and what to do
├── Misuse              the command was called wrongly
└── CannotTell          the server did not say, or cannot be reached
"""

from emitd_cli.exit_codes import ExitCode

__all__ = ["CannotTell", "CommandError", "Misuse"]


class CommandError(Exception):
    """Ends the command with `exit_code`."""

    exit_code = ExitCode.BAD


class Misuse(CommandError):
    """The command was called wrongly."""

    exit_code = ExitCode.MISUSE


class CannotTell(CommandError):
    """The server did not say, or cannot be reached."""

    exit_code = ExitCode.CANNOT_TELL
