"""The entry point: parses the command line, hands over to the command's module, and ends as it says.

Each command's module is imported when it is called, so that `emitd --help` is quick and `emitd emit` needs no
server.
"""

import importlib
import io
import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from emitd_cli.arguments import make_parser
from emitd_cli.errors import CommandError
from emitd_cli.exit_codes import ExitCode
from emitd_cli.output import say

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name; return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no letter for a character gets an escape instead of an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(make_parser().parse_args(arguments))
        finally:
            sys.stdout.flush()
    except CommandError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough; what is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.GOOD


def _run(options: Namespace) -> int:
    try:
        module = importlib.import_module(f"emitd_cli.{options.module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("emitd"):
            raise
        say(f"there is no module '{error.name}'; pip install 'emitd[server]' brings it")
        return ExitCode.CANNOT_RUN
    return int(module.run(options))
