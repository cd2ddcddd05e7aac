"""The entry point: parses the command line, hands over to the command's module, and ends as it says.

Each command's module is imported when it is called, so that `emitd --help` is quick and `emitd emit` needs no
server.
"""

import importlib
import io
import sys
from argparse import Namespace
from collections.abc import Sequence

from emitd_cli.arguments import make_parser
from emitd_cli.errors import CannotRun, CannotTell, CommandError
from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import discard_output, set_json, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that has no letter for a character gets an escape instead of an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Looked for before parsing, so that also misuse is told in JSON.
    set_json("--json" in _before_dashes(arguments))
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


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments that can be flags."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _run(options: Namespace) -> int:
    try:
        module = importlib.import_module(f"emitd_cli.{options.module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("emitd"):
            raise
        extra = "audit" if options.module.startswith("audit.") else "server"
        raise CannotRun(
            f"there is no module '{error.name}'; pip install 'emitd[{extra}]' brings it"
        ) from error
    return int(module.run(options))


def _flush() -> None:
    """Write out what was printed. How the command went stands, also when nobody reads its output any more."""
    try:
        if sys.stdout is not None:  # it is None where the process was started without
            sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        raise CannotTell(f"standard output cannot be written: {error.strerror}") from error
