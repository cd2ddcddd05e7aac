"""`make weigh`: what it counts, against the code itself and in a small repository."""

import shutil
import subprocess
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from emitd.fastapi import WebSettings
from emitd.settings import ClientSettings
from emitd_handlers.settings import HandlerSettings
from emitd_server.config.discovery import BUILT_IN, HandlerFinder
from emitd_server.settings import ServerSettings
from support.docs import weigh
from support.docs.command_reference import help_texts

PYPROJECT = """
[project]
dependencies = ["a", "b"]
[project.optional-dependencies]
cli = ["c"]
"""
ARGUMENTS = """
import argparse
def make_parser():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    commands.add_parser("serve")
    jobs = commands.add_parser("job").add_subparsers()
    jobs.add_parser("get")
    return parser
"""
#: The lines of ARGUMENTS are product.
ARGUMENTS_LINES = ARGUMENTS.count("\n")

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def git(repository: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(
        ["git", *identity, *arguments], cwd=repository, check=True, capture_output=True, timeout=60
    )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which `weigh` takes for the project's."""
    for path, text in {
        "pyproject.toml": PYPROJECT,
        "protos/emitd/v1/log.proto": "service A {\n  rpc One(B) returns (C);\n  // rpc Two\n}\n",
        "server/emitd_cli/__init__.py": "",
        "server/emitd_cli/arguments.py": ARGUMENTS,
        "clients/python/emitd/v1/log_pb2.py": "generated\n",
        "clients/python/examples/example.py": "print()\n",
        "tests/test_a.py": "def test_a():\n    pass\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    monkeypatch.setattr(weigh, "ROOT", tmp_path)
    return tmp_path


def rows(printed: str) -> dict[str, list[str]]:
    """The table as its numbers by name."""
    return {line[:24].rstrip(): line[24:].split() for line in printed.splitlines()}


def settings_below(folder: str) -> int:
    files = (weigh.ROOT / folder).rglob("*.py")
    return weigh.count_settings([file.read_text() for file in files])


def keys_of(struct: type[msgspec.Struct]) -> set[tuple[str, str]]:
    """The keys of a struct and of its sections, with the name of the struct that they are from."""
    found = set()
    for field in msgspec.structs.fields(struct):
        types = [kind for kind in types_in(field.type) if is_section(kind)]
        found.update(*map(keys_of, types))
        if field.type not in types:
            owner = HandlerSettings if field.name in HandlerSettings.__struct_fields__ else struct
            found.add((owner.__name__, field.name))
    return found


def types_in(kind: object) -> set[object]:
    """The type, and those that it is made of."""
    return {kind}.union(*map(types_in, get_args(kind)))


def is_section(kind: object) -> bool:
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return is_struct and kind.__name__.endswith(("Settings", "ListenEntry"))


def test_the_settings_counted_are_those_of_the_structs() -> None:
    """The server's with its sections; each handler's own and the common ones; the client's and its web part's."""
    assert settings_below("server") == len(keys_of(ServerSettings))
    finder = HandlerFinder([])
    assert settings_below("handlers") == len(
        set().union(*(keys_of(finder.find(name).Settings) for name in BUILT_IN))
    )
    client = len(ClientSettings.__struct_fields__) + len(WebSettings.__dataclass_fields__)
    assert settings_below("clients/python/emitd") == client


def test_an_inherited_setting_counts_once() -> None:
    """Also if a class changes its default; a section counts as its keys, and a constant does not count."""
    base = "class HandlerSettings(Struct):\n    size: int = 1\n    kind: ClassVar[str] = 'a'\n"
    derived = "class ASettings(m.HandlerSettings):\n    size: int = 2\n    part: PartSettings = 3\n"
    section = "class PartSettings(Struct):\n    one: int\n    two: int\nclass Other:\n    three: int\n"
    assert weigh.count_settings([derived, base, section]) == 3


def test_the_commands_counted_are_those_with_a_help_text() -> None:
    """Those that only group others do not count."""
    names = [name for name, _ in help_texts()]
    commands = [name for name in names if not any(other.startswith(f"{name} ") for other in names)]
    assert weigh.count_commands(weigh.ROOT) == len(commands)


@needs_git
def test_the_tree_as_it_is_is_weighed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files not committed yet count, generated stubs and examples do not. Without tags it says so."""
    (repository / "handlers").mkdir()
    (repository / "handlers" / "new.py").write_text("a = 1\nb = 2\n")
    assert weigh.main([]) == 0
    printed = capsys.readouterr()
    assert printed.err == "there are no tags; SINCE=REV compares with a revision\n"
    counted = rows(printed.out)
    assert counted["product lines"] == [str(ARGUMENTS_LINES + 2)]
    assert counted["product files"] == ["3"]
    assert counted["test lines"] == ["2"]
    assert counted["test files"] == ["1"]
    assert counted["commands"] == ["2"]
    assert counted["RPCs"] == ["1"]
    assert counted["dependencies, base"] == ["2"]
    assert counted["dependencies, cli"] == ["1"]


@needs_git
@pytest.mark.parametrize("arguments", [[], ["--tag", "v1.*"], ["--since", "HEAD~1"]])
def test_it_compares_with_a_tag_or_a_revision(
    repository: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """The last tag, the last that matches, or what `--since` names; each from the files of that commit."""
    git(repository, "tag", "v1.0")
    (repository / "tests" / "test_a.py").unlink()
    (repository / "pyproject.toml").write_text(PYPROJECT.replace("cli", "web"))
    git(repository, "commit", "--quiet", "--all", "-m", "two")
    assert weigh.main(arguments) == 0
    counted = rows(capsys.readouterr().out)
    assert counted["test lines"] == ["2", "0", "-2"]
    assert counted["product lines"] == [str(ARGUMENTS_LINES), str(ARGUMENTS_LINES), "+0"]
    assert counted["dependencies, cli"] == ["1", "0", "-1"]
    assert counted["dependencies, web"] == ["0", "1", "+1"]


@needs_git
def test_a_tag_that_there_is_not_is_an_error(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counts of now are printed all the same."""
    assert weigh.main(["--tag", "v9"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "no tag matches v9; SINCE=REV compares with a revision\n"
    assert rows(printed.out)["RPCs"] == ["1"]
