"""Death at exit: what is logged while the program ends already, and clients that are closed at an odd moment.

Each moment is a program of its own, `support.exit.moments`; all of them are run once for each Python.
"""

import json
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest

from emitd.client import LogClient
from emitd.v1.record_pb2 import JobState
from support.exit.runs import Program, Run, config, free_address, hanging_server, lines_in, waiting_in
from support.processes.pythons import PYTHONS, python_for
from support.processes.server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXIT_CODE = 7
#: `close_timeout` of the programs, and what else an end may take on a loaded machine.
END_SECONDS = 1.0 + 5.0
PROGRAMS_AT_ONCE = 4

#: With a server that is up: the lines that arrive, each once, and what the program says.
UP: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "log_in_atexit_before": (["line"], []),
    "log_in_atexit_after": (["line", "second"], ["True"]),
    "log_in_del": (["line"], []),
    "log_in_threading_atexit": (["line"], []),
    "log_in_thread": (["0", "1", "2"], []),
    "log_in_daemon": (["line"], []),
    "audit_in_atexit_before": ([], ["COMMITTED"]),
    "audit_in_atexit_after": ([], ["COMMITTED"]),
    "audit_in_del": ([], ["COMMITTED"]),
    "audit_in_thread": ([], ["COMMITTED"]),
    "audit_waits_in_daemon": ([], ["COMMITTED"]),
    "exit_in_job": ([], []),
    "job_in_generator": ([], []),
    "watch_in_daemon": (["line"], []),
    "close_twice": (["line"], ["1"]),
    "close_concurrently": (["line"], ["1", "1", "1", "1"]),
    "close_in_signal_handler": (["line"], ["COMMITTED"]),
    "close_in_async": (["line", "blocking"], []),
    "async_at_exit": (["line"], ["COMMITTED", "True"]),
    "closed_stderr": (["line"], []),
    "in_children": (["parent", "fork", "spawn"], ["fork 0", "spawn 0"]),
    "left_by_os_exit": ([], ["COMMITTED"]),
}
#: Those that do not end with EXIT_CODE.
CODES = {"exception_in_track": 1, "killed_by_default": -signal.SIGTERM}
#: With one that hangs, and a spool for everything: what is spooled, and what the program says.
HANGING: Mapping[str, tuple[int, Sequence[str]]] = {
    "log_in_atexit_before": (1, []),
    "log_in_atexit_after": (2, ["True"]),
    "log_in_threading_atexit": (1, []),
    "log_in_thread": (3, []),
    "audit_in_atexit_after": (1, ["SPOOLED"]),
    "audit_in_thread": (1, ["SPOOLED"]),
    "audit_waits_in_thread": (1, ["SPOOLED"]),
    "audit_waits_in_daemon": (1, ["SPOOLED"]),
    "watch_in_daemon": (1, []),
    "close_in_signal_handler": (2, ["SPOOLED"]),
    "close_within_close": (1, ["True"]),
    "close_in_async": (2, []),
    "close_without_time": (1, ["True"]),
    "closed_stderr": (1, []),
    "interrupted_exit": (1, []),
    "left_by_os_exit": (1, ["SPOOLED"]),
}
#: With none, and no spool: how many lines are dropped, and told of.
DOWN = {"log_in_atexit_before": 1, "log_in_atexit_after": 2, "log_in_del": 1, "log_in_thread": 3}


@dataclass
class Moments:
    """What became of all programs of one Python."""

    up: Mapping[str, Run]
    hanging: Mapping[str, Run]
    down: Mapping[str, Run]
    lines: Counter[str]
    events: Counter[str]
    jobs: Mapping[str, str]
    #: By moment.
    spooled: Mapping[str, int]


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Moments]:
    """Run all programs of a Python, once."""
    return cache(lambda version: run_moments(version, tmp_path_factory.mktemp(f"moments{version}")))


def run_moments(version: str, folder: Path) -> Moments:
    run = partial(run_moment, python_for(version))
    with (
        ServerProcess.start(config(), folder) as server,
        hanging_server() as hanging,
        ThreadPoolExecutor(PROGRAMS_AT_ONCE) as threads,
    ):
        up = {
            moment: threads.submit(run, moment, "off", "audit", server.address)
            for moment in (*UP, "exception_in_track", "killed_by_default")
        }
        hung = {
            moment: threads.submit(run, moment, str(folder / moment), "all", hanging) for moment in HANGING
        }
        down = {moment: threads.submit(run, moment, "off", "audit", free_address()) for moment in DOWN}
        runs = [{moment: future.result() for moment, future in group.items()} for group in (up, hung, down)]
        with LogClient(server.address, source="test", spool="off") as client:
            jobs = {
                job.job_id: f"{JobState.Name(job.status).removeprefix('JOB_STATE_')} {job.failure_reason}"
                for job in client.list_jobs()
            }
        server.terminate()
        server.wait()
    text = (folder / "audit.json.log").read_text()
    events = Counter(json.loads(line)["event_name"] for line in text.splitlines())
    spooled = {moment: waiting_in(folder / moment) for moment in HANGING}
    return Moments(*runs, lines_in(folder), events, jobs, spooled)


def run_moment(python: Path, moment: str, spool: str, records: str, address: str) -> Run:
    return Program(python, "moments.py", moment, spool, records, address).wait()


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("moment", UP)
def test_what_is_logged_at_the_end_arrives(
    moments: Callable[[str], Moments], version: str, moment: str
) -> None:
    """Each line is at the server once, and every caller of `audit` gets its receipt, at whatever moment it is."""
    lines, said = UP[moment]
    result = moments(version)
    arrived = Counter({line: n for line, n in result.lines.items() if line.split()[0] == moment})
    assert arrived == Counter(f"{moment} {line}" for line in lines)
    assert result.events[moment.replace("_", ".")] == said.count("COMMITTED")
    assert said_by(result.up[moment]) == said


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("moment", HANGING)
def test_what_cannot_be_sent_at_the_end_is_spooled(
    moments: Callable[[str], Moments], version: str, moment: str
) -> None:
    """With a server that hangs, each line and event is in the spool once; `audit` answers every caller."""
    records, said = HANGING[moment]
    result = moments(version)
    assert result.spooled[moment] == records
    assert said_by(result.hanging[moment]) == said


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("moment", DOWN)
def test_what_is_dropped_at_the_end_is_told(
    moments: Callable[[str], Moments], version: str, moment: str
) -> None:
    """With no server and no spool, each line is told of on standard error, however late it is."""
    said = [line.partition(" (last: ")[0].split() for line in moments(version).down[moment].said]
    assert {tuple(words[:2] + words[-1:]) for words in said} == {("emitd:", f"{moment}:", "at_close")}
    assert sum(int(words[3]) for words in said) == DOWN[moment]


@pytest.mark.parametrize("version", PYTHONS)
def test_every_moment_ends_in_time_and_with_its_own_code(
    moments: Callable[[str], Moments], version: str
) -> None:
    """Nothing that a client does at the end changes the exit code, or takes longer than `close_timeout`."""
    result = moments(version)
    for runs in (result.up, result.hanging, result.down):
        assert {moment: run.code for moment, run in runs.items()} == {
            moment: CODES.get(moment, EXIT_CODE) for moment in runs
        }
        assert {
            moment: run.seconds for moment, run in runs.items() if not 0 <= run.seconds < END_SECONDS
        } == {}


@pytest.mark.parametrize("version", PYTHONS)
def test_nothing_else_is_said_at_the_end(moments: Callable[[str], Moments], version: str) -> None:
    """Standard error is empty where nothing is dropped, but for the traceback of a program's own exception."""
    result = moments(version)
    assert {moment: run.said for moment, run in result.up.items() if run.said} == {
        "close_twice": ["emitd: close_twice: dropped 1 record: closed"]
    }
    said = {moment for moment, run in result.hanging.items() if run.stderr}
    assert said == {"interrupted_exit"}
    assert "KeyboardInterrupt" in result.hanging["interrupted_exit"].stderr


@pytest.mark.parametrize("version", PYTHONS)
def test_jobs_end_before_their_program_does(moments: Callable[[str], Moments], version: str) -> None:
    """A job in a `with` block, in a generator, and in a loop is FAILED with what the program was left by."""
    jobs = moments(version).jobs
    assert jobs == {
        "exit-in-job": "FAILED SystemExit",
        "job-in-generator": "FAILED GeneratorExit",
        "exception-in-track": "FAILED INCOMPLETE",
    }


@pytest.mark.parametrize("version", PYTHONS)
def test_only_what_was_answered_survives_a_kill(moments: Callable[[str], Moments], version: str) -> None:
    """Under the default SIGTERM and `os._exit` a COMMITTED event is there, and a queued line is not."""
    result = moments(version)
    for moment in ("killed_by_default", "left_by_os_exit"):
        assert result.events[moment.replace("_", ".")] == 1
        assert result.lines[f"{moment} line"] == 0


@pytest.mark.parametrize("version", PYTHONS)
def test_a_server_that_stops_answering_holds_up_no_end(version: str, tmp_path: Path) -> None:
    """A connection on which nothing comes any more is given up after `close_timeout`, and the line is spooled."""
    spool = tmp_path / "spool"
    with ServerProcess.start(config(), tmp_path) as server:
        arguments = ("server_stops", str(spool), "all", server.address)
        run = Program(python_for(version), "moments.py", *arguments, SERVER_PID=str(server.pid)).wait()
    assert (run.code, said_by(run), run.stderr) == (EXIT_CODE, ["COMMITTED"], "")
    assert run.seconds < END_SECONDS
    assert waiting_in(spool) == 1


def said_by(run: Run) -> Sequence[str]:
    return [line for line in run.lines if not line.startswith("end ")]
