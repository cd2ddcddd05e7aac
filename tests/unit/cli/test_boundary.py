"""The one boundary of the command line: whatever happens in a command, exit code 1 is left to verdicts.

The commands and their arguments are those of the parser, so that a new one is tested as well.
"""

import argparse
import importlib
import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_cli.arguments import make_parser
from support.client.fake_log_service import fail, fake_log_service
from support.processes.run_main import Done, run_main

NOBODY = "127.0.0.1:1"
#: Statuses by which a server refuses a record.
REFUSALS = (
    "INVALID_ARGUMENT",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED",
)


class Command(NamedTuple):
    """A command: its words, the function that runs it, and its arguments."""

    words: Sequence[str]
    run: str
    actions: Sequence[argparse.Action]

    @property
    def name(self) -> str:
        return " ".join(self.words)

    def line(self, tried: argparse.Action | None = None, value: str = "") -> list[str]:
        """Return a command line with every mandatory argument, and with this value of the one that is tried."""
        line = list(self.words)
        for action in self.actions:
            if action is tried:
                line += [f"{action.option_strings[-1]}={value}"] if action.option_strings else [value]
            elif action.dest == "address":
                line += ["--address", NOBODY]
            elif action.dest == "retry_seconds":
                line += ["--retry-seconds", "0"]
            elif action.required and action.option_strings:
                line += [action.option_strings[-1], "x1"]
            elif not action.option_strings and (action.nargs is None or action.dest == "message"):
                line.append("x1")
        return line


def walk(parser: argparse.ArgumentParser, *words: str) -> Iterator[Command]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                yield from walk(child, *words, word)
            return
    actions = [action for action in parser._actions if action.dest not in ("help", "json")]
    yield Command(words, parser._defaults["run"], actions)


COMMANDS = list(walk(make_parser()))
BY_NAME = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
#: Each argument that takes a value, of each command. What `serve` takes is a matter of its configuration.
ARGUMENTS = [
    pytest.param(command, action, id=f"{command.name} {(*action.option_strings, action.metavar)[-1]}")
    for command in COMMANDS
    for action in command.actions
    if action.nargs != 0 and command.name != "serve"
]
BY_ARGUMENT = pytest.mark.parametrize(("command", "action"), ARGUMENTS)
PATHS = ("FILE", "DIR", "LOG", "VKEY")


def takes_number(action: argparse.Action) -> bool:
    return action.metavar in ("N", "INDEX", "PERCENT", "SECONDS")


def has_json(command: Command) -> bool:
    return command.words[0] not in ("serve", "demo", "new-handler", "tls", "token")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


def deep() -> Any:
    return deep()


def recurse() -> BaseException:
    try:
        deep()
    except RecursionError as error:
        return error
    raise AssertionError


UNFORESEEN: Sequence[tuple[BaseException, int]] = (
    (ZeroDivisionError("division by zero"), 5),
    (KeyError("k"), 5),
    (MemoryError(), 5),
    (recurse(), 5),
    (AssertionError(), 5),
    (UnicodeEncodeError("ascii", "\u202e", 0, 1, "ordinal not in range"), 5),
    (ImportError("cannot import name 'x'"), 5),
    (ModuleNotFoundError("No module named 'rich'", name="rich"), 5),
    (Unprintable(), 5),
    (SystemExit("a text"), 5),
    (SystemExit(0), 5),
    (SystemExit(1), 5),
    (GeneratorExit(), 5),
    (ExceptionGroup("of tasks", [ValueError("a\nb"), OSError("c")]), 5),
    (grpc.RpcError(), 5),
    (OSError(28, "No space left on device"), 4),
    (PermissionError(13, "Permission denied", "/secret\x1b[2J"), 4),
    (ConnectionResetError(104, "Connection reset by peer"), 4),
    (TimeoutError(), 4),
)


def assert_told(done: Done, *, as_json: bool) -> None:
    """One line that says what it was, on standard error alone."""
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    assert done.stderr[:-1].isprintable()
    assert "Traceback" not in done.stderr
    if as_json:
        error = json.loads(done.stderr)["error"]
        assert error["message"]
        assert error["code"] in ("MISUSE", "CANNOT_TELL", "CANNOT_RUN", "UNAVAILABLE", "NOT_FOUND")
    else:
        assert done.stderr.startswith("emitd: ")


def make_raise(monkeypatch: pytest.MonkeyPatch, command: Command, error: BaseException) -> None:
    def run(_: Namespace) -> int:
        raise error

    module, _, function = command.run.partition(":")
    monkeypatch.setattr(importlib.import_module(f"emitd_cli.{module}"), function, run)


@BY_NAME
def test_an_error_that_nothing_foresaw(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    """Of every command: one line, and 5, or 4 if a file or a connection failed; never 1."""
    for error, code in UNFORESEEN:
        make_raise(monkeypatch, command, error)
        for as_json in (False, True) if has_json(command) else (False,):
            done = run_main(*command.line(), *(["--json"] if as_json else []))
            assert done.returncode == code, error
            assert_told(done, as_json=as_json)


def test_the_place_is_shown_to_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With EMITD_DEBUG there is a traceback before the line, and the exit code is the same."""
    make_raise(monkeypatch, next(c for c in COMMANDS if c.name == "job get"), ZeroDivisionError("by zero"))
    told = "emitd: ZeroDivisionError: by zero (not foreseen; EMITD_DEBUG=1 shows where)\n"
    assert run_main("job", "get", "j") == (5, "", told)
    monkeypatch.setenv("EMITD_DEBUG", "1")
    done = run_main("job", "get", "j")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith(f"\n{told}")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@BY_ARGUMENT
@pytest.mark.parametrize("value", ["\udcff", "a\udc80\udcfez", "\udced\udca0\udc80"])
def test_an_argument_that_is_not_utf_8(command: Command, action: argparse.Action, value: str) -> None:
    """Misuse that names it; a path may have any bytes, and is only not there."""
    done = run_main(*command.line(action, value))
    if action.metavar in PATHS:
        # check-config has a verdict on the file that it is to read.
        assert done.returncode in ((1,) if command.name in ("check-config", "handlers") else (0, 2, 4, 5))
        assert (done.stdout + done.stderr).replace("\n", "").isprintable()
        return
    assert done.returncode == 2
    assert_told(done, as_json=False)
    assert str(action.metavar or action.dest) in done.stderr or action.option_strings[-1] in done.stderr


@pytest.mark.parametrize(("command", "action"), [p for p in ARGUMENTS if takes_number(p.values[1])])
@pytest.mark.parametrize(
    "value", ["-1", str(2**64), str(2**63), "9" * 5000, "nan", "inf", "1e999", "0x10", "", " ", "٣", "1.5.2"]
)
def test_a_number_that_no_field_holds(command: Command, action: argparse.Action, value: str) -> None:
    """Misuse that names the flag. What fits is tried against a server that is not there."""
    done = run_main(*command.line(action, value))
    fits = value == str(2**63) and action.dest in ("after_revision", "from_index")
    fits |= action.metavar == "SECONDS" and value in (str(2**64), str(2**63), "٣")
    if fits:
        assert done.returncode in (2, 4)
        return
    assert done.returncode == 2
    assert_told(done, as_json=False)


@BY_ARGUMENT
def test_a_path_that_is_too_long(command: Command, action: argparse.Action) -> None:
    """No file has such a name: nothing is said of one that is bad."""
    if action.metavar not in ("FILE", "DIR", "LOG") or command.name in ("check-config", "handlers"):
        return
    done = run_main(*command.line(action, "a" * 5000))
    assert done.returncode in (2, 4)
    assert_told(done, as_json=False)


# With a space it would be an argument by place.
@given(st.text(st.characters(exclude_characters="\0 "), min_size=1, max_size=30), st.sampled_from(COMMANDS))
def test_any_words_after_a_command_are_misuse_or_nothing_there(text: str, command: Command) -> None:
    """Of what nobody could have meant, nothing is called bad."""
    done = run_main(*command.words, f"--nothing-like-this={text}")
    assert done.returncode == 2
    assert_told(done, as_json=False)


ASKS = [c for c in COMMANDS if any(action.dest == "address" for action in c.actions)]


@pytest.mark.parametrize("command", ASKS, ids=lambda command: command.name)
@pytest.mark.parametrize("status", list(grpc.StatusCode)[1:], ids=lambda status: status.name)
def test_a_question_that_the_server_refuses(command: Command, status: grpc.StatusCode) -> None:
    """It is misuse if it is wrong, and else cannot be told; only a record that is refused is bad."""
    line = [*command.line(), *(["x1"] if command.name == "job watch" else [])]
    with fake_log_service(fail(status, "not so")) as service:
        done = run_main(*(service.address if word == NOBODY else word for word in line))
        assert service.requests
    wanted = 2 if status is grpc.StatusCode.INVALID_ARGUMENT else 4
    if command.name == "emit":
        wanted = 1 if status.name in REFUSALS else 4
    assert done.returncode == wanted
    assert_told(done, as_json=False)


def test_every_command_is_walked() -> None:
    """Those of groups too."""
    assert {"serve", "emit", "job watch", "audit verify", "demo"} <= {command.name for command in COMMANDS}
