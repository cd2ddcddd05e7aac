"""The commands and the program of docs/auditor.md, run by an auditor against a real server with TLS and tokens."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emitd import LogClient
from emitd_server.access.tokens import new_token
from support.docs.console_page import example
from support.docs.page_reader import EMITD, ROOT, program
from support.processes.server_process import ServerProcess

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/auditor.md").read_text()
CONFIG = """
server:
  listen:
    - address: localhost:0
      tls: {cert_file: certs/server.pem, key_file: certs/server.key}
      identity: token
  access:
    tokens_file: tokens.yml
    grants:
      - {to: [shop], role: writer}
      - {to: [auditor], role: auditor}
handlers: {audit: {type: json_audit}}
"""


class Auditor:
    """A folder of what an auditor has, and a shell in it."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder, self._environ = folder, environ

    def run(self, command: str, *, until_interrupted: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run a command line, with Ctrl-C after a few seconds if it does not end by itself."""
        if until_interrupted:
            command = f"timeout --signal=INT 4 {command}"
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=60,
        )


def commands(name: str, **replaced: str) -> list[str]:
    """The command lines of an example, without their comments."""
    lines = [line.partition("  #")[0].strip() for line in example(PAGE, name).splitlines()]
    for old, new in replaced.items():
        lines = [line.replace(old, new) for line in lines]
    return lines


def test_an_auditor_reads_keeps_and_verifies(tmp_path: Path) -> None:
    """Every command of the page does what it says, and the auditor may do nothing else."""
    service, mine = tmp_path / "service", tmp_path / "mine"
    mine.mkdir()
    service.mkdir()
    tls = [sys.executable, "-m", "emitd_cli", "tls", "dev", "certs"]
    subprocess.run(tls, cwd=service, check=True, capture_output=True, timeout=60)
    tokens = {name: new_token(service / "tokens.yml", name, (), None)[0] for name in ("shop", "auditor")}
    shutil.copy(service / "certs" / "ca.pem", mine)
    (mine / "auditor.token").write_text(tokens["auditor"])
    program(tmp_path / "bin" / "emitd", EMITD.format(python=sys.executable))
    export, *reading = commands("reading")
    with ServerProcess.start(CONFIG, service) as server:
        settings = dict(re.findall(r"(EMITD_\w+)=(\S+)", export))
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        auditor = Auditor(mine, {**os.environ, **settings, "EMITD_ADDRESS": server.address, "PATH": path})
        ca_file = service / "certs" / "ca.pem"
        with LogClient(server.address, source="shop", ca_file=ca_file, token=tokens["shop"]) as client:
            receipt = client.audit("user.login", user_id="u1", source_ip="192.0.2.7", require_commit=True)

        listed, shown, tail = reading
        assert re.search(r"user\.login +u1 +192\.0\.2\.7", auditor.run(listed).stdout)
        text = auditor.run(shown.replace("EVENT_ID", receipt.audit.event_id)).stdout
        assert re.search(r"^principal +shop$", text, re.MULTILINE)
        followed = auditor.run(f"{tail} --from 0 --json", until_interrupted=True)
        assert followed.returncode in (0, 124, 128 + signal.SIGINT), followed.stderr
        own = [json.loads(line) for line in followed.stdout.splitlines()]
        assert [line.get("submitted_by") for line in own[:2]] == ["shop", None]
        assert own[1]["event_name"] == "emitd.access.read"
        assert own[1]["details"]["principal"] == "auditor"

        done = auditor.run(f"{sys.executable} -c '{example(PAGE, 'checkpoint')}'")
        assert done.returncode == 0, done.stderr
        refused = auditor.run("emitd emit hello")
        assert (refused.returncode, "the role writer" in refused.stderr) == (1, True)
    (kept,) = mine.glob("checkpoint-*")
    log = service / "logs"
    shutil.copytree(log, mine / "COPY", ignore=shutil.ignore_patterns("*.key"))
    (mine / "auditor.vkey").write_bytes((log / "audit.json.log.vkey").read_bytes())
    replaced = {"KEPT_CHECKPOINT": kept.name, "EVENT_ID": receipt.audit.event_id}
    for line in commands("verifying", **replaced):
        done = auditor.run(line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert done.stdout.startswith("event.tlog-proof: good")


def test_the_events_of_the_service_are_those_that_it_writes() -> None:
    """The page has a row for each name that stands in the code, and no other."""
    named = set(re.findall(r"^\| `(emitd\.[a-z_.]+)` \|", PAGE, re.MULTILINE))
    code = "".join(
        file.read_text()
        for package in ("server/emitd_server", "handlers/emitd_handlers")
        for file in (ROOT / package).rglob("*.py")
    )
    assert named == set(re.findall(r'"(emitd\.(?:access|job|clock|audit)\.[a-z_]+)"', code))
