"""The examples of `docs/handlers.md`, run from its own text."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from emitd_handlers.testing import make_record
from emitd_server.config.discovery import BUILT_IN, HandlerFinder, HandlerFolder
from support.processes.run_main import run_main
from support.processes.server_process import ServerProcess

GUIDE = Path(__file__).parents[2] / "docs" / "handlers.md"
CONFIG = 'server: {listen: "127.0.0.1:0"}\nhandler_paths: [handlers]\n'


def block(name: str) -> str:
    """The code block that follows the comment `<!-- example: NAME -->`."""
    match = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert match is not None, name
    return match[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the guide's handlers, each in the file that the guide names."""
    (tmp_path / "handlers").mkdir()
    files = {"shelf": "smallest", "tally": "settings", "table": "batch", "hush": "webhook"}
    for file, name in files.items():
        assert f"`handlers/{file}.py`" in GUIDE.read_text()
        (tmp_path / "handlers" / f"{file}.py").write_text(block(name))
    return tmp_path


def emit(server: ServerProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "emitd_cli", "emit", *arguments, "--address", server.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert happened()


def test_the_smallest_handler(folder: Path) -> None:
    """A class with `emit` and an entry are all that the service needs."""
    with ServerProcess.start(CONFIG + block("smallest-entry"), folder) as server:
        assert emit(server, "a cup", "--level", "INFO").returncode == 0
        wait_until(lambda: (folder / "stdout").read_text() == "|_a cup_|\n")


def test_settings(folder: Path) -> None:
    """The handler gets its settings, with the path relative to the configuration."""
    with ServerProcess.start(CONFIG + block("settings-entry"), folder) as server:
        for number in range(3):
            assert emit(server, f"record {number}").returncode == 0
        count = folder / "count.txt"
        wait_until(lambda: count.exists() and count.read_text() == "2\n")


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("count.txt", "count.log", "must end in .txt"),
        ("step: 2", "step: 0", "step: "),
        ("path:", "pat:", "path"),
    ],
)
def test_settings_are_checked(folder: Path, right: str, wrong: str, told: str) -> None:
    """A bound, the struct's own check and a missing key are each told by check-config."""
    entry = block("settings-entry").replace(right, wrong)
    (folder / "emitd.yml").write_text(CONFIG + entry)
    done = run_main("check-config", str(folder / "emitd.yml"))
    assert done.returncode == 1
    assert told in done.stdout


def test_a_batch_in_one_transaction(folder: Path) -> None:
    """A committed record is a row at once, a retry adds none also after a restart, a bad record is refused."""
    for _ in range(2):
        with ServerProcess.start(CONFIG + block("batch-entry"), folder) as server:
            assert emit(server, "disk full", "--level", "ERROR", "--record-id", "r1").returncode == 0
            refused = emit(server, " ", "--level", "ERROR", "--record-id", "r2")
            assert refused.returncode == 1
            assert "message" in refused.stderr
            with closing(sqlite3.connect(folder / "lines.db")) as database:
                rows = database.execute("SELECT record_id, level, message FROM lines").fetchall()
            assert rows == [("r1", "ERROR", "disk full")]


def test_the_test_passes(folder: Path) -> None:
    """The guide's test of the contract runs with plain pytest, and skips nothing."""
    (folder / "tests").mkdir()
    (folder / "tests" / "test_table_handler.py").write_text(block("test"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "tests"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 passed" in done.stdout
    assert "skipped" not in done.stdout


def test_packaging(folder: Path) -> None:
    """The entry points of the guide's pyproject, installed, make the short type of the guide."""
    project = tomllib.loads(block("packaging"))["project"]
    (points,) = project["entry-points"].items()
    site = folder / "site"
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (site / "table.py").write_text(block("batch"))
    name, version = project["name"], project["version"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points[1].items())
    (info / "entry_points.txt").write_text(f"[{points[0]}]\n{lines}")
    (folder / "logging_config.yml").write_text("handlers:\n  t: {type: acme_table, path: x.db}\n")
    assert "`type: acme_table`" in GUIDE.read_text()
    done = subprocess.run(
        [sys.executable, "-m", "emitd_cli", "handlers", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (offered,) = (one for one in json.loads(done.stdout)["handlers"] if one["type"] == "acme_table")
    assert offered["origin"] == "entry point of acme-table 1.0"
    assert offered["class"] == "table.TableHandler"
    assert offered["used_by"][0]["state"] == "active"


def test_in_process(tmp_path: Path) -> None:
    """The program registers a handler and hands it a record."""
    done = subprocess.run(
        [sys.executable, "-c", block("in-process")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.endswith("[INFO] [emitd_handlers.testing] from my own process\n")


def test_the_webhook_of_another_form(folder: Path) -> None:
    """A subclass changes what is sent of a record by `format` alone."""
    pytest.importorskip("httpx")
    cls = HandlerFinder([HandlerFolder(folder / "handlers", "handlers")]).find("hush.HushHandler")
    entry = "handlers:\n  hush: {type: hush.HushHandler, url: 'http://127.0.0.1:1/'}\n"
    (folder / "emitd.yml").write_text(CONFIG + entry)
    assert run_main("check-config", str(folder / "emitd.yml")).returncode == 0
    record = make_record(message="m", attributes_json='{"secret":1}')
    assert b"secret" in cls.__mro__[1].format(cls.__new__(cls), record)  # type: ignore[attr-defined]
    sent = json.loads(cls.format(cls.__new__(cls), record))  # type: ignore[arg-type]
    assert sent["message"] == "m"
    assert "attributes" not in sent


def test_every_example_is_run() -> None:
    """Each code block in Python, YAML or TOML has a name, and the name stands in this file."""
    text = GUIDE.read_text()
    names = re.findall(r"<!-- example: (\S+) -->\n```(?:python|yaml|toml)\n", text)
    assert len(names) == len(re.findall(r"```(?:python|yaml|toml)\n", text))
    here = Path(__file__).read_text()
    assert [name for name in names if f'"{name}"' not in here] == []
    for name in names:
        if name.endswith("-entry"):
            assert yaml.safe_load(block(name))["handlers"]


def test_what_the_guide_names_is_there() -> None:
    """Links lead somewhere, each `emitd` command has a help text, and the built-in types are all listed."""
    text = GUIDE.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (GUIDE.parent / target).exists(), target
    for file in re.findall(r"`((?:handlers/emitd_handlers|tests/acceptance)/\w+\.py)`", text):
        assert (GUIDE.parents[1] / file).exists(), file
    for command in set(re.findall(r"^\$ emitd (\S+)", text, re.MULTILINE)):
        assert run_main(command, "--help").returncode == 0, command
    listed = re.search(r"the built-in names: (.*);", text)
    assert listed is not None
    assert re.findall(r"`(\w+)`", listed[1]) == list(BUILT_IN)
