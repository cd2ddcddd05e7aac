"""Others can read the trail: a program in Go, on `golang.org/x/mod/sumdb`, reads exports over HTTP and proof files.

It has its own tree, its own proofs and its own signatures, and shares nothing with emitd but the public formats.
"""

import json
import shutil
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from emitd_handlers.audit.publish.export import export_log
from emitd_handlers.audit.publish.prove import prove_event
from support.audit.sealed_log import SealedLog, make_line
from support.processes.server_process import ServerProcess
from support.processes.toolchains import ROOT, require, run

# A first build fetches the module.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  audit: {type: json_audit, path: audit.json.log}
"""
EVENTS = 700
EVENT = (
    '{"audit":{"event_id":"%s-%d","event_name":"user.login","user_id":"u1","source_ip":"192.0.2.1",'
    '"details_json":"{}"}}\n'
)

Read = Callable[..., "subprocess.CompletedProcess[str]"]


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built once."""
    go, folder = require("go"), tmp_path_factory.mktemp("go_reader")
    shutil.copytree(ROOT / "tests" / "acceptance" / "go_reader", folder / "source")
    run([go, "build", "-o", folder / "reader", "."], folder / "source")
    return folder / "reader"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where exports go."""
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    """Where the folder is served over plain HTTP."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def read(reader: Path, url: str) -> Read:
    """Reads the folder by a vkey, and an older size and root where they are given."""

    def read(vkey: str, *older: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([reader, "log", vkey, url, *older], capture_output=True, text=True, check=False)

    return read


def state_of(log: SealedLog) -> list[str]:
    """A log's size and root, as the program takes and prints them."""
    return [str(len(log.lines)), b64encode(log.root()).decode()]


def grow(log: SealedLog, size: int) -> None:
    log.append([make_line(number) for number in range(len(log.lines), size)])
    log.checkpoint()


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 700])
def test_an_export_of_any_size_is_read(tmp_path: Path, folder: Path, read: Read, size: int) -> None:
    """The signature is good, the tiles lead to its root, and each line is proved to be in the tree."""
    log = SealedLog.make(tmp_path / "audit.json.log", size)
    export_log(log.path, folder)
    done = read(log.vkeys[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["ok", *state_of(log)]


@pytest.mark.parametrize("sizes", [(1, 2, 3), (200, 256, 300), (255, 700, 1100)])
def test_an_export_that_was_brought_up_to_date_is_read(
    tmp_path: Path, folder: Path, read: Read, sizes: tuple[int, ...]
) -> None:
    """After each run, also with a new key, and it is proved to begin as each older one did."""
    log = SealedLog(tmp_path / "audit.json.log")
    older: list[list[str]] = []
    for size in sizes:
        grow(log, size)
        export_log(log.path, folder)
        for state in [*older, state_of(log)]:
            done = read(log.vkeys[-1], *state)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.split() == ["ok", *state_of(log)]
        older.append(state_of(log))
        log.rotate_key()


def test_a_rebuilt_log_does_not_begin_as_the_old_one(tmp_path: Path, folder: Path, read: Read) -> None:
    """Whoever holds an older size and root finds out, though every signature and every proof is good."""
    log = SealedLog.make(tmp_path / "audit.json.log", 300)
    rebuilt = SealedLog(tmp_path / "rebuilt.json.log")
    rebuilt.append([make_line(number, user="eve" if number == 7 else "") for number in range(700)])
    rebuilt.checkpoint()
    export_log(rebuilt.path, folder)
    assert read(rebuilt.vkeys[0]).returncode == 0
    done = read(rebuilt.vkeys[0], *state_of(log))
    assert done.returncode == 1
    assert "it does not begin as it did with 300 entries" in done.stderr


@pytest.mark.parametrize(
    "file", ["0/000", "0/002.p/188", "1/000.p/2", "entries/000", "entries/002.p/188", "../checkpoint"]
)
def test_one_bit_changed_in_the_folder_is_found(tmp_path: Path, folder: Path, read: Read, file: str) -> None:
    """In any tile, any bundle and the checkpoint: the program ends with 1."""
    log = SealedLog.make(tmp_path / "audit.json.log", 700)
    export_log(log.path, folder)
    path = folder / "tile" / file
    good = path.read_bytes()
    for place in (0, len(good) // 2, len(good) - 2):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        done = read(log.vkeys[0])
        assert (done.returncode, done.stdout) == (1, ""), f"byte {place}"
    path.write_bytes(good)
    assert read(log.vkeys[0]).returncode == 0


def test_another_key_does_not_open_it(tmp_path: Path, folder: Path, read: Read) -> None:
    """Not even one of the same name."""
    log = SealedLog.make(tmp_path / "audit.json.log", 3)
    export_log(log.path, folder)
    done = read(SealedLog(tmp_path / "other.json.log").vkeys[0])
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("number", [0, 41, 299])
def test_a_proof_file_is_checked(tmp_path: Path, reader: Path, number: int) -> None:
    """It is good for the line that it has in it, and for no other."""
    log = SealedLog.make(tmp_path / "audit.json.log", 300)
    proof = prove_event(log.path, f"event-{number:06}").proof.encode()
    file = tmp_path / "file.tlog-proof"
    file.write_bytes(proof)
    said = run([reader, "proof", log.vkeys[0], file], tmp_path)
    assert said == f"ok {number} of 300 {log.lines[number].decode()}\n"
    file.write_bytes(proof.replace(b"index ", b"index 1"))
    done = subprocess.run([reader, "proof", log.vkeys[0], file], capture_output=True, check=False)
    assert done.returncode == 1


def emitd(folder: Path, *arguments: str) -> str:
    return run([sys.executable, "-m", "emitd_cli", *arguments], folder)


def test_the_log_of_a_real_service_is_read(tmp_path: Path, folder: Path, read: Read, reader: Path) -> None:
    """Recorded over gRPC, exported after the service has stopped and while it runs, and with a new key in between."""
    log = str(tmp_path / "audit.json.log")

    def record(server: ServerProcess, kind: str) -> None:
        lines = "".join(EVENT % (kind, number) for number in range(EVENTS))
        (tmp_path / "records.jsonl").write_text(lines)
        emitd(tmp_path, "emit", "--file", "records.jsonl", "--format", "jsonl", "--address", server.address)

    def stop(server: ServerProcess) -> None:
        server.terminate()
        assert server.wait() == 0

    def export_and_read(vkey: str, *older: str) -> list[str]:
        emitd(tmp_path, "audit", "export", str(folder), "--log", log)
        done = read(vkey, *older)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()[1:]

    with ServerProcess.start(CONFIG, tmp_path) as server:
        record(server, "e")
        (vkey,) = emitd(tmp_path, "audit", "key", log).split()
        stop(server)
    older = export_and_read(vkey)
    assert older[0] == str(EVENTS)

    assert emitd(tmp_path, "audit", "key", log, "--rotate").split()[0] == vkey
    with ServerProcess.start(CONFIG, tmp_path) as server:
        record(server, "f")
        emitd(tmp_path, "audit", "export", str(folder), "--log", log)
        stop(server)
    old_vkey, new_vkey = emitd(tmp_path, "audit", "key", log).split()
    assert old_vkey == vkey
    total = 2 * EVENTS + 1  # and that the key was changed
    assert export_and_read(new_vkey, *older)[0] == str(total)
    event = next(line for line in Path(log).read_text().splitlines() if "emitd.audit.key_rotated" in line)
    statement_file = tmp_path / "statement"
    statement_file.write_text(json.loads(event)["details"]["statement"])
    for key in (vkey, new_vkey):
        said = emitd(tmp_path, "audit", "verify", log, "--key", key)
        assert said.startswith(f"good: {total} lines"), said
        said = run([reader, "note", key, statement_file], tmp_path)
        assert said == f"ok emitd audit key rotation|{vkey}|{new_vkey}\n"

    emitd(tmp_path, "audit", "prove", "f-42", "--log", log)
    said = run([reader, "proof", new_vkey, "f-42.tlog-proof"], tmp_path)
    # The command has several batches under way at once: which of them comes first is not said.
    ok, index, of, count, line = said.split(maxsplit=4)
    assert (ok, of, count) == ("ok", "of", str(total))
    assert EVENTS < int(index) < total
    assert '"event_id":"f-42"' in line
