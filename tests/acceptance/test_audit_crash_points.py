"""The process is killed at each moment between a line, its hash and its checkpoint, and started again."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emitd_handlers.audit.format.files import AuditPaths, split_notes
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WRITER = Path(__file__).parents[1] / "support" / "audit" / "dying_writer.py"
#: More than a first start and two events have.
MAX_MOMENTS = 100


def write(path: Path, moment: int, first: int, count: int) -> tuple[int, list[int]]:
    """Run the writer; return its exit code, and what it acknowledged."""
    command = [sys.executable, str(WRITER), str(path), str(moment), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, [int(line) for line in done.stdout.split()]


def notes(path: Path) -> list[bytes]:
    """Return the whole checkpoints in the file."""
    file = AuditPaths.of(path).checkpoints
    data = file.read_bytes() if file.exists() else b""
    return [note for offset, note in split_notes(data) if offset + len(note) < len(data)]


def test_every_moment_of_a_life(tmp_path: Path) -> None:
    """Whatever was under way, the next start finds every acknowledged line once, under one tree, and goes on."""
    for moment in range(1, MAX_MOMENTS):
        path = tmp_path / str(moment) / "audit.json.log"
        code, acknowledged = write(path, moment, 0, 2)
        before = notes(path)
        again, more = write(path, 0, 10, 1)
        assert (again, more) == (0, [10])
        found = [int(json.loads(line)["record_id"][2:]) for line in path.read_bytes().splitlines()]
        assert found == sorted(set(found)), f"moment {moment}"
        assert {*acknowledged, 10} <= set(found) <= {0, 1, 10}, f"moment {moment}"
        report = verify_log(path)
        assert report.verdict is Verdict.GOOD, (moment, report)
        assert report.covered_lines == len(found)
        assert notes(path)[: len(before)] == before, f"moment {moment}: a checkpoint is gone"
        if code == 0:
            break
    assert moment > 30
    assert code == 0, "the last moment was not reached"
