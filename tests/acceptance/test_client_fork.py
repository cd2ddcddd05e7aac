"""The client in a program that forks: the real fork, the real server, each Python that is found."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from emitd.v1 import JOB_STATE_COMPLETED
from support.fork.counts import CONFIG, assert_once, keys_in_audit, keys_in_lines, run
from support.processes.pythons import PYTHONS, python_for
from support.processes.server_process import ServerProcess
from support.soak.server import free_port

FORK_SUPPORT = {"unset": {}, "set": {"GRPC_ENABLE_FORK_SUPPORT": "1"}}
FORKS, FORKS_ELSEWHERE = 200, 60
#: The default; and what a busy machine may take beside.
FORK_WAIT_SECONDS = 1.0
SLACK_SECONDS = 1.8
#: That of `moments.watched`.
LONG_FORK_WAIT_SECONDS = 10.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess.start(CONFIG, tmp_path) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("fork_support", FORK_SUPPORT)
@pytest.mark.parametrize("version", PYTHONS)
def test_forks_under_load_lose_and_double_nothing(
    server: ServerProcess, tmp_path: Path, version: str, fork_support: str
) -> None:
    """Children of every kind end well, and what they and their parent sent arrives once; its job and watch go on."""
    python = python_for(version)
    forks = FORKS_ELSEWHERE if version else FORKS
    environ = FORK_SUPPORT[fork_support]
    told = run(python, "load.py", server.address, tmp_path / "spool", forks, environ=environ)
    assert told["errors"] == []
    assert told["flushed"]
    assert told["ended_as"] == JOB_STATE_COMPLETED
    assert told["progress"] == sorted(told["progress"])
    assert told["progress"][-1] == 100
    assert not told["spool_left"]
    assert not told["unconfirmed"], "the parent's connection was broken"
    assert_once(keys_in_audit(tmp_path), told["events"])
    assert_once(keys_in_lines(server, tmp_path), told["lines"])


@pytest.mark.slow
@pytest.mark.parametrize("fork_support", FORK_SUPPORT)
@pytest.mark.parametrize("version", PYTHONS)
def test_forks_in_an_event_loop_with_open_watches(
    server: ServerProcess, tmp_path: Path, version: str, fork_support: str
) -> None:
    """Children of a program on asyncio end well, whichever client they use; its watches and its job go on."""
    python, environ = python_for(version), FORK_SUPPORT[fork_support]
    told = run(python, "async_run.py", server.address, tmp_path / "spool", FORKS_ELSEWHERE, environ=environ)
    assert told["errors"] == []
    assert [progress[-1] for progress in told["progress"]] == [100] * 3
    assert_once(keys_in_audit(tmp_path), told["keys"])
    lines = [f"{key}.{line}" for key in told["keys"] for line in range(3)]
    parents = [f"parent{number}" for number in range(FORKS_ELSEWHERE)]
    assert_once(keys_in_lines(server, tmp_path), [*lines, *parents])


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_forks_while_threads_make_use_and_close_clients(
    server: ServerProcess, tmp_path: Path, version: str
) -> None:
    """Whatever a thread of the parent is just doing with a client, a child can use it, unless it was closed."""
    told = run(python_for(version), "moments.py", "first_use", server.address, tmp_path / "spool")
    assert told["errors"] == []
    assert any(key.startswith("child") for key in told["keys"])
    assert_once(keys_in_audit(tmp_path), told["keys"])
    assert_once(keys_in_lines(server, tmp_path), told["keys"])


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_forks_just_after_the_last_client_was_closed(
    server: ServerProcess, tmp_path: Path, version: str
) -> None:
    """Parent and child can each have another."""
    told = run(python_for(version), "moments.py", "closed", server.address, tmp_path / "spool")
    assert told["errors"] == []
    assert_once(keys_in_audit(tmp_path), told["keys"])
    assert_once(keys_in_lines(server, tmp_path), told["keys"])


@pytest.mark.slow
def test_a_forked_child_can_run_a_job_with_its_parents_reporter(
    server: ServerProcess, tmp_path: Path
) -> None:
    """The run is of the process that begins it, which reports its end."""
    told = run(python_for(""), "moments.py", "handed_over", server.address, tmp_path / "spool")
    assert told == {"errors": [], "ended_as": JOB_STATE_COMPLETED, "progress": 100}


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_forks_while_threads_hold_the_locks_of_a_client(tmp_path: Path, version: str) -> None:
    """No child waits for a lock that a thread of its parent had."""
    address = f"127.0.0.1:{free_port()}"
    assert run(python_for(version), "moments.py", "busy", address, tmp_path / "spool") == {"errors": []}


@pytest.mark.slow
@pytest.mark.parametrize("is_listening", [False, True], ids=["down", "hanging"])
def test_calls_without_an_answer_hold_up_a_fork_no_longer_than_fork_wait(
    tmp_path: Path, is_listening: bool
) -> None:
    """They are interrupted in time, with several clients too; and a child spools what it cannot send."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = f"127.0.0.1:{hanging.getsockname()[1]}"
        if not is_listening:
            hanging.close()
        told = run(python_for(""), "moments.py", "no_answer", address, tmp_path / "spool")
    assert told["errors"] == []
    assert told["slowest"] < FORK_WAIT_SECONDS + SLACK_SECONDS


@pytest.mark.slow
def test_watches_do_not_hold_up_a_fork(server: ServerProcess, tmp_path: Path) -> None:
    """They are ended for it at once, and made again."""
    told = run(python_for(""), "moments.py", "watched", server.address, tmp_path / "spool")
    assert told["errors"] == []
    assert told["slowest"] < LONG_FORK_WAIT_SECONDS / 4


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_what_children_of_multiprocessing_log_arrives_once(
    server: ServerProcess, tmp_path: Path, version: str
) -> None:
    """By spawn and by fork, in a process, a pool and an executor; the last lines are sent when they end."""
    environ = {"EMITD_ADDRESS": server.address, "EMITD_SPOOL": str(tmp_path / "spool")}
    told = run(python_for(version), "processes.py", environ=environ)
    assert told["errors"] == []
    assert "cannot be pickled" in told["refused"]
    assert_once(keys_in_audit(tmp_path), told["keys"])
    assert_once(keys_in_lines(server, tmp_path), told["keys"])
