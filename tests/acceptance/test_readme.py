"""The README's commands and examples, run from its own text, and the program of docs/in-process.md."""

import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from support.docs.console_page import console_blocks, example
from support.docs.page_reader import ROOT, PageReader, clone
from support.processes.server_process import ServerProcess

README = ROOT / "README.md"
IN_PROCESS = ROOT / "docs" / "in-process.md"
CLIENT_CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit}
  jobs: {type: database_job}
"""


def block(name: str) -> str:
    """The code block that follows the comment `<!-- example: NAME -->`."""
    return example(README.read_text(), name)


def wait_for(file: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in file.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert text in file.read_text()


def test_the_example_handler_needs_a_file_and_an_entry(tmp_path: Path) -> None:
    """The ten lines of the README override `format`, and their entry is all that the service needs."""
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "shout.py").write_text(block("handler"))
    config = f'server: {{listen: "127.0.0.1:0"}}\nhandler_paths: [handlers]\n{block("entry")}'
    with ServerProcess.start(config, tmp_path) as server:
        command = [sys.executable, "-m", "emitd_cli", "emit", "help me", "--level", "ERROR"]
        subprocess.run([*command, "--address", server.address], check=True, timeout=30)
        wait_for(tmp_path / "stdout", "[ERROR] HELP ME\n")


def test_the_example_client_emits(tmp_path: Path) -> None:
    """The README's Python program reports its loop as a job, logs, and prints its receipt."""
    with ServerProcess.start(CLIENT_CONFIG, tmp_path) as server:
        program = block("client").replace("127.0.0.1:50051", server.address)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
        )
        assert "COMMITTED" in done.stdout
        wait_for(tmp_path / "stdout", "order taken order=17")
    assert '"event_name":"order.import"' in (tmp_path / "logs" / "audit.json.log").read_text()
    with closing(sqlite3.connect(tmp_path / "logs" / "jobs.db")) as jobs:
        assert jobs.execute("SELECT job_id, status FROM job_logs").fetchall() == [("orders-17", "COMPLETED")]


def test_the_example_without_grpc_runs(tmp_path: Path) -> None:
    """In an empty folder, the application logs, audits and reports through the service in its own process."""
    done = subprocess.run(
        [sys.executable, "-c", example(IN_PROCESS.read_text(), "in_process")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "order taken order=17" in done.stdout
    assert '"event_name":"order.create"' in (tmp_path / "logs" / "audit.json.log").read_text()
    with closing(sqlite3.connect(tmp_path / "logs" / "jobs.db")) as jobs:
        found = jobs.execute("SELECT status, progress, message FROM job_logs").fetchall()
    assert found == [("COMPLETED", 100, "at the door")]


def test_the_first_screen(tmp_path: Path) -> None:
    """Each command before the Python program shows what the README says: the changed word is found."""
    folder = tmp_path.resolve()
    clone(folder)
    first = README.read_text().partition("<!-- example: client -->")[0]
    with PageReader(folder, README.name) as reader:
        for console in console_blocks(first):
            reader.read(console)
        reader.leave()
    assert reader.typed == len(re.findall(r"^\$ ", first, re.MULTILINE)) == 7


def test_it_is_short() -> None:
    """A visitor reads it in a few minutes."""
    assert len(README.read_text().splitlines()) <= 200


def test_links_lead_somewhere() -> None:
    """Every file and heading that the README and the pages link to exists."""
    for page in (README, ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target, heading in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", page.read_text()):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if heading else []
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert not heading or heading in anchors, f"{page.name}: {target}#{heading}"


def test_no_page_installs_a_name_that_is_not_published() -> None:
    """`pip install emitd` would install a package of another author; the wheel and `pip install .` are right."""
    for pattern in ("*.md", "docs/**/*.md", "clients/*/*.md", "clients/python/examples/**/*.md"):
        for page in ROOT.glob(pattern):
            found = re.findall(r"pip install.*\bemitd(?![-./\w]).*", page.read_text())
            assert found == [], page
