"""`emitd new-handler`: what it writes and refuses, and that it leaves the rest of a configuration as it is."""

import ast
from pathlib import Path

import pytest
import yaml

from emitd_cli.operate.config_text import CannotInsert, add_entry, add_folder
from emitd_server.config.loader import load_config
from support.processes.run_main import run_main

ENTRY = "new: {type: discard}\n"
CONFIG = """\
# On the whole file.

server:
  listen: 127.0.0.1:0   # any port
# On the handlers.
handlers:   # each by a name

  # On the console.
  console:
    type: console   # to standard output

  # spare: {type: discard}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_an_empty_folder(folder: Path) -> None:
    """A handler, a test, and a configuration of the built-in defaults with the entry."""
    done = run_main("new-handler", "slack")
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) == {"handlers/slack.py", "tests/test_slack_handler.py", "logging_config.yml"}
    assert all(file in done.stdout for file in files(folder))
    config = load_config(Path("logging_config.yml"))
    assert sorted(entry.name for entry in config.handlers) == ["audit", "console", "jobs", "slack"]
    (slack,) = (entry for entry in config.handlers if entry.name == "slack")
    assert slack.handler_class.__name__ == "SlackHandler"
    assert slack.settings.path == folder / "logs" / "slack.log"  # type: ignore[attr-defined]


def test_an_existing_configuration_keeps_every_line(folder: Path) -> None:
    """Comments and layout stay; lines are only added."""
    (folder / "logging_config.yml").write_text(CONFIG)
    assert run_main("new-handler", "slack").returncode == 0
    text = (folder / "logging_config.yml").read_text()
    added = [line for line in text.splitlines() if line not in CONFIG.splitlines()]
    assert added[:3] == [
        "handler_paths: [handlers]",
        "  slack:",
        "    type: slack.SlackHandler  # class SlackHandler in handlers/slack.py",
    ]
    rest = iter(text.splitlines())
    assert all(line in rest for line in CONFIG.splitlines())  # each, in the old order
    assert "handler_paths: [handlers]\n\n# On the handlers.\nhandlers:" in text
    assert run_main("check-config").returncode == 0


def test_line_ends_stay_as_they_are(folder: Path) -> None:
    """A file with carriage returns has them in the new lines as well."""
    (folder / "logging_config.yml").write_bytes(CONFIG.replace("\n", "\r\n").encode())
    assert run_main("new-handler", "slack").returncode == 0
    data = (folder / "logging_config.yml").read_bytes()
    assert b"  slack:\r\n" in data
    assert data.count(b"\n") == data.count(b"\r\n")


def test_a_second_handler_uses_the_same_folder(folder: Path) -> None:
    """It is not listed twice."""
    assert run_main("new-handler", "slack").returncode == 0
    assert run_main("new-handler", "pager").returncode == 0
    content = yaml.safe_load((folder / "logging_config.yml").read_text())
    assert content["handler_paths"] == ["handlers"]
    assert {"slack", "pager"} <= content["handlers"].keys()


def test_folder_and_configuration_elsewhere(folder: Path) -> None:
    """The folder is listed as seen from the configuration, the test stands beside that."""
    (folder / "etc").mkdir()
    done = run_main("new-handler", "slack", "--config", "etc/emitd.yml", "--folder", "etc/my/plugins")
    assert done.returncode == 0
    assert files(folder) == {
        "etc/my/plugins/slack.py",
        "etc/tests/test_slack_handler.py",
        "etc/emitd.yml",
    }
    assert yaml.safe_load((folder / "etc/emitd.yml").read_text())["handler_paths"] == ["my/plugins"]
    assert (
        'FOLDER = Path(__file__).parents[1] / "my/plugins"'
        in (folder / "etc/tests/test_slack_handler.py").read_text()
    )


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("slack", "SlackHandler"), ("slack_handler", "SlackHandler"), ("to_s3_bucket", "ToS3BucketHandler")],
)
def test_the_class(folder: Path, name: str, class_name: str) -> None:
    """Its name is the handler's, in one word; every file is Python."""
    assert run_main("new-handler", name).returncode == 0
    tree = ast.parse((folder / "handlers" / f"{name}.py").read_text())
    assert class_name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    ast.parse((folder / "tests" / f"test_{name}_handler.py").read_text())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MySlack", "such as 'my_slack'"),
        ("my-slack", "such as 'my_slack'"),
        ("../slack", "such as 'slack'"),
        ("mine.Slack", "such as 'mine_slack'"),
        ("1st", "such as 'slack'"),
        ("Übersicht", "such as 'ubersicht'"),
        ("test_mine", "pytest would take the handler for one; use another, such as 'my_test_mine'"),
        ("", "such as 'slack'"),
        ("_slack", "such as 'slack'"),
        ("import", "a word of Python's own; use another, such as 'import_log'"),
        ("console", "a built-in handler; use another name, such as 'my_console'"),
    ],
)
def test_a_bad_name_is_misuse(folder: Path, name: str, told: str) -> None:
    """The message names it and one that would do; nothing is written."""
    done = run_main("new-handler", name)
    assert done.returncode == 2
    assert f"NAME: '{name}' " in done.stderr
    assert told in done.stderr
    assert files(folder) == set()


@pytest.mark.parametrize("there", ["handlers/slack.py", "tests/test_slack_handler.py"])
def test_no_file_is_overwritten(folder: Path, there: str) -> None:
    """One that is there stays, and nothing else is written."""
    (folder / there).parent.mkdir()
    (folder / there).write_text("mine")
    done = run_main("new-handler", "slack")
    assert done.returncode == 1
    assert f"{there} is there already; nothing was written" in done.stderr
    assert files(folder) == {there}
    assert (folder / there).read_text() == "mine"


def test_no_entry_is_overwritten(folder: Path) -> None:
    """Neither one that is off."""
    text = "handlers:\n  console: {type: console}\n  slack: {type: discard, enabled: false}\n"
    (folder / "logging_config.yml").write_text(text)
    done = run_main("new-handler", "slack")
    assert done.returncode == 1
    assert "logging_config.yml has an entry 'slack' already" in done.stderr
    assert files(folder) == {"logging_config.yml"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("handlers: {a: {type: console}}\n", "`handlers:` is not written as a block"),
        ("{handlers: {a: {type: console}}}\n", "the file is not written as a block"),
        (
            "handlers:\n  a: {type: consol}\n",
            "it has a problem of its own: logging_config.yml:2: handlers.a.type",
        ),
        ("handlers:\n  a: {type: console, timezone: '${NOT_SET}'}\n", "has no variable 'NOT_SET'"),
        ("handlers: [\n", "it has a problem of its own"),
        ("handler_paths: [handlers,]\nhandlers:\n  a: {type: discard}\n", "it cannot be read as YAML"),
        ("? handlers\n: a: {type: discard}\n", "with the entry it would have a problem"),
    ],
)
def test_what_cannot_be_added_is_printed(folder: Path, text: str, why: str) -> None:
    """The configuration stays as it is; the files are written, and the text to add is printed: exit code 1."""
    (folder / "logging_config.yml").write_text(text)
    (folder / "handlers").mkdir()
    done = run_main("new-handler", "slack", "--folder", "other")
    assert done.returncode == 1, done.stdout
    (reason,) = (line for line in done.stdout.splitlines() if "logging_config.yml is as it was: " in line)
    assert why in reason
    assert (folder / "logging_config.yml").read_text() == text
    assert files(folder) == {"logging_config.yml", "other/slack.py", "tests/test_slack_handler.py"}
    printed = yaml.safe_load(done.stdout.partition("Add this to it:\n")[2])
    assert printed["handler_paths"] == ["other"]
    assert printed["handlers"]["slack"]["type"] == "slack.SlackHandler"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("handlers:\n  a: {type: x}\n", "handlers:\n  new: {type: discard}\n  a: {type: x}\n"),
        ("handlers:  # c\n    a: {type: x}", "handlers:  # c\n    new: {type: discard}\n    a: {type: x}\n"),
        ("handlers:\n  a:\n    type: x\n", "handlers:\n  new: {type: discard}\n\n  a:\n    type: x\n"),
        ("handlers:\n", "handlers:\n  new: {type: discard}\n"),
        ("handlers:", "handlers:\n  new: {type: discard}\n"),
        ("server: {}", "server: {}\n\nhandlers:\n  new: {type: discard}\n"),
    ],
)
def test_where_an_entry_is_put(text: str, expected: str) -> None:
    """Below `handlers:`, as deep as its neighbours; a section that is missing is added."""
    assert add_entry(text, ENTRY) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("handler_paths: [a]  # c\n", "handler_paths: [a, b/c]  # c\n"),
        ("handler_paths: []\n", "handler_paths: [b/c]\n"),
        ("handler_paths:\n- a\n", "handler_paths:\n- b/c\n- a\n"),
        ("handler_paths:\n    - a\n", "handler_paths:\n    - b/c\n    - a\n"),
        ("handler_paths:\n", "handler_paths:\n  - b/c\n"),
        ("server: {}\n", "server: {}\nhandler_paths: [b/c]\n"),
        ("# file\nhandlers:\n", "# file\nhandler_paths: [b/c]\n\nhandlers:\n"),
        ("server: {}\n# on it\nhandlers:\n", "server: {}\nhandler_paths: [b/c]\n\n# on it\nhandlers:\n"),
    ],
)
def test_where_a_folder_is_put(text: str, expected: str) -> None:
    """At the list's end or beginning, or on a line of its own above the handlers."""
    assert add_folder(text, "b/c") == expected


@pytest.mark.parametrize(
    "folder_name", ["a b", "[x]", "yes: no", "#x", 'quo"te', "ümlaut", "~", "../up", "007"]
)
def test_a_folder_of_any_name_stays_one_text(folder_name: str) -> None:
    """It is quoted where YAML would read something else."""
    assert yaml.safe_load(add_folder("", folder_name)) == {"handler_paths": [folder_name]}


def test_help_has_examples() -> None:
    """And the exit codes that every command has."""
    help_text = run_main("new-handler", "--help").stdout
    assert "\n  emitd new-handler slack --folder plugins --config /etc/emitd.yml\n" in help_text
    assert "exit codes:" in help_text


def test_no_place_for_an_entry() -> None:
    """A list of handlers, or paths that are no list, are left alone."""
    with pytest.raises(CannotInsert):
        add_entry("handlers: [a]\n", ENTRY)
    with pytest.raises(CannotInsert):
        add_folder("handler_paths: a\n", "b")
