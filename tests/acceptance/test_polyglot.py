"""The contract is for every language: programs in Go and Node on stubs generated from the same protos."""

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google.rpc.status_pb2
import pytest

from emitd.v1 import EmitResponse, JobState, JobTransition, Receipt, WatchJobResponse
from support.access import authority as access
from support.access.real import config, events_of, grants_to, put, start, tls
from support.client.answers import routed
from support.client.authority import Authority
from support.client.fake_log_service import Answer, fake_log_service, known_by
from support.processes.server_process import ServerProcess
from support.processes.toolchains import ROOT, proto_python, require, run

# A first build compiles grpc for Go.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit, path: audit.json.log}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
POLYGLOT = Path("tests", "acceptance", "polyglot")
GO_MODULE = "github.com/emitd/emitd/clients/go"
NPM_INSTALL = (
    "install",
    "--no-package-lock",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
)

Command = list[str | Path]


def build_go(folder: Path) -> tuple[Command, Command]:
    """Generate the stubs and build the programs; return what runs the test's and what runs the example."""
    go, python = require("go"), proto_python()
    client, program = folder / "clients" / "go", folder / POLYGLOT / "go"
    shutil.copytree(ROOT / "clients" / "go", client, ignore=shutil.ignore_patterns("emitd"))
    shutil.copytree(ROOT / POLYGLOT / "go", program)
    tools = str(folder / "tools")
    run([go, "install", "tool"], client, {"GOBIN": tools})
    run(
        [
            python,
            ROOT / "protos" / "tool.py",
            "protoc",
            *(f"--{plugin}_out={client}" for plugin in ("go", "go-grpc")),
            *(f"--{plugin}_opt=module={GO_MODULE}" for plugin in ("go", "go-grpc")),
        ],
        folder,
        {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
    )
    run([go, "build", "-o", folder / "example", "./example"], client)
    run([go, "build", "-o", folder / "program", "."], program)
    return [folder / "program"], [folder / "example"]


def build_node(folder: Path) -> tuple[Command, Command]:
    """Install what the programs need; return what runs the test's and what runs the example."""
    node, npm = require("node"), require("npm")
    client, program = folder / "clients" / "node", folder / POLYGLOT / "node"
    ignored = shutil.ignore_patterns("node_modules")
    shutil.copytree(ROOT / "protos", folder / "protos")
    shutil.copytree(ROOT / "clients" / "node", client, ignore=ignored)
    shutil.copytree(ROOT / POLYGLOT / "node", program, ignore=ignored)
    for package in (client, program):
        run([npm, *NPM_INSTALL], package)
    return [node, program / "main.js"], [node, client / "example.js"]


def run_emitd(*arguments: str) -> Any:
    """Run a command of emitd and return the JSON that it prints."""
    return json.loads(run([sys.executable, "-m", "emitd_cli", *arguments, "--json"], ROOT))


def proto_folders() -> Sequence[Path]:
    """Where the contract and what it imports lie."""
    return [ROOT / "protos", Path(google.rpc.status_pb2.__file__).parents[2]]


@pytest.mark.parametrize("build", [build_go, build_node])
def test_another_language_emits_and_watches(
    tmp_path: Path, build: Callable[[Path], tuple[Command, Command]]
) -> None:
    """A program emits all three kinds, is told of the bad record, and sees the job from its first report to its end.

    Nothing is lost on the way: 64-bit numbers, texts that are not ASCII, and an explicit zero.
    """
    program, _ = build(tmp_path)
    with ServerProcess.start(CONFIG, tmp_path) as server:
        saw = json.loads(run([*program, server.address, "job-1", *proto_folders()], tmp_path))
        job = run_emitd("job", "get", "job-1", "--address", server.address)
        server.terminate()
        assert server.wait() == 0
    (line,) = (tmp_path / "audit.json.log").read_text().splitlines()
    printed = (tmp_path / "stdout").read_text()

    assert saw == {
        "log_delivery": "DELIVERY_QUEUED",
        "event_id": json.loads(line)["event_id"],
        "duplicate": True,
        "job_revisions": [1, 2, 3],
        "accepted_count": 2,
        "error_index": 1,
        "error_code": 3,
        "error_fields": ["records[1].audit.source_ip"],
        "transitions": ["JOB_STATE_QUEUED", "JOB_STATE_RUNNING", "JOB_STATE_COMPLETED"],
        "progress": 100,
        "ended": True,
    }
    assert line.startswith('{"timestamp":"2025-11-24T16:00:00.123456789Z",')
    assert '"details":{"order":9007199254740993,"note":"Grüße, 世界"}' in line
    assert '"user_id":"zoë"' in line
    assert f'"trace_id":"{b"0123456789abcdef".hex()}"' in line
    assert (job["status"], job["labels"]) == ("JOB_STATE_COMPLETED", {"team": "a"})
    messages = re.findall(r"\[(?:WARNING|INFO)\] (?:\[[^]]*\] )?(\S+)", printed)
    assert messages.count("Grüße,") == messages.count("first") == messages.count("third") == 1


@pytest.mark.parametrize("build", [build_go, build_node])
def test_the_example_of_another_language_runs(
    tmp_path: Path, build: Callable[[Path], tuple[Command, Command]]
) -> None:
    """The example beside the client emits all three kinds and follows its job to the end."""
    _, example = build(tmp_path)
    with ServerProcess.start(CONFIG, tmp_path) as server:
        said = run([*example, server.address], tmp_path)
    assert "JOB_STATE_RUNNING 40\n" in said
    assert said.endswith("JOB_STATE_COMPLETED 100\n")
    assert len((tmp_path / "audit.json.log").read_text().splitlines()) == 1


@pytest.mark.parametrize("build", [build_go, build_node])
def test_the_example_of_another_language_speaks_tls(
    tmp_path: Path, build: Callable[[Path], tuple[Command, Command]]
) -> None:
    """It knows its server by its certificate, and is known by its own and by its token, which stays on this machine."""
    _, example = build(tmp_path)
    authority, token_file = Authority(tmp_path), tmp_path / "token"
    token_file.write_text("secret\n")
    pair = authority.issue("client")
    ended = JobTransition(status=JobState.JOB_STATE_COMPLETED, progress=100)
    service_answers: dict[str, Answer] = {
        "EmitRequest": lambda request, _: EmitResponse(receipt=Receipt(record_id=request.record.record_id)),
        "WatchJobRequest": lambda *_: iter([WatchJobResponse(transitions=[ended])]),
    }
    environ = {
        "EMITD_CA_FILE": str(authority.ca_file),
        "EMITD_CERT_FILE": str(pair.cert_file),
        "EMITD_KEY_FILE": str(pair.key_file),
        "EMITD_TOKEN_FILE": str(token_file),
    }
    known = known_by("secret", answer=routed(**service_answers))
    server = authority.server(authority.issue("server"), wants_client=True)
    with fake_log_service(known, credentials=server) as service:
        said = run([*example, service.address], tmp_path, environ)
    assert said.endswith("JOB_STATE_COMPLETED 100\n")
    with fake_log_service(known) as service:
        port = service.address.rpartition(":")[2]
        token = {"EMITD_TOKEN": "secret"}
        assert run([*example, service.address], tmp_path, token).endswith("JOB_STATE_COMPLETED 100\n")
        with pytest.raises(AssertionError, match=r"security|plain text"):
            run([*example, f"{socket.gethostname()}:{port}"], tmp_path, token)


@pytest.mark.parametrize("build", [build_go, build_node])
def test_the_example_of_another_language_is_known_by_its_certificate(
    tmp_path: Path, build: Callable[[Path], tuple[Command, Command]]
) -> None:
    """To a real server, which writes who it is; with another authority's, with wrong trust and with none it fails."""
    _, example = build(tmp_path)
    good, other = access.Authority(name="good"), access.Authority(name="other")
    issued = {"server": good.issue("server"), "shop": good.issue("shop"), "foreign": other.issue("shop")}
    for name, pair in issued.items():
        for kind, data in zip(("pem", "key"), pair, strict=True):
            put(tmp_path / f"{name}.{kind}", data)
    put(tmp_path / "ca.pem", good.pem)
    put(tmp_path / "other.pem", other.pem)
    listen = {"address": "localhost:0", "tls": tls(".", wants_client=True), "identity": "certificate"}

    def environ(ca: str, own: str) -> dict[str, str]:
        files = {"CA_FILE": f"{ca}.pem", "CERT_FILE": f"{own}.pem", "KEY_FILE": f"{own}.key"}
        return {f"EMITD_{name}": str(tmp_path / file) for name, file in files.items()}

    with start(config(listen, grants=grants_to("spiffe://test/shop")), tmp_path) as server:
        said = run([*example, server.address], tmp_path, environ("ca", "shop"))
        assert said.endswith("JOB_STATE_COMPLETED 100\n")
        for wrong in (environ("ca", "foreign"), environ("other", "shop"), {}):
            with pytest.raises(AssertionError, match="ended with 1"):
                run([*example, server.address], tmp_path, wrong)
    assert [event["submitted_by"] for event in events_of(tmp_path)] == ["spiffe://test/shop"]
