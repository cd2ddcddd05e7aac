"""The parser of command lines: what it says of misuse."""

import json

import pytest

from emitd_cli.arguments import make_parser
from emitd_cli.errors import Misuse
from support.processes.run_main import run_main


@pytest.mark.parametrize(
    ("arguments", "told", "field"),
    [
        (["jobs"], "COMMAND: 'jobs' is not one of serve, ", "COMMAND"),
        (
            ["job", "lst"],
            "'lst' is not one of list, get, watch, history, cancel; see 'emitd job --help'",
            "COMMAND",
        ),
        (["job", "get"], "the following arguments are required: JOB_ID; see 'emitd job get --help'", ""),
        (["emit", "--stauts", "RUNNING"], "there is no flag --stauts; see 'emitd emit --help'", ""),
        (["emit", "x", "--levl=INFO"], "there is no flag --levl; see 'emitd emit --help'", ""),
        (["emit", "x", "--zzz"], "there is no flag --zzz; see 'emitd emit --help'", ""),
        (["job", "list", "--nope"], "there is no flag --nope; see 'emitd job list --help'", ""),
        (["emit", "x", "--lev", "INFO"], "there is no flag --lev; see 'emitd emit --help'", ""),
        (
            ["emit", "hello", "world"],
            "'world' is one argument too many; see 'emitd emit --help'",
            "",
        ),
        (["emit", "x", "--audit"], "--audit: expected one argument", "--audit"),
        (["emit", "x", "-a"], "--attribute: expected one argument", "--attribute"),
        (
            ["emit", "--file", "f", "--format", "json"],
            "--format: 'json' is not one of lines, jsonl",
            "--format",
        ),
        (
            ["emit", "--job", "j", "--progress", "40%"],
            "--progress: '40%' is not a whole number from 0 to 100",
            "--progress",
        ),
        (
            ["emit", "--job", "j", "--progress", "101"],
            "--progress: '101' is not a whole number from 0 to 100",
            "--progress",
        ),
        (
            ["emit", "--job", "j", "--progress", "-5"],
            "--progress: '-5' is not a whole number from 0 to 100",
            "--progress",
        ),
    ],
)
def test_misuse(arguments: list[str], told: str, field: str) -> None:
    """The words are the same with every release of Python."""
    with pytest.raises(Misuse) as raised:
        make_parser().parse_args(arguments)
    assert told in str(raised.value)
    assert raised.value.field == field


def test_misuse_points_to_the_command_s_own_help() -> None:
    """Not to that of the whole program."""
    assert run_main("emit", "a", "b").stderr.endswith("; see 'emitd emit --help'\n")


@pytest.mark.parametrize("arguments", [["job", "lst", "--json"], ["emit", "--json", "--level"], ["--json"]])
def test_misuse_in_json(arguments: list[str]) -> None:
    """A program gets JSON also where the rest of the command line is wrong."""
    done = run_main(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["code"] == "MISUSE"


def test_what_stands_behind_two_dashes_is_no_flag() -> None:
    """A message may be `--json`."""
    assert make_parser().parse_args(["emit", "--", "--json"]).message == "--json"
    assert not run_main("emit", "--address", "", "--", "--json").stderr.startswith("{")


@pytest.mark.parametrize(
    "words",
    [
        "serve --config=~/x",
        "check-config ~/x",
        "handlers --config=~/x",
        "new-handler slack.Slack --folder=~/x",
        "audit verify ~/x",
        "audit verify --against=~/x",
        "audit verify --key=~/x",
        "audit prove e1 --log=~/x",
        "audit prove e1 --output=~/x",
        "audit check ~/x",
        "audit export ~/x",
        "audit key ~/x",
        "emit many --file=~/x",
    ],
)
def test_a_home_folder_is_found_where_the_shell_leaves_it(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell expands `~` at the beginning of a word only, and a service manager never does."""
    monkeypatch.setenv("HOME", "/home/me")
    values = vars(make_parser().parse_args(words.split())).values()
    assert "/home/me/x" in [
        item for value in values for item in (value if isinstance(value, list) else [value])
    ]
