"""A command of `emitd` run inside the test's own process."""

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from emitd_cli.main import main


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run_main(*arguments: str) -> Done:
    """Run `emitd ARGUMENTS`, with nothing on standard input."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
    return Done(int(code), stdout.getvalue(), stderr.getvalue())
