"""The real process as another user on a read-only root file system: it works, and nothing is open to others."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from emitd import LogClient
from support.docs.page_reader import ROOT
from support.processes.server_process import ServerProcess
from support.soak.server import free_port

pytestmark = pytest.mark.slow

USER = 12345
#: Where the one folder is that the process may write.
WORK = "/mnt/work"
CONFIG = """
server:
  listen:
    - {address: "127.0.0.1:0", tls: {cert_file: new/certs/server.pem, key_file: new/certs/server.key}, identity: token}
    - {address: "unix:emitd.sock", principal: local}
  reflection: false
  access:
    tokens_file: tokens.yml
    grants:
      - {to: [shop], role: writer}
      - {to: [shop], role: auditor}
      - {to: [shop], role: operator}
handlers:
  audit: {type: json_audit, path: a/b/audit.json.log}
  jobs: {type: database_job, database: "sqlite:///c/d/jobs.db"}
  lines: {type: file, path: e/f/lines.log, rotate: {bytes: 4096}}
"""
SPOOL = """
import sys
from emitd import LogClient
with LogClient(sys.argv[1], source="outage", spool="spool/of/mine", timeout=0.3, close_timeout=1) as client:
    print(client.audit("kept", user_id="u").state)
"""


class Machine:
    """A mount namespace in which all is read-only but one folder, for another user without capabilities."""

    def __init__(self, folder: Path, umask: str) -> None:
        self.folder = folder
        # Of the interpreter and the sources, also where a folder above them is closed to others, such as /root.
        kept = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
        shut = {above for path in kept for above in path.parents if not above.stat().st_mode & stat.S_IXOTH}
        lines = [
            "set -e",
            "mount -t tmpfs -o mode=755 tmpfs /mnt",
            *(f"mkdir /mnt/{number}" for number in range(len(kept))),
            f"mkdir {WORK}",
            f"mount --bind {shlex.quote(str(folder))} {WORK}",
            *(f"mount --bind {shlex.quote(str(path))} /mnt/{number}" for number, path in enumerate(kept)),
            *(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(above))}" for above in shut),
        ]
        for number, path in enumerate(kept):
            if shut & {*path.parents}:
                place = shlex.quote(str(path))
                lines += [f"mkdir -p {place}", f"mount --bind /mnt/{number} {place}"]
        lines += [
            r"grep -vE '^\S+ \S+ \S+ \S+ (/proc|/sys)' /proc/self/mountinfo | cut -d' ' -f5 | while read -r place; do",
            f'  [ "$place" = {WORK} ] || ! [ -e "$place" ] || mount -o remount,bind,ro "$place"; done',
            f"cd {WORK}; umask {umask}; export HOME={WORK}/home",
            f"exec setpriv --reuid {USER} --regid {USER} --clear-groups --no-new-privs --bounding-set -all"
            ' --inh-caps -all "$@"',
        ]
        self.command = ("unshare", "--mount", "sh", "-c", "\n".join(lines), "sh")
        os.chown(folder, USER, USER)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [*self.command, *command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def emitd(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "emitd_cli", *arguments)


@pytest.fixture(params=["022", "000"], ids=lambda umask: f"umask {umask}")
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, request.param)
    try:
        probe = [*machine.command, "sh", "-c", "! touch /tmp/x && ! touch /x && ! touch /dev/shm/x && id -u"]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        pytest.skip(f"this machine has no {error.filename}")
    if done.stdout.strip() != str(USER):
        pytest.skip(f"this machine permits no mount namespace: {done.stderr}")
    return machine


def test_another_user_on_a_read_only_file_system(machine: Machine) -> None:
    """It takes, stores and reads records, and stops clean; a client keeps what it cannot send; all is its own."""
    folder = machine.folder
    machine.emitd("tls", "dev", "new/certs")
    token = machine.emitd("token", "new", "--name", "shop", "tokens.yml").strip()
    (folder / "emitd.yml").write_text(CONFIG)
    command = (*machine.command, sys.executable, "-m", "emitd_cli")
    with ServerProcess.launch(folder, "--config", "emitd.yml", command=command) as server:
        server.wait_until_up()
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status
        assert "CapEff:\t0000000000000000" in status
        ca_file = str(folder / "new/certs/ca.pem")
        with LogClient(server.address, source="shop", spool="off", ca_file=ca_file, token=token) as client:
            assert client.audit("user.login", user_id="u").state == "COMMITTED"
            for number in range(3):
                client.error("x" * 4000, number=number)
                assert client.flush(10)
            with client.job("j", "import", total=1) as job:
                job.advance()
            assert client.flush(10)
            state = client.get_job("j")
            assert state is not None
            assert state.progress == 100
            assert "user.login" in str([*client.audit_events()])
        assert machine.run(sys.executable, "-c", SPOOL, f"127.0.0.1:{free_port()}") == "SPOOLED\n"
        closed_to_others(folder, "emitd.sock", "c/d/jobs.db-wal", "c/d/jobs.db-shm")
        server.terminate()
        assert server.wait() == 0
    assert "rror" not in server.stderr
    kept = (
        "a/b/audit.json.log",
        "a/b/audit.json.log.key",
        "c/d/jobs.db",
        "tokens.yml",
        "new/certs/server.key",
    )
    made = closed_to_others(folder, *kept)
    assert len([path for path in made if path.startswith("e/f/")]) > 1, "no rotated file was looked at"
    assert any(path.startswith("spool/of/mine/") for path in made)


def closed_to_others(folder: Path, *expected: str) -> set[str]:
    """Return all that the other user has made, among it what is expected: nobody else can read it."""
    made = {path for path in folder.rglob("*") if path.name not in ("emitd.yml", "stdout")}
    modes = {str(path.relative_to(folder)): path.lstat() for path in made}
    assert modes.keys() >= {*expected}
    wrong = {
        path: oct(found.st_mode)
        for path, found in modes.items()
        if found.st_uid != USER
        or stat.S_IMODE(found.st_mode) != (0o700 if stat.S_ISDIR(found.st_mode) else 0o600)
    }
    assert wrong == {}
    return {*modes}
