"""The releases of Python that the client is tested with, each in an environment that has the client's dependencies.

An environment is made once. A newer release that is not installed is skipped with the reason.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

__all__ = ["PYTHONS", "environ_of", "find_python", "python_for"]

ROOT = Path(__file__).parents[3]
#: The one that runs the tests, and others where found.
PYTHONS = ("", *(version for version in ("3.12", "3.13") if not sys.version.startswith(f"{version}.")))
#: The client's own requirements, and servers that fork.
REQUIREMENTS = ("grpcio", "protobuf", "googleapis-common-protos", "msgspec", "gunicorn", "celery")


def python_for(version: str) -> Path:
    """Return the interpreter of a version, "" for the one that runs the tests; skip the test where there is none."""
    if not version:
        return Path(sys.executable)
    base = find_python(version)
    if base is None:
        pytest.skip(f"there is no Python {version}")
    return _environment(ROOT / f".venv-python{version}", base)


def find_python(version: str) -> str | None:
    """Return an interpreter of that version that can make environments: this one, or one found on this machine."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    return next(filter(_runs, _candidates(version)), None)


def environ_of(python: Path, **more: str) -> Mapping[str, str]:
    """Return the environment for a program that uses the client as it stands in this tree, by that Python."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("EMITD_", "GRPC_"))
    }
    path = os.pathsep.join(str(ROOT / folder) for folder in ("clients/python", "handlers", "tests"))
    return {
        **inherited,
        "PYTHONPATH": path,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        **more,
    }


def _candidates(version: str) -> Iterator[str]:
    if found := shutil.which(f"python{version}"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True))


def _runs(python: str) -> bool:
    """Return whether it is one: pyenv has programs on PATH that only say that there is none."""
    return (
        subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode
        == 0
    )


def _environment(folder: Path, base: str) -> Path:
    """Make the environment if it does not stand there, as it is wanted now."""
    constraints = ROOT / ".ci" / "constraints.txt"
    wanted = f"{base}\n{' '.join(REQUIREMENTS)}\n{constraints.read_text()}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            install = (python, "-m", "pip", "install", "--quiet", "--constraint", constraints, *REQUIREMENTS)
            for command in ((base, "-m", "venv", folder), install):
                subprocess.run(command, check=True, timeout=300)
            ready.write_text(wanted)
    return python
