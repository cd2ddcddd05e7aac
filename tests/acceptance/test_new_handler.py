"""What `emitd new-handler` writes, used as its user would: tested, checked and served, by real processes."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
EMITD = (sys.executable, "-m", "emitd_cli")


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder; return its standard output, and fail with what it said if it fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def project(folder: Path, kind: str) -> None:
    """Make a folder a project without a configuration, with the shipped one, or with one of few lines."""
    if kind == "the shipped one":
        (folder / "logging_config.yml").write_text((ROOT / "logging_config.yml").read_text())
        (folder / "handlers").mkdir()
    if kind == "a short one":
        (folder / "logging_config.yml").write_text("handlers:\n  console: {type: console}\n")


def paste(folder: Path, printed: str) -> None:
    """Add the printed entry to the configuration, as its user would."""
    config = folder / "logging_config.yml"
    if config.exists():
        before, after = re.split(r"(?m)^handlers:.*\n", config.read_text(), maxsplit=1)
        paths, _, entry = printed.partition("handlers:\n")
        printed = f"{before}{paths}handlers:\n{entry}{after}"
    config.write_text(printed)


@pytest.mark.parametrize("kind", ["none", "the shipped one", "a short one"])
def test_the_handler_works_as_written(tmp_path: Path, kind: str) -> None:
    """Its test passes with plain pytest, its entry passes check-config, and `emitd serve` hands it records."""
    project(tmp_path, kind)
    paste(tmp_path, run(tmp_path, *EMITD, "new-handler", "slack"))
    # No plugin: not even pytest-asyncio.
    passed = run(
        tmp_path,
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"),
        "tests/test_slack_handler.py",
    )
    assert "15 passed, 1 skipped" in passed
    assert "slack" in run(tmp_path, *EMITD, "check-config")
    assert "  used by   slack\n" in run(tmp_path, *EMITD, "handlers")
    log = tmp_path / "logs" / "slack.log"
    with ServerProcess.launch(tmp_path, "--listen", "127.0.0.1:0") as server:
        server.wait_until_up()
        run(tmp_path, *EMITD, "emit", "disk full", "--level", "ERROR", "--address", server.address)
        deadline = time.monotonic() + 10
        while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        server.terminate()
        assert server.wait() == 0, server.stderr
    assert log.read_text() == "[ERROR] disk full\n"


def test_the_written_test_finds_a_broken_handler(tmp_path: Path) -> None:
    """It fails when the handler no longer does what it is for."""
    run(tmp_path, *EMITD, "new-handler", "slack")
    file = tmp_path / "handlers" / "slack.py"
    broken = file.read_text().replace("file.write(self.format(record)", "file.write(record.message")
    assert broken != file.read_text()
    file.write_text(broken)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 1
    assert "test_a_record_is_a_line" in done.stdout
