"""The examples beside the Python client, loaded and run inside the test's own process."""

import importlib
import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from unittest import mock

EXAMPLES = Path(__file__).parents[3] / "clients/python/examples"


def load_example(name: str) -> ModuleType:
    """Import an example with its folder on the path, as it is when the example is run."""
    with mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
        return importlib.import_module(name)


def run_example(name: str, *arguments: str) -> tuple[int, str, str]:
    """Run an example; return its exit code, standard output and standard error."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = load_example(name).main(list(arguments))
    return code, stdout.getvalue(), stderr.getvalue()
