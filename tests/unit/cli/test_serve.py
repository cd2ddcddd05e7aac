"""`emitd serve` and `emitd check-config`: which configuration, and what is said of a bad one."""

import json
from pathlib import Path

import pytest

from emitd_server.config.loader import Config
from support.processes.run_main import run_main

GOOD = 'server: {listen: "127.0.0.1:4000"}\nhandlers: {d: {type: discard}}\n'
BAD = "servr: 1\nhandlers: {d: {type: discrd}}\n"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Config]:
    """The configurations that were served, in an empty folder."""
    configs: list[Config] = []

    def run(config: Config) -> int:
        configs.append(config)
        return 5

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emitd_server.process.run", run)
    return configs


def test_without_a_file(served: list[Config]) -> None:
    """It runs on built-in defaults, and says so; its exit code is the service's."""
    done = run_main("serve")
    assert (done.returncode, done.stdout) == (5, "")
    assert "built-in defaults" in done.stderr
    assert [entry.name for entry in served[0].handlers] == ["console", "audit", "jobs"]


def test_with_the_file_of_this_folder(served: list[Config]) -> None:
    """`logging_config.yml` is taken without being named."""
    Path("logging_config.yml").write_text(GOOD)
    done = run_main("serve")
    assert "logging_config.yml" in done.stderr
    assert "built-in" not in done.stderr
    assert served[0].server.listen == "127.0.0.1:4000"


def test_with_a_file_that_is_named(served: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes before the one of this folder; `--listen` and EMITD_LISTEN go before what it says."""
    Path("logging_config.yml").write_text(BAD)
    Path("mine.yml").write_text(GOOD)
    run_main("serve", "--config", "mine.yml")
    monkeypatch.setenv("EMITD_LISTEN", "127.0.0.1:4001")
    run_main("serve", "--config", "mine.yml")
    run_main("serve", "--config", "mine.yml", "--listen", "127.0.0.1:4002")
    assert [config.server.listen for config in served] == [f"127.0.0.1:400{n}" for n in range(3)]


def test_a_bad_file(served: list[Config]) -> None:
    """Every problem is told on standard error, nothing is served, and the exit code is 3."""
    Path("logging_config.yml").write_text(BAD)
    done = run_main("serve")
    assert (done.returncode, done.stdout, served) == (3, "", [])
    assert done.stderr.count("logging_config.yml:") == 2
    assert "did you mean 'server'?" in done.stderr
    assert "did you mean 'discard'?" in done.stderr


def test_a_named_file_that_is_not_there(served: list[Config]) -> None:
    """Built-in defaults do not stand in for a file that was asked for."""
    done = run_main("serve", "--config", "none.yml")
    assert (done.returncode, served) == (3, [])
    assert "none.yml" in done.stderr


def test_check_config(tmp_path: Path) -> None:
    """A good file is exit code 0 and names its handlers; a bad one is 1 and every problem on standard output."""
    (tmp_path / "good.yml").write_text(GOOD)
    (tmp_path / "bad.yml").write_text(BAD)
    good, bad = str(tmp_path / "good.yml"), str(tmp_path / "bad.yml")
    assert run_main("check-config", good) == (0, f"{good}: good; active handlers: d\n", "")
    assert json.loads(run_main("check-config", good, "--json").stdout) == []
    done = run_main("check-config", bad)
    assert (done.returncode, done.stderr) == (1, "")
    assert len(done.stdout.splitlines()) == 2
    as_json = run_main("check-config", bad, "--json")
    assert as_json.returncode == 1
    assert [(p["line"], p["path"], p["nearest"]) for p in json.loads(as_json.stdout)] == [
        (1, "servr", "server"),
        (2, "handlers.d.type", "discard"),
    ]


def test_check_config_without_a_file(tmp_path: Path) -> None:
    """That there is no file is a problem like any other: exit code 1."""
    done = run_main("check-config", str(tmp_path / "none.yml"))
    assert done.returncode == 1
    assert "cannot be read" in done.stdout
