"""The entry point: parses the command line, runs the command, and returns its exit code.

A command's module is imported when the command runs, so that `emitd --help` is quick and `emitd emit` needs no server.
"""

import importlib
import io
import sys
from argparse import Namespace
from collections.abc import Sequence
from itertools import takewhile

from emitd_cli.arguments import make_parser
from emitd_cli.errors import CannotRun, CannotTell, CommandError, ExitCode
from emitd_cli.terminal.output import discard_output, set_json, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks becomes an escape instead of an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Before parsing, so that errors of parsing are JSON as well.
    set_json("--json" in takewhile(lambda argument: argument != "--", arguments))
    try:
        try:
            code = _run(make_parser().parse_args(arguments))
        finally:
            _flush()
    except CommandError as error:
        tell(str(error), code=error.code, field=error.field)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return ExitCode.GOOD
    return code


def _run(options: Namespace) -> int:
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


def _flush() -> None:
    """Write out what was printed. A closed pipe does not change the exit code."""
    try:
        if sys.stdout is not None:  # None if the process was started without one
            sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        raise CannotTell(f"standard output cannot be written: {error.strerror}") from error
