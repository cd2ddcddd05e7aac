"""Processes that hold secrets: whatever goes wrong, none of their texts has one. Nor do they load code by chance."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd.v1 import LEVEL_ERROR, LEVEL_INFO, EmitRequest, LogRecord, LogServiceStub
from emitd_server.access.tokens import new_token
from support.access.authority import Authority, TlsFiles
from support.access.jwt_issuer import AUDIENCE, ISSUER, KeysFile, jwk, sign
from support.processes.server_process import ServerProcess
from support.soak.server import free_port

pytestmark = pytest.mark.slow

#: In every secret of these tests.
CANARY = "hush-5f3a9c"
SECRETS = {
    "DB": f"postgresql://emitd:{CANARY}@127.0.0.1:{free_port()}/app?connect_timeout=1",
    "HOOK": f"http://u:{CANARY}@127.0.0.1:{free_port()}/{CANARY}?token={CANARY}",
    "HEADER": f"Bearer {CANARY}",
    "EMITD_TOKEN": CANARY,
    "EMITD_DEBUG": "1",
    "NO_COLOR": "1",
}
CONFIG = """
server:
  listen:
    - {address: "127.0.0.1:0", tls: {cert_file: server.pem, key_file: server.key}, identity: token}
  access:
    tokens_file: tokens.yml
    jwt: {issuer: "ISSUER", audience: AUDIENCE, keys: keys.json, groups_claim: groups}
    grants: [{to: [shop], role: writer}]
handler_paths: [code]
handlers:
  audit: {type: json_audit, path: a.log}
  jobs: {type: database_job, database: "${DB}"}
  hook: {type: webhook, url: "${HOOK}", headers: {Authorization: "${HEADER}"}, delivery: {kind: queued, max_retries: 0}}
  crash: {type: crash.CrashHandler, token: "${HEADER}"}
""".replace("ISSUER", ISSUER).replace("AUDIENCE", AUDIENCE)
CRASH = """
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.secret_text import SecretText
from emitd_handlers.settings import HandlerSettings


class CrashSettings(HandlerSettings, frozen=True, kw_only=True):
    token: SecretText


class CrashHandler(BaseLogHandler):
    Settings = CrashSettings

    async def emit(self, record):
        header = self.settings.token.reveal()
        raise RuntimeError(f"{record.message} {self.settings!r} {self.settings.token}", len(header))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration with all kinds of secrets."""
    TlsFiles(tmp_path).write(AUTHORITY.issue())
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    new_token(tmp_path / "tokens.yml", "shop", [], None)
    KeysFile(tmp_path / "keys.json", jwk("ES256", "k1"))
    (tmp_path / "emitd.yml").write_text(CONFIG)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/crash.py").write_text(CRASH)
    return tmp_path


AUTHORITY = Authority()


def emitd(folder: Path, *arguments: str, **environ: str) -> str:
    """What a command says, in which there is no secret."""
    done = subprocess.run(
        [Path(sys.executable).with_name("emitd"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **SECRETS, **environ},
    )
    said = done.stdout + done.stderr
    assert said
    assert CANARY not in said
    return said


def test_a_service_in_trouble_shows_no_secret(folder: Path) -> None:
    """A database and a receiver that are away, a handler that crashes, callers with wrong tokens, and commands."""
    token, _ = new_token(folder / "tokens.yml", "shop", [], None)
    with ServerProcess.launch(folder, "--config", "emitd.yml", environ=SECRETS) as server:
        server.wait_until_up()
        credentials = grpc.ssl_channel_credentials(AUTHORITY.pem)
        said = ""
        with grpc.secure_channel(server.address, credentials) as channel:
            emit = LogServiceStub(channel).Emit
            for metadata in (
                [("authorization", f"Bearer {CANARY}")],
                [("authorization", f"Bearer {CANARY} {CANARY}")],
                [("authorization", CANARY)],
                [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {CANARY}")],
                [("authorization-bin", CANARY.encode())],
                [("token", CANARY), ("x-token", f"Bearer {CANARY}")],
                [("authorization", f"Bearer {sign(sub=CANARY, iss=CANARY)}")],
                [("authorization", f"Bearer {sign(aud=[CANARY])}")],
                [("authorization", f"Bearer {sign(groups=[CANARY, 7])}")],
                [("authorization", f"Bearer {sign(kid=CANARY)}")],
                [("authorization", f"Bearer {sign(number=1, sub=CANARY)}")],
            ):
                call = emit.future(EmitRequest(), metadata=metadata, timeout=10)
                assert call.code() is grpc.StatusCode.UNAUTHENTICATED
                said += f"{call.details()} {call.trailing_metadata()} {call.exception()!r}\n"
            good = [("authorization", f"Bearer {token}")]
            for level in (LEVEL_INFO, LEVEL_ERROR):
                record = LogRecord(level=level, message="a line", source="shop", time_unix_nano=1)
                said += str(emit(EmitRequest(record=record), metadata=good, timeout=10))
            give_up_at = time.monotonic() + 20
            while not all(word in server.stderr for word in ("crash", "hook", "jobs")):
                assert time.monotonic() < give_up_at, server.stderr
                time.sleep(0.1)
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "handler/hook", "handler/jobs", "handler/crash"):
                request = health_pb2.HealthCheckRequest(service=name)
                said += str(health.Check(request, metadata=good, timeout=10))
        flags = ("--address", server.address, "--ca-file", "ca.pem")
        assert "not known here" in emitd(folder, "job", "list", *flags)
        assert "not known here" in emitd(folder, "emit", "a line", *flags)
        emitd(folder, "job", "list", *flags, EMITD_TOKEN=f"{CANARY}\nx")
        emitd(folder, "job", "list", *flags, EMITD_TOKEN=f"{CANARY}é")
        emitd(folder, "job", "list", "--address", server.address)
        emitd(folder, "job", "list", "--address", server.address, "--tls")
        emitd(folder, "job", "list", "--address", f"127.0.0.1:{free_port()}", "--json")
        server.terminate()
        assert server.wait() == 0
    assert CANARY not in server.stderr + (folder / "stdout").read_text() + said
    assert "Traceback" not in said
    assert not any(CANARY.encode() in path.read_bytes() for path in folder.glob("a.log*"))


def test_commands_show_no_secret(folder: Path) -> None:
    """Help, lists and checks, of what is good."""
    assert "good" in emitd(folder, "check-config", "emitd.yml")
    emitd(folder, "handlers", "--config", "emitd.yml")
    emitd(folder, "handlers", "--config", "emitd.yml", "--json")
    assert "shop" in emitd(folder, "token", "list", "tokens.yml")
    for command in (
        "",
        "serve",
        "check-config",
        "handlers",
        "token",
        "emit",
        "job list",
        "audit list",
        "tls dev",
    ):
        assert "usage" in emitd(folder, *command.split(), "--help")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("server.key", f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"),
        ("server.pem", f"{CANARY}\n"),
        ("tokens.yml", f"- name: {{{CANARY}: 1}}\n  sha256: {CANARY}\n"[:14] + "\n"),
        ("tokens.yml", f"- {{name: shop, sha256: {CANARY}}}\n"),
        ("keys.json", f'{{"keys": [{{"kty": "oct", "k": "{CANARY}"}}]}}'),
        ("keys.json", CANARY),
        ("emitd.yml", CONFIG.replace('"${DB}"', '["${DB}"]')),
        ("emitd.yml", CONFIG.replace('"${DB}"', '"${DB}:x"')),
        ("emitd.yml", CONFIG.replace('"${HOOK}"', '"x${HOOK}"')),
        ("emitd.yml", CONFIG.replace('{Authorization: "${HEADER}"}', '"${HEADER}"')),
        ("emitd.yml", CONFIG.replace('"${HEADER}"', '["${HEADER}"]')),
        ("emitd.yml", CONFIG.replace("server.pem", '"${HEADER}"').replace("[shop]", '"${HEADER}"')),
        ("emitd.yml", CONFIG.replace("delivery: {kind: queued, max_retries: 0}", 'delivery: "${HEADER}"')),
        ("emitd.yml", CONFIG.replace("identity: token", 'identity: "${HEADER}"')),
        ("emitd.yml", CONFIG.replace("{type: crash.CrashHandler,", '{type: "${HEADER}",')),
        ("code/crash.py", CRASH.replace("async def", "1/0\n    async def")),
    ],
)
def test_a_start_that_fails_shows_no_secret(folder: Path, name: str, content: str) -> None:
    """Files that hold another thing, and values of another type: the file or the setting is named."""
    (folder / name).write_text(content)
    emitd(folder, "check-config", "emitd.yml")
    emitd(folder, "check-config", "emitd.yml", "--json")
    emitd(folder, "handlers", "--config", "emitd.yml")
    said = emitd(folder, "serve", "--config", "emitd.yml")
    assert name.partition("/")[2] or name in said
    assert "not foreseen" not in said


PLANTED = "from pathlib import Path\nPath(__file__).with_name('loaded').touch()\n"
#: Names that the service imports, or could be asked for.
NAMES = (
    "handlers",
    "crash",
    "sitecustomize",
    "usercustomize",
    "yaml",
    "jwt",
    "grpc",
    "uvloop",
    "httpx",
    "shop",
    "console",
)


def test_no_code_is_loaded_but_what_the_configuration_names(tmp_path: Path) -> None:
    """Modules in the current folder, next to the configuration, and in a folder `handlers` there stay as they are."""
    (tmp_path / "handlers").mkdir()
    for folder in (tmp_path, tmp_path / "handlers"):
        for name in NAMES:
            (folder / f"{name}.py").write_text(PLANTED)
    new_token(tmp_path / "tokens.yml", "shop", [], None)
    entries = {"d": {"type": "discard"}, "audit": {"type": "json_audit", "path": "a.log"}}
    (tmp_path / "emitd.yml").write_text(
        json.dumps({"server": {"listen": "127.0.0.1:0"}, "handlers": entries})
    )
    script = (str(Path(sys.executable).with_name("emitd")),)
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml", command=script) as server:
        server.wait_until_up()
        emitd(
            tmp_path,
            "emit",
            "--audit",
            "user.login",
            "--user",
            "u",
            "--address",
            server.address,
            EMITD_TOKEN="",
        )
        emitd(tmp_path, "audit", "list", "--address", server.address, EMITD_TOKEN="")
        server.terminate()
        assert server.wait() == 0
    emitd(tmp_path, "check-config", "emitd.yml")
    emitd(tmp_path, "handlers", "--config", "emitd.yml")
    assert "good" in emitd(tmp_path, "audit", "verify", "a.log")
    emitd(tmp_path, "token", "list", "tokens.yml")
    emitd(tmp_path, "tls", "dev", "certs")
    entries["d"]["type"] = "crash"
    (tmp_path / "emitd.yml").write_text(json.dumps({"handlers": entries}))
    assert "unknown handler type 'crash'" in emitd(tmp_path, "check-config", "emitd.yml")
    entries["d"]["type"] = "crash.CrashHandler"
    (tmp_path / "emitd.yml").write_text(json.dumps({"handlers": entries}))
    assert "there is no module 'crash'" in emitd(tmp_path, "check-config", "emitd.yml")
    assert not [*tmp_path.rglob("loaded")]
    (tmp_path / "emitd.yml").write_text(json.dumps({"handler_paths": ["handlers"], "handlers": entries}))
    emitd(tmp_path, "handlers", "--config", "emitd.yml")
    assert [*tmp_path.rglob("loaded")], "the planted modules are none"
