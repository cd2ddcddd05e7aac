"""`emitd handlers`: what it lists, what it says of each, and how it ends."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from emitd_cli.operate.handlers import run as run_handlers
from emitd_cli.operate.setting_text import describe_settings
from emitd_handlers.settings import HandlerSettings
from support.processes.run_main import run_main

CONFIG = """\
handler_paths: [handlers]
handlers:
  lines: {type: console, levels: [INFO, ERROR]}
  mine: {type: mine.MineHandler, where: out.txt}
  spare: {type: mine.MineHandler, where: other.txt, enabled: false}
"""
MINE = '''\
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from emitd_handlers import BaseLogHandler, Delivery, HandlerSettings, Level

print("a file that prints as it is loaded")


class MineSettings(HandlerSettings, frozen=True, kw_only=True):
    #: Where it goes: `#` and all,
    #: in two lines.
    where: Path
    count: Annotated[int, Meta(ge=1)] | None = None  # behind it
    mode: Literal["a", "b"] = "a"
    """Below
    it."""
    names: list[str] = []
    plain: float = 0.5
    #: More than others.
    queue_size: int = 99


class MineHandler(BaseLogHandler):
    """Keeps what is mine,
    and says so.

    And more of it.
    """

    Settings: ClassVar[type[HandlerSettings]] = MineSettings
    default_levels = frozenset({Level.AUDIT, Level.INFO})
    default_delivery = Delivery.COMMITTED

    def emit(self, record):
        pass
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration and a folder of handlers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "mine.py").write_text(MINE)
    (tmp_path / "logging_config.yml").write_text(CONFIG)
    return tmp_path


def list_json(*arguments: str) -> tuple[int, Any, dict[str, Any]]:
    """Return the exit code, the whole object, and the handlers by their types."""
    done = run_main("handlers", "--json", *arguments)
    listed = json.loads(done.stdout)
    return done.returncode, listed, {handler["type"]: handler for handler in listed["handlers"]}


def test_a_handler_of_a_file(folder: Path) -> None:
    """Its class, its file, what it takes by default, and who uses it."""
    code, listed, handlers = list_json()
    mine = handlers["mine.MineHandler"]
    assert code == 0
    assert listed["configuration"] == "logging_config.yml"
    assert listed["problems"] == []
    assert mine["origin"] == f"file {folder}/handlers/mine.py"
    assert mine["class"] == "MineHandler"
    assert mine["summary"] == "Keeps what is mine, and says so."
    assert mine["default_levels"] == ["INFO", "AUDIT"]
    assert mine["default_delivery"] == "committed"
    assert mine["used_by"] == ["mine", "spare (off)"]


def test_its_settings(folder: Path) -> None:
    """Each with its type in words, its default, and the comment above it."""
    _, listed, handlers = list_json()
    keys = ("name", "type", "required", "default", "comment")
    assert [tuple(setting[key] for key in keys) for setting in handlers["mine.MineHandler"]["settings"]] == [
        ("where", "path", True, None, "Where it goes: `#` and all, in two lines."),
        ("count", "whole number >= 1 or null", False, None, ""),
        ("mode", "a or b", False, "a", ""),
        ("names", "list of text", False, [], ""),
        ("plain", "number", False, 0.5, ""),
        ("queue_size", "whole number", False, 99, "More than others."),
    ]
    common = {setting["name"]: setting for setting in listed["common_settings"]}
    assert [name for name in common if "." not in name] == list(HandlerSettings.__struct_fields__)
    assert common["delivery"]["type"] == "committed or queued or mapping or null"
    assert common["delivery.overflow"]["type"] == "block or drop_newest or drop_oldest"
    assert common["delivery.overflow"]["default"] == "drop_newest"


def test_a_built_in_handler(folder: Path) -> None:
    """It is listed like any other."""
    _, _, handlers = list_json()
    assert handlers["console"]["origin"] == "built in"
    assert handlers["console"]["class"] == "emitd_handlers.console.ConsoleHandler"
    assert handlers["console"]["used_by"] == ["lines"]
    assert [setting["name"] for setting in handlers["console"]["settings"]] == [
        "timezone",
        "attributes",
        "format",
    ]
    assert handlers["discard"]["used_by"] == []
    # A type that is made from a text is one, to whoever writes the entry.
    assert handlers["database_job"]["settings"][0]["type"] == "text"


def test_what_a_file_prints_is_no_part_of_the_list(folder: Path) -> None:
    """It goes to standard error."""
    done = run_main("handlers", "--json")
    assert done.stdout.startswith('{"configuration"')
    assert done.stderr == "a file that prints as it is loaded\n"


def test_the_text(folder: Path) -> None:
    """Without a terminal it is plain, at most 110 letters wide, and has what the JSON has."""
    done = run_main("handlers")
    assert done.returncode == 0
    assert "\033" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110
    start = done.stdout.index("mine.MineHandler")
    assert done.stdout[start:].splitlines()[1:8] == [
        "            Keeps what is mine, and says so.",
        "  class     MineHandler",
        "  used by   mine, spare (off)",
        "  levels    INFO AUDIT by default",
        "  delivery  committed by default",
        "  settings  where (path; required): Where it goes: `#` and all, in two lines.",
        "            count (whole number >= 1 or null; default null)",
    ]
    assert "Entries are those of logging_config.yml." in done.stdout


def test_a_terminal_gets_its_width(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it is narrower than the text."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run_handlers(Namespace(config=None, json=False)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("mine.")) <= 60


def test_a_file_that_cannot_be_loaded_is_listed(folder: Path) -> None:
    """With its problem, and the others are listed too: exit code 1."""
    (folder / "handlers" / "broken.py").write_text("import nothing_like_it\n")
    code, _, handlers = list_json()
    assert code == 1
    assert "broken.py:1: cannot be imported: ModuleNotFoundError" in handlers["broken"]["problem"]
    assert handlers["mine.MineHandler"]["problem"] == ""
    text = run_main("handlers").stdout
    assert "  problem   " in text
    assert "mine.MineHandler" in text


def test_a_wrong_configuration_does_not_end_the_list(folder: Path) -> None:
    """The entries are listed, the problem stands at the end: exit code 1."""
    (folder / "logging_config.yml").write_text(CONFIG + "  bad: {type: mine.MineHandler, where: 7}\n")
    code, listed, handlers = list_json()
    assert code == 1
    assert handlers["mine.MineHandler"]["used_by"] == ["mine", "spare (off)", "bad"]
    assert ["handlers.bad.where" in problem for problem in listed["problems"]] == [True]
    assert "logging_config.yml:6: handlers.bad.where: " in run_main("handlers").stdout.splitlines()[-1]


def test_a_dotted_path_that_the_configuration_names(folder: Path) -> None:
    """It is listed as well; one that is off is not loaded; one that leads nowhere is a problem."""
    (folder / "logging_config.yml").write_text(
        "handlers:\n"
        "  a: {type: emitd_handlers.testing.InMemoryHandler}\n"
        "  b: {type: antigravity_for_tests.Handler, enabled: false}\n"
        "  c: {type: nothing_like_it.Handler}\n"
    )
    code, _, handlers = list_json()
    assert code == 1
    assert handlers["emitd_handlers.testing.InMemoryHandler"]["origin"] == "dotted path"
    assert handlers["antigravity_for_tests.Handler"]["note"] == "not loaded, because its entries are off"
    assert handlers["antigravity_for_tests.Handler"]["problem"] == ""
    assert "there is no module 'nothing_like_it'" in handlers["nothing_like_it.Handler"]["problem"]


def test_an_entry_point_is_listed_with_its_distribution(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name and version."""
    site = tmp_path / "site"
    info = site / "acme_slack-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-slack\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[emitd.handlers]\nslack = emitd_handlers.testing:InMemoryHandler\n"
    )
    monkeypatch.syspath_prepend(site)
    _, _, handlers = list_json()
    assert handlers["slack"]["origin"] == "entry point of acme-slack 1.2"
    assert handlers["slack"]["class"] == "emitd_handlers.testing.InMemoryHandler"


def test_a_hidden_entry_point_is_used_by_nobody(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry that bears its name uses what hides it."""
    info = tmp_path / "site" / "acme_slack-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-slack\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[emitd.handlers]\nconsole = acme:ConsoleHandler\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    listed = json.loads(run_main("handlers", "--json").stdout)["handlers"]
    uses = [handler["used_by"] for handler in listed if handler["type"] == "console"]
    assert uses == [["lines"], []]


def test_a_missing_package_of_a_built_in_handler_is_no_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever did not install an extra does not use it; the problem is in the list all the same."""
    monkeypatch.delitem(sys.modules, "emitd_handlers.discard", raising=False)
    monkeypatch.setitem(sys.modules, "emitd_handlers.discard", None)
    code, _, handlers = list_json()
    assert handlers["discard"]["problem"]
    assert code == 0


def test_without_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in defaults count; a file that was asked for and is not there is a problem."""
    monkeypatch.chdir(tmp_path)
    code, listed, handlers = list_json()
    assert (code, listed["configuration"]) == (0, None)
    assert handlers["json_audit"]["used_by"] == ["audit"]
    assert "Entries are those of the built-in defaults." in run_main("handlers").stdout
    code, listed, _ = list_json("--config", "none.yml")
    assert code == 1
    assert listed["problems"] == ["none.yml: cannot be read: No such file or directory"]


def test_help_has_examples() -> None:
    """And the exit codes that every command has."""
    help_text = run_main("handlers", "--help").stdout
    assert "\n  emitd handlers --config /etc/emitd.yml --json\n" in help_text
    assert "exit codes:" in help_text


def test_settings_without_a_source_have_no_comments() -> None:
    """Such as a struct that was made by a call."""
    namespace: dict[str, Any] = {"HandlerSettings": HandlerSettings}
    exec("class Made(HandlerSettings, frozen=True):\n    # lost\n    x: int = 1\n", namespace)
    (setting,) = (item for item in describe_settings(namespace["Made"]) if item.name == "x")
    assert (setting.type, setting.default, setting.comment) == ("whole number", 1, "")
