"""The configurations of docs/security.md, each served by a real process."""

import re
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd.v1 import LEVEL_INFO, EmitRequest, LogRecord, LogServiceStub
from emitd_server.config.loader import load_config
from emitd_server.settings import ListenEntry, TlsSettings
from support.docs.console_page import example
from support.docs.page_reader import ROOT
from support.processes.server_process import ServerProcess

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/security.md").read_text()
HANDLERS = "\nhandlers: {d: {type: discard}}\n"
REQUEST = EmitRequest(record=LogRecord(level=LEVEL_INFO, message="x"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with certificates, and with the folder of the socket."""
    command = [sys.executable, "-m", "emitd_cli", "tls", "dev", "certs"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (tmp_path / "tls").symlink_to("certs")
    (tmp_path / "run").mkdir()
    for link, name in (("tls.crt", "server.pem"), ("tls.key", "server.key"), ("ca.crt", "ca.pem")):
        (tmp_path / "certs" / link).symlink_to(name)
    return tmp_path


def of_page(name: str, folder: Path) -> str:
    """A configuration of the page, with free ports and the certificates of the folder."""
    text = example(PAGE, name).replace("/var/run/emitd-tls", "certs")
    return re.sub(r":5005\d", ":0", text) + HANDLERS


def credentials(folder: Path, *, has_certificate: bool) -> grpc.ChannelCredentials:
    names = ("ca.pem", *(("client.key", "client.pem") if has_certificate else ()))
    return grpc.ssl_channel_credentials(*((folder / "certs" / name).read_bytes() for name in names))


@pytest.mark.parametrize("name", re.findall(r"<!-- example: (\S+) -->", PAGE))
def test_each_configuration_serves(folder: Path, name: str) -> None:
    """At every listener, those that the page says, and in the way that it says."""
    with ServerProcess.start(of_page(name, folder), folder) as server:
        entries = load_config(folder / "emitd.yml", environ={}).server.listeners()
        give_up_at = time.monotonic() + 10
        while len(addresses := re.findall(r"emitd listening on (\S+)\n", server.stderr)) < len(entries):
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        for entry, address in zip(entries.values(), addresses, strict=True):
            serves(folder, entry, re.sub(r"^(0\.0\.0\.0|\[::\]):", "localhost:", address))
        server.terminate()
        assert server.wait() == 0


def serves(folder: Path, entry: ListenEntry, address: str) -> None:
    """A call gets an answer by the way that the entry wants, and none by another."""
    is_mutual = entry.tls is not None and entry.tls.client_ca_file is not None
    with (
        grpc.insecure_channel(address)
        if entry.tls is None
        else grpc.secure_channel(address, credentials(folder, has_certificate=is_mutual))
    ) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        code = LogServiceStub(channel).Emit.future(REQUEST, timeout=10).code()
        assert (code is grpc.StatusCode.UNIMPLEMENTED) is entry.health_only
    if entry.tls is not None:
        wrong = (
            grpc.secure_channel(address, credentials(folder, has_certificate=False))
            if is_mutual
            else grpc.insecure_channel(address)
        )
        with wrong as channel:
            code = LogServiceStub(channel).Emit.future(REQUEST, timeout=10).code()
            assert code is grpc.StatusCode.UNAVAILABLE


def test_the_table_has_every_key() -> None:
    """Of an entry and of its TLS files."""
    keys = set(re.findall(r"^\| `([a-z_.]+)` \|", PAGE, re.MULTILINE))
    expected = {*ListenEntry.__struct_fields__, *(f"tls.{key}" for key in TlsSettings.__struct_fields__)}
    assert keys == expected - {"tls"}
