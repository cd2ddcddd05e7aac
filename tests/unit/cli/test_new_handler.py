"""`emitd new-handler`: what it writes, prints and refuses, and that it leaves the configuration as it is."""

import ast
from pathlib import Path

import pytest
import yaml

from emitd_server.config.loader import load_config
from support.processes.run_main import run_main

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
    """A handler and a test; what is printed is a configuration of the built-in defaults with the entry."""
    done = run_main("new-handler", "slack")
    assert done.returncode == 0
    assert files(folder) == {"handlers/slack.py", "tests/test_slack_handler.py"}
    assert all(file in done.stderr for file in files(folder))
    (folder / "logging_config.yml").write_text(done.stdout)
    config = load_config(Path("logging_config.yml"))
    assert sorted(entry.name for entry in config.handlers) == ["audit", "console", "jobs", "slack"]
    (slack,) = (entry for entry in config.handlers if entry.name == "slack")
    assert slack.handler_class.__name__ == "SlackHandler"
    assert slack.settings.path == folder / "logs" / "slack.log"  # type: ignore[attr-defined]


def test_an_existing_configuration_stays_as_it_is(folder: Path) -> None:
    """The entry and the folder of handlers are printed, to be added by hand."""
    (folder / "logging_config.yml").write_text(CONFIG)
    done = run_main("new-handler", "slack")
    assert done.returncode == 0
    assert "Add this to logging_config.yml:\n" in done.stderr
    assert (folder / "logging_config.yml").read_text() == CONFIG
    content = yaml.safe_load(done.stdout)
    assert content["handler_paths"] == ["handlers"]
    assert content["handlers"]["slack"]["type"] == "slack.SlackHandler"
    (folder / "logging_config.yml").write_text(
        "handler_paths: [handlers]\n" + CONFIG + done.stdout.partition("handlers:\n")[2]
    )
    assert run_main("check-config").returncode == 0


def test_the_output_can_become_the_configuration(folder: Path) -> None:
    """The shell has made the file, which is still empty: that is none."""
    (folder / "logging_config.yml").touch()
    assert "console" in yaml.safe_load(run_main("new-handler", "slack").stdout)["handlers"]


def test_a_folder_that_is_listed_already(folder: Path) -> None:
    """It is not printed again."""
    (folder / "handlers").mkdir()
    (folder / "logging_config.yml").write_text("handler_paths: [handlers]\n" + CONFIG)
    assert yaml.safe_load(run_main("new-handler", "slack").stdout).keys() == {"handlers"}


def test_folder_and_configuration_elsewhere(folder: Path) -> None:
    """The folder is listed as seen from the configuration, the test stands beside that."""
    (folder / "etc").mkdir()
    done = run_main("new-handler", "slack", "--config", "etc/emitd.yml", "--folder", "etc/my/plugins")
    assert done.returncode == 0
    assert files(folder) == {"etc/my/plugins/slack.py", "etc/tests/test_slack_handler.py"}
    assert yaml.safe_load(done.stdout)["handler_paths"] == ["my/plugins"]
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
    "name",
    [
        *("MySlack", "my-slack", "../slack", "mine.Slack", "1st", "Übersicht", "", "_slack"),
        *("test_mine", "import", "console"),
    ],
)
def test_a_bad_name_is_misuse(folder: Path, name: str) -> None:
    """The message names it and one that would do; nothing is written."""
    done = run_main("new-handler", name)
    assert done.returncode == 2
    assert f"NAME: '{name}' will not do" in done.stderr
    assert "such as 'slack'" in done.stderr
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


@pytest.mark.parametrize("text", ["handlers:\n  a: {type: consol}\n", "handlers: [\n"])
def test_a_configuration_with_problems_is_no_obstacle(folder: Path, text: str) -> None:
    """The files are written, and the entry is printed."""
    (folder / "logging_config.yml").write_text(text)
    done = run_main("new-handler", "slack", "--folder", "other")
    assert done.returncode == 0, done.stderr
    assert files(folder) == {"logging_config.yml", "other/slack.py", "tests/test_slack_handler.py"}
    assert yaml.safe_load(done.stdout)["handler_paths"] == ["other"]


@pytest.mark.parametrize("folder_name", ["a b", "[x]", "yes: no", "#x", 'quo"te', "ümlaut", "./~", "007"])
def test_a_folder_of_any_name_stays_one_text(folder: Path, folder_name: str) -> None:
    """It is quoted, so that YAML reads nothing else."""
    done = run_main("new-handler", "slack", "--folder", folder_name)
    assert yaml.safe_load(done.stdout)["handler_paths"] == [folder_name]


def test_help_has_examples() -> None:
    """And the exit codes that every command has."""
    help_text = run_main("new-handler", "--help").stdout
    assert "\n  emitd new-handler slack --folder plugins --config /etc/emitd.yml\n" in help_text
    assert "exit codes:" in help_text
