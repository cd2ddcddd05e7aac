"""What a test needs beyond Python's own packages: a compiler, a runtime, an environment of its own."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
#: The interpreter that generates stubs and runs buf; `make test-slow` sets it up.
PROTO_PYTHON = ROOT / ".venv-proto" / "bin" / "python"


def missing(what: str, cure: str) -> NoReturn:
    """Skip the test and say why; where CI is true, fail: there, everything must run."""
    reason = f"{what} is missing: {cure}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_program(name: str) -> str:
    """Return the path of a program, or skip the test."""
    path = shutil.which(name)
    return path or missing(name, "install it to run this test")


def require_proto_python() -> str:
    """Return the interpreter of the environment for protos, or skip the test."""
    if not PROTO_PYTHON.exists():
        missing(str(PROTO_PYTHON.relative_to(ROOT)), "make test-slow sets it up")
    return str(PROTO_PYTHON)
