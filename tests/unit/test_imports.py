"""What may import what, what an import loads, and what the doors of the stubs offer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import emitd
import emitd.v1
import pytest
from emitd.v1 import job_pb2, log_service_pb2, record_pb2

ROOT = Path(__file__).parents[2]
SOURCES = ("server", "handlers", "clients/python")


def loaded_by(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter; return the top-level packages that it has loaded."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(done.stdout)
    return {module.partition(".")[0] for module in modules} | {
        module for module in modules if module.startswith("google.")
    }


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the import contracts of pyproject.toml over the sources below `root`."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(root / source) for source in SOURCES)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_one_way() -> None:
    """The import contracts hold for the code as it stands."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("handlers/emitd_handlers/record.py", "import grpc"),
        ("handlers/emitd_handlers/record.py", "import google.protobuf"),
        ("handlers/emitd_handlers/record.py", "import emitd.v1"),
        ("handlers/emitd_handlers/record.py", "import emitd_server.errors"),
        ("server/emitd_server/errors.py", "import emitd_cli.main"),
        ("server/emitd_server/errors.py", "import emitd"),
        ("server/emitd_server/errors.py", "import emitd.client"),
        ("clients/python/emitd/client.py", "import emitd_handlers"),
        ("clients/python/emitd/client.py", "import emitd_server.errors"),
    ],
)
def test_an_import_the_wrong_way_is_found(tmp_path: Path, file: str, statement: str) -> None:
    """Each arrow of the design is held: one import against it breaks a contract."""
    for source in SOURCES:
        shutil.copytree(ROOT / source, tmp_path / source)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "clients/python/emitd/client.py").touch()
    with (tmp_path / file).open("a") as code:
        code.write(f"\n{statement}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_the_base_import_is_light() -> None:
    """Importing the client and the stubs loads neither the server, nor a handler, nor their drivers."""
    assert loaded_by("import emitd, emitd.v1").isdisjoint(
        {"yaml", "aiosqlite", "sqlite3", "rich", "emitd_server", "emitd_handlers", "emitd_cli"}
    )
    assert loaded_by("import emitd").isdisjoint({"grpc", "google.protobuf"})


def test_handlers_need_no_grpc() -> None:
    """The handler contract and every built-in handler load neither grpc nor protobuf."""
    modules = "base, console, database_job, discard, json_audit, testing"
    loaded = loaded_by(f"import emitd_handlers\nfrom emitd_handlers import {modules}")
    assert loaded.isdisjoint({"grpc", "google.protobuf", "emitd"})


def test_the_package_loads_its_parts_when_asked() -> None:
    """`emitd` offers what its `__all__` lists, and nothing else."""
    assert all(name in dir(emitd) and getattr(emitd, name) for name in emitd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'v2'"):
        _ = emitd.v2  # type: ignore[attr-defined]


def test_the_stubs_offer_the_whole_contract() -> None:
    """`emitd.v1` exports every message, enum, enum value and service stub of the contract, and nothing else."""
    expected = set()
    for module in (record_pb2, job_pb2, log_service_pb2):
        file = module.DESCRIPTOR
        expected |= {*file.message_types_by_name, *file.enum_types_by_name}
        expected |= {value for enum in file.enum_types_by_name.values() for value in enum.values_by_name}
        for service in file.services_by_name:
            expected |= {f"{service}Stub", f"{service}Servicer"}
    assert set(emitd.v1.__all__) == expected
    assert all(hasattr(emitd.v1, name) for name in expected)
