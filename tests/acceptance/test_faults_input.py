"""Files that are not as they should be, by the real command to a real server: what arrives, what is said, the code."""

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes.server_process import ServerProcess

pytestmark = pytest.mark.slow
CONFIG = "server: {listen: '127.0.0.1:0'}\nhandlers: {console: {type: console, timezone: UTC}}\n"
EVENT = '{{"message": "{}", "level": "LEVEL_INFO"}}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess.start(CONFIG, tmp_path_factory.mktemp("server")) as server:
        yield server


def emit(server: ServerProcess, *arguments: str, shell: str = '"$@"') -> tuple[int, str, str]:
    """Run `emitd emit ARGUMENTS`; return its code, its last line, and what it says on standard error."""
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-m", "emitd_cli", "emit", *arguments],
        env={**os.environ, "EMITD_ADDRESS": server.address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip().replace("emitd: ", "")


@pytest.mark.parametrize(
    ("content", "flags", "code", "outcome", "said"),
    [
        ("one ä\ntwo\n".encode("utf-8-sig"), (), 0, "2 records: 2 queued", ""),
        ("one ä\r\ntwo".encode("utf-16"), (), 0, "2 records: 2 queued", "--file: is read as UTF-16-LE"),
        (
            b"a\nb\xff\xfe\nc",
            (),
            0,
            "3 records: 3 queued, 1 mended",
            "line 2: is not UTF-8 at byte 1; 2 such bytes are ",
        ),
        (EVENT.format("a").encode("utf-8-sig"), ("--format", "jsonl"), 0, "1 record: 1 queued", ""),
        (
            f"{EVENT}\n{EVENT}".format("a", "\xff").encode("latin-1"),
            ("--format", "jsonl"),
            1,
            "2 records: 1 queued, 1 refused",
            "line 2: is not UTF-8 at byte 13",
        ),
        (b"a\x00b\n\n \nlast", (), 0, "2 records: 2 queued", ""),
        (
            b"ok\n" + b"x" * 5_000_000 + b"\nok",
            (),
            1,
            "3 records: 2 queued, 1 refused",
            "line 2: has more than 4194304",
        ),
        (b"", (), 0, "0 records", ""),
        (gzip.compress(b"a\n"), (), 2, "", "--file: is gzip; expected text in UTF-8 or UTF-16"),
    ],
    ids=["bom", "utf-16", "bytes", "bom-json", "bytes-json", "nul", "long", "empty", "gzip"],
)
def test_the_rest_arrives_and_what_was_mended_is_said(
    server: ServerProcess,
    tmp_path: Path,
    content: bytes,
    flags: tuple[str, ...],
    code: int,
    outcome: str,
    said: str,
) -> None:
    """From a file and from standard input alike; only what is refused is no success."""
    (tmp_path / "f").write_bytes(content)
    for found in (
        emit(server, "--file", str(tmp_path / "f"), *flags),
        emit(server, "-", *flags, shell=f'cat {tmp_path / "f"} | "$@"'),
    ):
        assert found[:2] == (code, outcome)
        assert found[2].startswith(said)
        assert bool(found[2]) == bool(said)


def test_what_is_no_file(server: ServerProcess, tmp_path: Path) -> None:
    """A FIFO is read like a pipe; a directory, a missing file and a closed standard input are misuse."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(b"one\ntwo",))
    writer.start()
    assert emit(server, "--file", str(fifo)) == (0, "2 records: 2 queued", "")
    writer.join()
    code, _, said = emit(server, "--file", str(tmp_path))
    assert (code, said) == (2, f"--file: '{tmp_path}' cannot be read: Is a directory")
    assert emit(server, "--file", str(tmp_path / "none"))[0] == 2
    assert emit(server, "-", shell='"$@" <&-') == (
        2,
        "",
        "--file: '-' cannot be read: standard input is closed",
    )
