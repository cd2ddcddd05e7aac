"""Who imports whom, what each door loads, and what each exports."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from google.protobuf.descriptor import FileDescriptor

import emitd
import emitd_server
from emitd import v1
from emitd.v1 import audit_service_pb2, job_pb2, log_line_pb2, log_service_pb2, record_pb2
from emitd_handlers import __all__ as handlers_exports

ROOT = Path(__file__).parents[2]
SOURCES = ("clients/python", "handlers", "server")
EMITD_EXPORTS = [
    "AsyncJobReporter",
    "AsyncLogClient",
    "AsyncLogger",
    "AuditNotFound",
    "ClientNotOpen",
    "EmitError",
    "JobNotApplied",
    "JobNotFound",
    "JobReporter",
    "LeaseLost",
    "LogClient",
    "Receipt",
    "ReceiptState",
    "RecordRejected",
    "RequestRejected",
    "Unavailable",
    "VerificationFailed",
    "log_context",
    "v1",
]
#: Those that need the stubs.
SENDING = {"AsyncLogClient", "JobReporter", "LogClient", "v1"}
V1_EXPORTS = [
    "DELIVERY_COMMITTED",
    "DELIVERY_QUEUED",
    "DELIVERY_UNSPECIFIED",
    "JOB_STATE_COMPLETED",
    "JOB_STATE_FAILED",
    "JOB_STATE_QUEUED",
    "JOB_STATE_RUNNING",
    "JOB_STATE_UNSPECIFIED",
    "LEVEL_AUDIT",
    "LEVEL_CRITICAL",
    "LEVEL_DEBUG",
    "LEVEL_ERROR",
    "LEVEL_INFO",
    "LEVEL_JOB_STATUS",
    "LEVEL_UNSPECIFIED",
    "LEVEL_WARNING",
    "AuditEntry",
    "AuditEvent",
    "AuditReceipt",
    "AuditServiceServicer",
    "AuditServiceStub",
    "Delivery",
    "EmitBatchRequest",
    "EmitBatchResponse",
    "EmitRequest",
    "EmitResponse",
    "GetCheckpointRequest",
    "GetCheckpointResponse",
    "GetConsistencyProofRequest",
    "GetConsistencyProofResponse",
    "GetInclusionProofRequest",
    "GetInclusionProofResponse",
    "GetJobRequest",
    "GetJobResponse",
    "HandlerReceipt",
    "Job",
    "JobChange",
    "JobNotice",
    "JobReceipt",
    "JobState",
    "JobStatus",
    "JobTransition",
    "Level",
    "ListAuditEventsRequest",
    "ListAuditEventsResponse",
    "ListJobTransitionsRequest",
    "ListJobTransitionsResponse",
    "ListJobsRequest",
    "ListJobsResponse",
    "ListLogsRequest",
    "ListLogsResponse",
    "LogFilter",
    "LogLine",
    "LogRecord",
    "LogServiceServicer",
    "LogServiceStub",
    "Receipt",
    "RecordError",
    "RequestCancelRequest",
    "RequestCancelResponse",
    "TailAuditEventsRequest",
    "TailAuditEventsResponse",
    "TailLogsRequest",
    "TailLogsResponse",
    "WatchJobRequest",
    "WatchJobResponse",
    "WatchJobsRequest",
    "WatchJobsResponse",
]
SERVER_EXPORTS = ["ConfigError", "InProcessClient", "LoggingService", "load_config"]
HANDLERS_EXPORTS = [
    "COMMON_LEVELS",
    "AuditBatch",
    "AuditDamaged",
    "AuditEntry",
    "AuditEvent",
    "AuditFilter",
    "AuditNotFound",
    "AuditPage",
    "AuditQuery",
    "AuditQueryInvalid",
    "AuditReceipt",
    "AuditSource",
    "BaseLogHandler",
    "Committed",
    "CommittedSettings",
    "ConsistencyProof",
    "Delivery",
    "EmitResult",
    "EmitdError",
    "HandlerBusy",
    "HandlerError",
    "HandlerSettings",
    "HandlerTimeout",
    "HandlerUnavailable",
    "InclusionProof",
    "Job",
    "JobChange",
    "JobFilter",
    "JobPage",
    "JobQuery",
    "JobQueryInvalid",
    "JobReceipt",
    "JobSource",
    "JobState",
    "JobStatus",
    "JobTransition",
    "JobUpdate",
    "Level",
    "LogRecord",
    "ManagedJobSource",
    "Outcome",
    "OverflowPolicy",
    "Payload",
    "QueuedSettings",
    "Receipt",
    "RecentCommit",
    "RecordConflict",
    "RecordInvalid",
    "Refused",
    "RetryableError",
    "SignedCheckpoint",
    "TransitionPage",
    "TransitionQuery",
]


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run import-linter on the packages in a copy of the tree."""
    path = ":".join(str(folder / source) for source in SOURCES)
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{statement}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages and of the contracts on their imports."""
    for source in SOURCES:
        shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_one_way(copy: Path) -> None:
    """Every contract on imports holds."""
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("handlers/emitd_handlers/text/escape.py", "import grpc"),
        ("handlers/emitd_handlers/text/escape.py", "import google.protobuf"),
        ("handlers/emitd_handlers/text/escape.py", "import emitd.v1"),
        ("handlers/emitd_handlers/text/escape.py", "import emitd_server.rpc.status"),
        ("server/emitd_server/rpc/status.py", "import emitd_cli.main"),
        ("server/emitd_server/rpc/status.py", "import emitd"),
        ("server/emitd_server/rpc/status.py", "import emitd.client"),
        ("clients/python/emitd/client.py", "import emitd_handlers"),
        ("clients/python/emitd/client.py", "import emitd_server.rpc.status"),
    ],
)
def test_an_import_the_other_way_is_found(file: str, statement: str, copy: Path) -> None:
    """An import against the one direction breaks a contract."""
    (copy / "clients/python/emitd/client.py").touch()
    with (copy / file).open("a") as code:
        code.write(f"\n{statement}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


def test_importing_emitd_alone_costs_nothing() -> None:
    """`import emitd` loads neither grpc nor protobuf nor the stubs."""
    assert {"emitd"} == {name for name in loaded_by("import emitd") if name.startswith("emitd")}
    assert loaded_by("import emitd").isdisjoint({"grpc", "google.protobuf", "msgspec"})


def test_the_stubs_load_no_server() -> None:
    """`import emitd.v1` loads grpc, and nothing that the client has no use for."""
    loaded = loaded_by("import emitd.v1")
    assert "grpc" in loaded
    assert loaded.isdisjoint(
        {"aiosqlite", "emitd_cli", "emitd_handlers", "emitd_server", "msgspec", "rich", "sqlite3", "yaml"}
    )


def test_the_interface_and_the_errors_load_no_stubs() -> None:
    """Whoever only names `AsyncLogger` and the errors loads neither grpc nor protobuf, nor the server."""
    names = ", ".join(name for name in EMITD_EXPORTS if name not in SENDING)
    loaded = loaded_by(f"from emitd import {names}")
    assert {"emitd.errors", "emitd.interface"} <= loaded
    assert loaded.isdisjoint({"emitd.v1", "emitd_server", "google.protobuf", "grpc", "msgspec"})


def test_the_clients_load_no_integration() -> None:
    """A client loads all that sends, the spool too; frameworks, `logging`'s handler and the contract only when used."""
    loaded = loaded_by("from emitd import AsyncLogClient, JobReporter, LogClient; LogClient(source='x')")
    assert {"emitd.client", "emitd.async_client", "grpc", "sqlite3"} <= loaded
    assert loaded.isdisjoint(
        {
            "aiosqlite",
            "emitd.logging",
            "emitd_handlers.base",
            "emitd_server",
            "fastapi",
            "opentelemetry",
            "structlog",
        }
    )


def test_a_service_without_clients_loads_no_stubs() -> None:
    """`LoggingService` can be used without grpc and protobuf until somebody asks it for a client."""
    loaded = loaded_by("from emitd_server import LoggingService")
    assert loaded.isdisjoint({"emitd.v1", "google.protobuf", "grpc"})
    with pytest.raises(AttributeError, match="'emitd_server' has no attribute 'Service'"):
        _ = emitd_server.Service
    assert "LoggingService" in dir(emitd_server)


def test_who_calls_is_found_out_without_the_extra_for_jwt() -> None:
    """PyJWT and what it needs are loaded only for a configuration with an issuer."""
    assert loaded_by("import emitd_server.access.authenticator").isdisjoint({"cryptography", "jwt"})


def test_handlers_load_neither_grpc_nor_protobuf() -> None:
    """No module of `emitd_handlers` loads grpc or protobuf; the package itself loads no driver either."""
    assert loaded_by("import emitd_handlers").isdisjoint({"aiosqlite", "google.protobuf", "grpc", "yaml"})
    names = sorted(path.stem for path in (ROOT / "handlers/emitd_handlers").glob("[!_]*.py"))
    loaded = loaded_by("import " + ", ".join(f"emitd_handlers.{name}" for name in names))
    assert {f"emitd_handlers.{name}" for name in names} <= loaded
    assert loaded.isdisjoint({"emitd", "google.protobuf", "grpc"})


def test_the_stubs_are_loaded_when_they_are_asked_for() -> None:
    """`emitd.v1` is there without an import of its own; another name is an AttributeError that says so."""
    assert "emitd.v1.record_pb2" in loaded_by("import emitd\nemitd.v1.LogRecord")
    with pytest.raises(AttributeError, match="'emitd' has no attribute 'v2'"):
        _ = emitd.v2
    assert "v1" in dir(emitd)


@pytest.mark.parametrize("package", ["emitd", "emitd_cli", "emitd_handlers", "emitd_server"])
def test_each_package_says_that_it_is_typed(package: str) -> None:
    """`py.typed` stands in each package, so that users' type checkers read our types."""
    file = importlib.import_module(package).__file__
    assert file is not None
    assert (Path(file).parent / "py.typed").is_file()


def test_the_exports_change_only_on_purpose() -> None:
    """Each door exports exactly the names that are frozen here, and each name is there."""
    assert emitd.__all__ == EMITD_EXPORTS
    assert v1.__all__ == V1_EXPORTS
    assert handlers_exports == HANDLERS_EXPORTS
    assert emitd_server.__all__ == SERVER_EXPORTS
    for module, names in (
        ("emitd", EMITD_EXPORTS),
        ("emitd.v1", V1_EXPORTS),
        ("emitd_handlers", HANDLERS_EXPORTS),
        ("emitd_server", SERVER_EXPORTS),
    ):
        assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []


def contract_names(file: FileDescriptor) -> set[str]:
    """The names of a proto's messages, enums and enum values."""
    values = {value for enum in file.enum_types_by_name.values() for value in enum.values_by_name}
    return {*file.message_types_by_name, *file.enum_types_by_name, *values}


def test_the_stubs_door_has_the_whole_contract() -> None:
    """Every message, enum and enum value of the protos is exported by `emitd.v1`."""
    files = (
        record_pb2.DESCRIPTOR,
        job_pb2.DESCRIPTOR,
        log_line_pb2.DESCRIPTOR,
        log_service_pb2.DESCRIPTOR,
        audit_service_pb2.DESCRIPTOR,
    )
    assert set().union(*map(contract_names, files)) == set(V1_EXPORTS) - {
        "AuditServiceServicer",
        "AuditServiceStub",
        "LogServiceServicer",
        "LogServiceStub",
    }


def test_no_import_circle() -> None:
    """Also none of imports within functions; those for type checkers only do not count."""
    graph = grimp.build_graph(
        "emitd", "emitd_handlers", "emitd_server", "emitd_cli", exclude_type_checking_imports=True
    )
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while ready := [module for module, needed in imports.items() if not needed & imports.keys()]:
        for module in ready:
            del imports[module]
    assert not imports, f"a circle is among {sorted(imports)}"
