"""The entry point: parses the command line, runs the command, and returns its exit code.

A command's module is imported when the command runs, so that `emitd --help` is quick and `emitd emit` needs no server.
Whatever a command raises ends here, in one line: exit code 1 is left to verdicts.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

from emitd_cli.arguments import make_parser
from emitd_cli.errors import CannotRun, CannotTell, CommandError, ExitCode
from emitd_cli.terminal.output import note_lines, set_json, tell
from emitd_cli.terminal.streams import prepare_streams, writing_to


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name; return its exit code. Raises nothing."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Before parsing, so that errors of parsing are JSON as well.
    set_json("--json" in takewhile(lambda argument: argument != "--", arguments))
    try:
        prepare_streams()
        try:
            return _run(arguments)
        finally:
            for stream in (sys.stderr, sys.stdout):
                with suppress(BrokenPipeError), writing_to(stream):
                    stream.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.GOOD
    except BaseException as error:
        end = error if isinstance(error, CommandError) else _unforeseen(error)
        tell(str(end), code=end.code, field=end.field)
        return end.exit_code


def _run(arguments: Sequence[str]) -> int:
    try:
        options = make_parser().parse_args(arguments)
    except SystemExit:  # from --help and --version; the parser raises Misuse for errors
        return ExitCode.GOOD
    # grpc has lines of its own, such as one for each handshake that failed; it reads this once.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    module, _, function = options.run.partition(":")
    try:
        run = getattr(importlib.import_module(f"emitd_cli.{module}"), function)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not options.extra or missing.startswith("emitd"):
            raise
        raise CannotRun(
            f"there is no module '{missing}'; install emitd with the extra [{options.extra}]"
        ) from error
    return int(run(options))


def _unforeseen(error: BaseException) -> CommandError:
    """Return what ends the command for an error that no command has foreseen; with EMITD_DEBUG show where it was."""
    from traceback import format_exception, format_exception_only

    if os.environ.get("EMITD_DEBUG"):
        note_lines("".join(format_exception(error)).strip())
    message = "".join(format_exception_only(error)).strip() + " (not foreseen; EMITD_DEBUG=1 shows where)"
    # A file or a connection that fails is not the command's fault.
    return CannotTell(message) if isinstance(error, OSError) else CannotRun(message)
