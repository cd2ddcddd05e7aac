"""The wheel: what is in it, and that it runs outside the checkout, in an environment of its own."""

import json
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import grpc
import pytest

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    LEVEL_INFO,
    AuditEvent,
    EmitRequest,
    JobStatus,
    LogRecord,
    LogServiceStub,
)
from support.audit.sealed_log import SealedLog
from support.client.in_process import CHANNEL_OPTIONS
from support.processes.pythons import find_python
from support.processes.server_process import ServerProcess
from support.processes.toolchains import ROOT, run

CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
PACKAGES = ("emitd", "emitd_cli", "emitd_handlers", "emitd_server")
# Nothing of the checkout, nor of the environment that runs the tests, may help.
CLEAN = {"PYTHONPATH": "", "EMITD_LISTEN": ""}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    run(command, folder, {"PIP_CONSTRAINT": str(CONSTRAINTS)})
    (path,) = folder.glob("*.whl")
    return path


def install(requirement: str, python: str, folder: Path) -> Path:
    """Make an environment in a folder and install the requirement there; return its folder of programs."""
    run([python, "-m", "venv", str(folder / "venv")], folder, CLEAN)
    programs = folder / "venv" / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    run([*pip, requirement], folder, CLEAN)
    return programs


def emit_one_of_each(address: str) -> None:
    records = [
        LogRecord(level=LEVEL_INFO, message="from the wheel"),
        LogRecord(
            audit=AuditEvent(event_name="wheel.tried", user_id="u1", source_ip="unknown", details_json="{}")
        ),
        LogRecord(job=JobStatus(job_id="wheel-1", job_type="try", status=JOB_STATE_COMPLETED)),
    ]
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = LogServiceStub(channel)
        for record in records:
            stub.Emit(EmitRequest(record=record), timeout=10)


def test_it_holds_the_four_packages_and_nothing_else(wheel: Path) -> None:
    """The wheel has every module, its type marker and the stubs' types, and no tests or other files."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    assert {name for name in names if name.endswith("py.typed")} == {f"{name}/py.typed" for name in PACKAGES}
    for stub in ("record", "job", "log_service"):
        assert {f"emitd/v1/{stub}_pb2{end}" for end in (".py", ".pyi", "_grpc.py")} <= names
    folders = (ROOT / "clients" / "python", ROOT / "handlers", ROOT / "server")
    sources = {str(path.relative_to(folder)) for folder in folders for path in folder.glob("*/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == {
        name for name in sources if name.startswith("emitd")
    }


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_it_serves_from_built_in_defaults(minor: int, wheel: Path, tmp_path: Path) -> None:
    """In a clean environment and an empty folder `emitd serve` runs, says on what, and keeps all three kinds."""
    python = find_python(f"3.{minor}")
    if python is None:
        pytest.skip(f"no Python 3.{minor} was found")
    programs = install(f"{wheel}[server]", python, tmp_path)
    folder = tmp_path / "empty"
    folder.mkdir()
    where = run(
        [str(programs / "python"), "-c", "import emitd_server as s; print(s.__file__)"], folder, CLEAN
    )
    assert Path(where).is_relative_to(tmp_path / "venv")
    command = (str(programs / "emitd"),)
    with ServerProcess.launch(folder, "--listen", "127.0.0.1:0", environ=CLEAN, command=command) as server:
        server.wait_until_up()
        emit_one_of_each(server.address)
        server.terminate()
        assert server.wait() == 0, server.stderr
    assert "built-in defaults" in server.stderr
    assert (folder / "stdout").read_text().endswith("[INFO] from the wheel\n")
    (line,) = (folder / "logs" / "audit.json.log").read_text().splitlines()
    assert json.loads(line)["event_name"] == "wheel.tried"
    database = sqlite3.connect(folder / "logs" / "jobs.db")
    assert database.execute("SELECT job_id, status FROM job_logs").fetchall() == [("wheel-1", "COMPLETED")]
    database.close()
    (folder / "logging_config.yml").write_text(run([*command, "new-handler", "pager"], folder, CLEAN))
    assert "pager.PagerHandler" in run([*command, "handlers"], folder, CLEAN)


def test_auditors_need_one_extra(wheel: Path, tmp_path: Path) -> None:
    """With the extra `audit` and nothing of the server, a log is verified, proved, exported, and its key told."""
    emitd = str(install(f"{wheel}[audit]", sys.executable, tmp_path) / "emitd")
    log = SealedLog.make(tmp_path / "audit.json.log", 10, 40)

    def audit(*arguments: str) -> str:
        return run([emitd, "audit", *arguments], tmp_path, CLEAN)

    vkey = audit("key", str(log.path)).strip()
    assert vkey == log.vkeys[0]
    assert audit("verify", str(log.path), "--key", vkey).startswith("good: 40 lines, 2 checkpoints")
    audit("prove", "event-000007", "--log", str(log.path))
    assert "event id     event-000007" in audit("check", "event-000007.tlog-proof", "--key", vkey)
    assert "40 lines" in audit("export", "tiles", "--log", str(log.path))


@pytest.fixture(scope="module")
def base_install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel without extras."""
    return install(str(wheel), sys.executable, tmp_path_factory.mktemp("base"))


def test_the_base_install_is_the_client(base_install: Path, tmp_path: Path) -> None:
    """Without extras the stubs work, and nothing that only the server needs comes along."""
    python = str(base_install / "python")
    said = run(
        [python, "-c", "import emitd.v1 as v; print(v.LogRecord(message='m').message)"], tmp_path, CLEAN
    )
    assert said == "m\n"
    listed = json.loads(run([python, "-m", "pip", "list", "--format", "json"], tmp_path, CLEAN))
    assert {package["name"].lower() for package in listed} - {"pip", "setuptools"} == {
        "emitd",
        "googleapis-common-protos",
        "grpcio",
        "msgspec",
        "protobuf",
        "typing_extensions",
    }


CLIENT = """
import sys
import emitd
from emitd.logging import EmitdHandler
with emitd.LogClient("127.0.0.1:9", source="shop", spool=sys.argv[2], timeout=0.3) as away:
    print(away.audit("wheel.spooled", user_id="u1").state)
with emitd.LogClient(sys.argv[1], source="shop") as client:
    client.info("from the base install")
    print(client.audit("wheel.tried", user_id="u1").state)
    with client.job("wheel-1", "try", total=2) as job:
        job.advance()
    print(client.get_job("wheel-1").progress)
"""


def test_the_base_install_sends_and_spools(base_install: Path, tmp_path: Path) -> None:
    """Lines, events, jobs, the spool and the handler of `logging` need no extra."""
    config = """
server: {listen: "127.0.0.1:0"}
handlers: {console: {type: console}, audit: {type: json_audit}, jobs: {type: database_job}}
"""
    with ServerProcess.start(config, tmp_path) as server:
        program = [str(base_install / "python"), "-c", CLIENT, server.address, str(tmp_path / "spool")]
        assert run(program, tmp_path, CLEAN) == "SPOOLED\nCOMMITTED\n100\n"
        server.terminate()
        server.wait()
    assert "from the base install" in (tmp_path / "stdout").read_text()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("serve",), "server"),
        (("check-config", "emitd.yml"), "server"),
        (("audit", "verify", "a.log"), "audit"),
    ],
    ids=["serve", "check-config", "audit verify"],
)
def test_a_command_that_needs_an_extra_names_it(
    command: tuple[str, ...], extra: str, base_install: Path, tmp_path: Path
) -> None:
    """Without extras such commands end with code 5 and one line that says what to install."""
    done = subprocess.run(
        [base_install / "emitd", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 5
    assert f"install emitd with the extra [{extra}]\n" in done.stderr
