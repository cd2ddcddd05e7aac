"""From a `type:` to a class: what is found, and what is said of what is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from emitd_handlers.base import BaseLogHandler
from emitd_server.config.discovery import BUILT_IN, DiscoveryError, HandlerFinder, HandlerFolder

HANDLER = """\
from emitd_handlers import BaseLogHandler

class {name}(BaseLogHandler):
    def emit(self, record):
        pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path, "mine")


def make_folder(tmp_path: Path, name: str, **handlers: str) -> Path:
    """Make a folder with a file for each of `handlers`: its module's name, and its class's."""
    folder = tmp_path / name
    folder.mkdir()
    for module, class_name in handlers.items():
        (folder / f"{module}.py").write_text(HANDLER.format(name=class_name))
    return folder


def finder_of(*folders: Path) -> HandlerFinder:
    return HandlerFinder([HandlerFolder(folder, folder.name) for folder in folders])


def failure(finder: HandlerFinder, type_name: str) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        finder.find(type_name)
    return caught.value


@pytest.mark.parametrize("type_name", BUILT_IN)
def test_a_built_in_name_is_a_handler(type_name: str) -> None:
    """Each short name leads to a class that can be used."""
    found = finder_of().find(type_name)
    assert issubclass(found, BaseLogHandler)
    assert f"{found.__module__}.{found.__name__}" == BUILT_IN[type_name]


def test_built_in_handlers_are_loaded_when_they_are_asked_for() -> None:
    """Nobody loads the drivers of a handler that is not used."""
    code = (
        "import sys, emitd_server.config.loader as c\n"
        "from emitd_server.config.discovery import BUILT_IN, HandlerFinder\n"
        "modules = [path.rpartition('.')[0] for path in BUILT_IN.values()]\n"
        "assert not any(module in sys.modules for module in modules)\n"
        "HandlerFinder([]).find('discard')\n"
        "print([module for module in modules if module in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "['emitd_handlers.discard']\n"


def test_a_file_is_loaded_under_a_private_name(folder: Path) -> None:
    """`sys.path` and the names of other modules stay as they are; a second finder loads it anew."""
    (folder / "json.py").write_text(HANDLER.format(name="Mine"))
    path = list(sys.path)
    first, second = finder_of(folder).find("json.Mine"), finder_of(folder).find("json.Mine")
    assert sys.path == path
    assert sys.modules["json"].__file__ != str(folder / "json.py")
    assert first.__module__ != second.__module__
    assert sys.modules[first.__module__].Mine is first
    assert sys.modules[second.__module__].Mine is second


@pytest.mark.parametrize("ending", ["", "raise ValueError('no')\n"])
def test_a_file_is_run_once(folder: Path, ending: str) -> None:
    """However many entries name it, and also if it fails."""
    runs = folder / "runs"
    handlers = HANDLER.format(name="A") + HANDLER.format(name="B")
    (folder / "my.py").write_text(
        f"with open({str(runs)!r}, 'a') as file: file.write('x')\n{handlers}{ending}"
    )
    finder = finder_of(folder)
    for type_name in ("my.A", "my.B"):
        if ending:
            assert "my.py:12: cannot be imported: ValueError: no" in str(failure(finder, type_name))
        else:
            assert finder.find(type_name).__name__ == type_name[-1]
    assert runs.read_text() == "x"


def test_a_class_in_two_files_is_ambiguous(tmp_path: Path) -> None:
    """The message names both; two files of one name with different classes are not."""
    finder = finder_of(
        make_folder(tmp_path, "a", my="Mine", other="One"),
        make_folder(tmp_path, "b", my="Mine", other="Two"),
    )
    assert str(failure(finder, "my.Mine")) == "'my.Mine' is ambiguous: it is in a/my.py and in b/my.py"
    assert finder.find("other.One").__name__ == "One"
    assert finder.find("other.Two").__name__ == "Two"


def test_a_folder_that_is_listed_twice_is_one(tmp_path: Path) -> None:
    """Also under another name."""
    folder = make_folder(tmp_path, "a", my="Mine")
    (tmp_path / "b").symlink_to(folder)
    assert finder_of(folder, folder, tmp_path / "b").find("my.Mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("type_name", "near"), [("consol", "console"), ("jsonaudit", "json_audit"), ("nothing_like_it", "")]
)
def test_an_unknown_short_name(type_name: str, near: str) -> None:
    """What there is, and what was probably meant."""
    error = failure(finder_of(), type_name)
    assert str(error) == f"unknown handler type '{type_name}'"
    assert error.expected == "console, json_audit, database_job, file, discard, webhook or 'module.Class'"
    assert error.nearest == near


@pytest.mark.parametrize("type_name", ["", ".", "my.", ".my.Mine", "my..Mine", "../mine/my.Mine", "/my.Mine"])
def test_what_is_no_name_of_a_class_leads_nowhere(folder: Path, type_name: str) -> None:
    """No path leads out of the folders."""
    (folder / "my.py").write_text(HANDLER.format(name="Mine"))
    (folder / "inner").mkdir()
    assert "unknown handler type" in str(failure(finder_of(folder / "inner"), type_name))


def test_a_missing_module_is_named_with_the_folders(tmp_path: Path) -> None:
    """It says where it was looked for."""
    error = failure(finder_of(make_folder(tmp_path, "a", slack="SlackHandler")), "slak.SlackHandler")
    assert str(error) == "there is no module 'slak', neither to import nor in a"
    assert "see handler_paths" in str(failure(finder_of(), "slak.SlackHandler"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\nimport nothing_like_it\n", "my.py:2: cannot be imported: ModuleNotFoundError: No module"),
        ("def f():\n    raise OSError('a\\n  b')\nf()\n", "my.py:2: cannot be imported: OSError: a b"),
        ("raise KeyError\n", "my.py:1: cannot be imported: KeyError"),
        ("import sys\nsys.exit(3)\n", "my.py:2: cannot be imported: SystemExit: 3"),
        ("x = 1\ndef (\n", "my.py:2: cannot be imported: SyntaxError: "),
        ("exec('\\n\\n\\n(')\n", "my.py:1: cannot be imported: SyntaxError: "),
    ],
)
def test_a_file_that_cannot_be_imported(folder: Path, text: str, expected: str) -> None:
    """The message has the file, the line in that file, and the exception; a failure leaves no module behind."""
    (folder / "my.py").write_text(text)
    before = set(sys.modules)
    message = str(failure(finder_of(folder), "my.Mine"))
    assert message.startswith(f"{folder.name}/{expected}")
    assert "\n" not in message
    assert not [name for name in set(sys.modules) - before if name.startswith("emitd_handler_file")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import nothing_like_it\n", "ModuleNotFoundError: No module named 'nothing_like_it' ({file}:1)"),
        ("\nraise OSError('a\\nb')\n", "OSError: a b ({file}:2)"),
        ("\n\n(\n", "SyntaxError: '(' was never closed (broken_on_purpose.py, line 3) ({file}:3)"),
        ("raise SystemExit\n", "SystemExit ({file}:1)"),
    ],
)
def test_a_dotted_path_that_cannot_be_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    """A module that is there and fails is told from one that is missing; the message says where it failed."""
    file = folder / "broken_on_purpose.py"
    file.write_text(text)
    monkeypatch.syspath_prepend(folder)
    message = str(failure(finder_of(), "broken_on_purpose.Mine"))
    assert message == f"module 'broken_on_purpose' cannot be imported: {expected.format(file=file)}"


def test_a_failure_without_a_line_names_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a line that is not known, nor one of Python's own machinery."""
    (folder / "holds_null_bytes.py").write_text("x = '\0'\n")
    by_file = str(failure(finder_of(folder), "holds_null_bytes.Mine"))
    monkeypatch.syspath_prepend(folder)
    by_path = str(failure(finder_of(), "holds_null_bytes.Mine"))
    for message in (by_file, by_path):
        assert "cannot be imported: " in message
        assert "null bytes" in message
        assert "None" not in message
        assert "importlib" not in message


def test_a_dotted_path_whose_class_is_missing() -> None:
    """The nearest class is one of handlers."""
    error = failure(finder_of(), "emitd_handlers.testing.InMemoryHandlr")
    assert str(error) == "module 'emitd_handlers.testing' has no class 'InMemoryHandlr'"
    assert error.nearest == "InMemoryHandler"
    assert (
        str(failure(finder_of(), "json.JSONDecoder")) == "'JSONDecoder' in module 'json' is no BaseLogHandler"
    )


def test_the_base_class_itself_is_abstract() -> None:
    """The message names what is missing."""
    message = str(failure(finder_of(), "emitd_handlers.BaseLogHandler"))
    assert message == "'BaseLogHandler' in module 'emitd_handlers' is abstract: it does not define emit"


def install(site: Path, name: str, version: str, value: str, point: str = "slack") -> None:
    """Lay a distribution into a folder of `sys.path`, as an installer does: its metadata, and the entry point."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[emitd.handlers]\n{point} = {value}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of `sys.path` for distributions; its module `acme_slack_for_tests` has the class SlackHandler."""
    site = make_folder(tmp_path, "site", acme_slack_for_tests="SlackHandler")
    monkeypatch.syspath_prepend(site)
    return site


@pytest.mark.parametrize("point", ["slack", "acme.slack"])
def test_an_entry_point_is_a_type(site: Path, point: str) -> None:
    """An installed distribution's handler is found by the name that it gave, short or dotted."""
    install(site, "acme-slack", "1.2", "acme_slack_for_tests:SlackHandler", point)
    found = finder_of().find(point)
    assert (found.__module__, found.__name__) == ("acme_slack_for_tests", "SlackHandler")


def test_an_entry_point_changes_no_other_type(site: Path, folder: Path) -> None:
    """Built-in names and files come before it, and it comes before a dotted path."""
    value = "acme_slack_for_tests:SlackHandler"
    for number, point in enumerate(("console", "my.Mine", "emitd_handlers.testing.InMemoryHandler")):
        install(site, f"acme-{number}", "1", value, point)
    (folder / "my.py").write_text(HANDLER.format(name="Mine"))
    finder = finder_of(folder)
    assert finder.find("console").__name__ == "ConsoleHandler"
    assert finder.find("my.Mine").__name__ == "Mine"
    assert finder.find("emitd_handlers.testing.InMemoryHandler").__name__ == "SlackHandler"
    notes = {found.type_name: found.note for found in finder.find_all() if found.origin.startswith("entry")}
    assert notes["console"] == "hidden by the built-in type of the same name"
    assert notes["my.Mine"] == "hidden by mine/my.py of the same name"


def test_an_entry_point_of_two_distributions_is_ambiguous(site: Path) -> None:
    """The message names both, and what each means by the name."""
    install(site, "acme-slack", "1.2", "acme_slack_for_tests:SlackHandler")
    install(site, "other-slack", "0.3", "other:Handler")
    assert str(failure(finder_of(), "slack")) == (
        "'slack' is ambiguous: it is an entry point of acme-slack 1.2 (acme_slack_for_tests:SlackHandler) "
        "and of other-slack 0.3 (other:Handler)"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("not_there:Handler", "cannot be loaded: ModuleNotFoundError: No module named 'not_there'"),
        (
            "acme_slack_for_tests:Other",
            "cannot be loaded: AttributeError: module 'acme_slack_for_tests' has no attribute 'Other'",
        ),
        (
            "acme_slack_for_tests",
            "cannot be loaded: ValueError: 'acme_slack_for_tests' is no 'module:Class'",
        ),
        ("broken_slack_for_tests:X", "cannot be loaded: OSError: a b ({site}/broken_slack_for_tests.py:2)"),
    ],
)
def test_an_entry_point_that_cannot_be_loaded(site: Path, value: str, expected: str) -> None:
    """The message names the distribution, its version, and the cause."""
    (site / "broken_slack_for_tests.py").write_text("\nraise OSError('a\\nb')\n")
    install(site, "acme-slack", "1.2", value)
    message = str(failure(finder_of(), "slack"))
    assert message == f"entry point 'slack' of acme-slack 1.2 {expected.format(site=site)}"


def test_an_entry_point_that_is_no_handler(site: Path) -> None:
    """It is told by its value and its distribution."""
    install(site, "acme-slack", "1.2", "json:JSONDecoder")
    message = "'json:JSONDecoder' in entry point 'slack' of acme-slack 1.2 is no BaseLogHandler"
    assert str(failure(finder_of(), "slack")) == message


def test_a_damaged_distribution_is_still_named(site: Path) -> None:
    """Metadata without a name and a version ends nothing."""
    install(site, "acme-slack", "1.2", "json:JSONDecoder")
    (site / "acme_slack-1.2.dist-info" / "METADATA").write_text("")
    assert "entry point 'slack' of an unnamed distribution" in str(failure(finder_of(), "slack"))


@pytest.mark.parametrize(("type_name", "near"), [("slak", "slack"), ("consle", "console")])
def test_the_nearest_of_all_short_names(site: Path, type_name: str, near: str) -> None:
    """Built-in names and entry points are looked through."""
    install(site, "acme-slack", "1.2", "acme_slack_for_tests:SlackHandler")
    error = failure(finder_of(), type_name)
    assert error.nearest == near
    assert error.expected == f"{', '.join(BUILT_IN)}, slack or 'module.Class'"


def test_all_that_an_entry_could_name(site: Path, tmp_path: Path) -> None:
    """Built-in types, each class that a file defines, entry points; what cannot be used, with its problem."""
    install(site, "acme-slack", "1.2", "acme_slack_for_tests:SlackHandler")
    folder = make_folder(tmp_path, "mine", one="One", _private="Private")
    (folder / "one.py").write_text(
        "from abc import ABC\nfrom emitd_handlers.discard import DiscardHandler\n"
        + HANDLER.format(name="One")
        + HANDLER.format(name="Two")
        + "class Base(BaseLogHandler, ABC): ...\nclass _Hidden(One): ...\nAlias = One\n"
    )
    (folder / "broken.py").write_text("import nothing_like_it\n")
    (folder / "helper.py").write_text("x = 1\n")
    found = {handler.type_name: handler for handler in finder_of(folder).find_all()}
    assert [*found] == [*BUILT_IN, "broken", "helper", "one.One", "one.Two", "slack"]
    assert found["console"].origin == "built in"
    assert found["one.Two"].origin == "file mine/one.py"
    assert found["one.Two"].handler_class is not None
    assert found["slack"].origin == "entry point of acme-slack 1.2"
    assert found["slack"].handler_class is sys.modules["acme_slack_for_tests"].SlackHandler
    assert "broken.py:1: cannot be imported" in found["broken"].problem
    assert found["helper"].note == "defines no class that derives from BaseLogHandler"
