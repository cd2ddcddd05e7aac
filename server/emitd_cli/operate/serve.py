"""`emitd serve`."""

import argparse
from pathlib import Path

from emitd_cli.exit_codes import ExitCode
from emitd_handlers.diagnostics import report
from emitd_server.config.loader import load_config
from emitd_server.errors import ConfigError
from emitd_server.process import run as run_process

DEFAULT_FILE = Path("logging_config.yml")


def run(options: argparse.Namespace) -> int:
    """Load the configuration and serve; return the exit code."""
    path = Path(options.config) if options.config else DEFAULT_FILE if DEFAULT_FILE.exists() else None
    try:
        config = load_config(path, listen=options.listen)
    except ConfigError as error:
        for problem in error.problems:
            report(f"configuration: {problem}")
        return ExitCode.BAD_CONFIGURATION
    if path is None:
        report("runs on built-in defaults: there is no logging_config.yml in this folder")
    else:
        report(f"runs on {path}")
    return run_process(config)
