"""The programs of other languages and the environment of the protos, for tests that need them.

If one is missing, the test is skipped with the reason; with `CI=true` in the environment it fails.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["ROOT", "proto_python", "require", "run"]

ROOT = Path(__file__).parents[3]


def require(program: str) -> str:
    """Return the path of a program that is on PATH."""
    return shutil.which(program) or _missing(f"there is no {program} on PATH")


def proto_python() -> Path:
    """Return the interpreter that has grpcio-tools and buf, setting up its environment where needed."""
    if not (ROOT / ".venv-proto" / ".ready").exists():
        run([require("make"), ".venv-proto/.ready"], ROOT)
    return ROOT / ".venv-proto" / "bin" / "python"


def run(command: Sequence[str | Path], folder: Path, environ: Mapping[str, str] | None = None) -> str:
    """Run a command that must succeed; return its standard output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
