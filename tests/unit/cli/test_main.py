"""The entry point: what it loads, how it ends, and what `--help` says."""

import io
import json
import subprocess
import sys
from argparse import Namespace
from importlib.metadata import version

import pytest

from emitd_cli import main
from emitd_cli.arguments import make_parser
from emitd_cli.errors import CannotTell, ExitCode, Misuse
from emitd_cli.operate import config
from support.processes.run_main import run_main


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def raising(error: BaseException) -> object:
    def run(_: Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    "command",
    ["", "serve", "check-config", "emit", "job list", "job get", "job watch", "job history", "job cancel"],
)
def test_help_tells_the_exit_codes(command: str) -> None:
    """Of the program and of every command, with an example each."""
    done = run_main(*command.split(), "--help")
    assert done.returncode == 0
    codes = done.stdout.partition("exit codes:\n")[2].splitlines()
    assert [line.split()[0] for line in codes if line] == ["0", "1", "2", "3", "4", "5"]
    assert not command or f"\n  emitd {command}" in done.stdout.partition("examples:")[2]


def test_the_version() -> None:
    """It is the distribution's."""
    assert run_main("--version") == (0, f"emitd {version('emitd')}\n", "")


def test_help_is_quick() -> None:
    """It loads neither grpc nor protobuf nor the server nor rich."""
    code = (
        "import sys\nfrom emitd_cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stderr.replace("'", '"')))
    assert loaded.isdisjoint(
        {"emitd", "emitd_server", "emitd_handlers", "google", "grpc", "msgspec", "rich", "yaml"}
    )


@pytest.mark.parametrize("name", ["emit.command", "jobs.commands", "jobs.watch"])
def test_a_client_command_loads_no_server(name: str) -> None:
    """Nor rich, which the base install does not bring."""
    done = run_python(f"import emitd_cli.{name}, sys\nprint(' '.join(sys.modules))")
    assert done.returncode == 0, done.stderr
    assert not {"emitd_server", "emitd_handlers.base", "rich", "yaml"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Misuse("wrong"), 2, "emitd: wrong\n"),
        (CannotTell("nobody\nthere"), 4, "emitd: nobody\\nthere\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_command_ends(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, told: str
) -> None:
    """An expected trouble is one line and its exit code; Ctrl-C is quiet."""
    monkeypatch.setattr(config, "run_check", raising(error))
    assert run_main("check-config") == (code, "", told)


def test_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag goes before EMITD_ADDRESS, which goes before the default; an empty one counts as none."""

    def address(*flags: str) -> str:
        return str(make_parser().parse_args(["emit", "x", *flags]).address)

    monkeypatch.setenv("EMITD_ADDRESS", "from.environment:1")
    assert address() == "from.environment:1"
    assert address("--address", "from.flag:1") == "from.flag:1"
    monkeypatch.setenv("EMITD_ADDRESS", "")
    assert address() == "127.0.0.1:50051"


def test_a_missing_extra_is_told() -> None:
    """Without the server's modules, `serve` says what brings them: exit code 5."""
    code = (
        "import sys\nsys.modules['yaml'] = None\nfrom emitd_cli.main import main\nsys.exit(main(['serve']))"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "emitd: there is no module 'yaml'; install emitd with the extra [server]\n"


def test_a_pipe_that_nobody_reads_ends_quietly() -> None:
    """Also when what was printed is noticed only at the end."""
    done = subprocess.run(
        f"{sys.executable} -m emitd_cli --help | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_terminal_has_no_letter_for_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of an error."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(config, "run_check", lambda _: print("世界") or 0)
    assert main.main(["check-config"]) == 0
    assert written.getvalue() == b"\\u4e16\\u754c\n"


def test_exit_codes_are_those_of_the_design() -> None:
    """Scripts rely on the numbers."""
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 130]
