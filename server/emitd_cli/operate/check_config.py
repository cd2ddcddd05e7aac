"""`emitd check-config`."""

import argparse
import json
from pathlib import Path

import msgspec

from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import print_result
from emitd_handlers.diagnostics import report
from emitd_server.config.loader import load_config
from emitd_server.errors import ConfigError


def run(options: argparse.Namespace) -> int:
    """Print every problem of the file; return 0 if there is none, else 1.

    That the file cannot be read is a problem like any other.
    """
    try:
        config = load_config(Path(options.file))
    except ConfigError as error:
        problems = error.problems
    else:
        problems = []
        for note in config.notes:
            report(f"configuration: {note}")
    if options.json:
        print_result(json.dumps([msgspec.to_builtins(problem) for problem in problems]))
    elif problems:
        print_result("\n".join(map(str, problems)))
    else:
        print_result(
            f"{options.file}: good; active handlers: {', '.join(entry.name for entry in config.handlers)}"
        )
    return ExitCode.BAD if problems else ExitCode.GOOD
