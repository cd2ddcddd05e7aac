"""The README's examples, run from its own text."""

import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from support.processes.server_process import ServerProcess

README = Path(__file__).parents[2] / "README.md"
CLIENT_CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit}
"""


def block(name: str) -> str:
    """The code block that follows the comment `<!-- example: NAME -->`."""
    match = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert match is not None, name
    return match[1]


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
    """The README's Python program prints its receipt."""
    with ServerProcess.start(CLIENT_CONFIG, tmp_path) as server:
        program = block("client").replace("127.0.0.1:50051", server.address)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
        )
        assert "COMMITTED" in done.stdout
        wait_for(tmp_path / "stdout", "order taken order=17")
    assert '"event_name":"order.create"' in (tmp_path / "logs" / "audit.json.log").read_text()


def test_the_example_without_grpc_runs(tmp_path: Path) -> None:
    """The README's application logs, audits and reports through the service in its own process."""
    (tmp_path / "logging_config.yml").write_text(
        "handlers:\n  console: {type: console}\n  audit: {type: json_audit}\n  jobs: {type: database_job}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", block("in_process")], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "order taken order=17" in done.stdout
    assert '"event_name":"order.create"' in (tmp_path / "logs" / "audit.json.log").read_text()
    with closing(sqlite3.connect(tmp_path / "logs" / "jobs.db")) as jobs:
        found = jobs.execute("SELECT status, progress, message FROM job_logs").fetchall()
    assert found == [("COMPLETED", 100, "at the door")]


def test_the_commands_of_the_first_minute(tmp_path: Path) -> None:
    """Each `emitd` command of the README's first section does what the text says."""
    section = README.read_text().partition("## Running in 60 seconds")[2].partition("\n## ")[0]
    commands = [line[2:] for line in section.splitlines() if line.startswith("$ .venv/bin/emitd ")]
    assert len(commands) == 4
    with ServerProcess.launch(tmp_path, "--listen", "127.0.0.1:0") as server:
        server.wait_until_up()
        for command in commands[:3]:
            command = command.replace(".venv/bin/emitd", f"{sys.executable} -m emitd_cli")
            address = f"EMITD_ADDRESS={server.address} "
            subprocess.run(address + command, shell=True, check=True, timeout=30, cwd=tmp_path)
        wait_for(tmp_path / "stdout", "[INFO] User 'u1' successfully authenticated.")
        wait_for(tmp_path / "logs" / "audit.json.log", '"event_name":"user.login.failure","user_id":"u1"')
        finish = f"{sys.executable} -m emitd_cli emit --job nightly-1 --status COMPLETED --address {server.address}"
        subprocess.run(finish, shell=True, check=True, timeout=30)
        watch = commands[3].replace(".venv/bin/emitd", f"{sys.executable} -m emitd_cli")
        done = subprocess.run(
            f"EMITD_ADDRESS={server.address} {watch}", shell=True, check=True, timeout=30, capture_output=True
        )
        assert b"COMPLETED" in done.stdout


def test_links_lead_somewhere() -> None:
    """Every file that the README names by a link exists."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
