"""`emitd serve` and `emitd check-config`."""

import argparse
import json
from pathlib import Path

import msgspec

from emitd_cli.errors import ExitCode
from emitd_cli.terminal.output import one_line, print_result
from emitd_handlers.diagnostics import report
from emitd_server.config.loader import load_config
from emitd_server.errors import ConfigError

DEFAULT_FILE = Path("logging_config.yml")


def config_file(options: argparse.Namespace) -> Path | None:
    """Return the file that --config names, or the default one; None: there is neither, so built-in defaults count."""
    return Path(options.config) if options.config else DEFAULT_FILE if DEFAULT_FILE.exists() else None


def run_serve(options: argparse.Namespace) -> int:
    """Load the configuration and serve; return the exit code."""
    # Loaded here: check-config needs no server.
    from emitd_server.process import run as run_process

    path = config_file(options)
    try:
        config = load_config(path, listen=options.listen)
    except ConfigError as error:
        for problem in error.problems:
            report(f"configuration: {problem}")
        return ExitCode.BAD_CONFIGURATION
    report(f"runs on {path or 'built-in defaults: there is no logging_config.yml in this folder'}")
    return run_process(config)


def run_check(options: argparse.Namespace) -> int:
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
        names = ", ".join(entry.name for entry in config.handlers)
        print_result(one_line(f"{options.file}: good; active handlers: {names}"))
    return ExitCode.BAD if problems else ExitCode.GOOD
