"""Death at exit: whatever way a program ends, what it logged is at the server, in the spool, or counted and told.

A program has a client for each case, ends in each of four ways, and the next program sends what it left.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from support.exit.matrix import APIS, CLOSE_SECONDS, ENDINGS, LINES, SPOOLS
from support.exit.runs import Program, Run, config, free_address, hanging_server, lines_in, waiting_in
from support.processes.pythons import PYTHONS, python_for
from support.processes.server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: What a machine takes that runs four programs with 27 clients each at once, beside the waiting.
MATRIX_SECONDS = 4.0


@dataclass
class Matrix:
    """What became of the programs of one Python, and of what they logged."""

    runs: Mapping[str, Run]
    #: Found in the spool, before the next program.
    spooled_records: int
    #: How the next program went.
    next: Run
    #: At the server that was up, and those that came up where none was and where one hung.
    lines: Mapping[str, Counter[str]]
    events: Mapping[str, Counter[str]]

    def fates(self, ending: str) -> Mapping[str, str]:
        """Return what the audit events' callers were told."""
        fates: Mapping[str, str] = json.loads(self.runs[ending].lines[0])
        return fates


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Matrix]:
    """Run all programs of a Python, once."""
    return cache(lambda version: run_matrix(version, tmp_path_factory.mktemp(f"exit{version}")))


def run_matrix(version: str, folder: Path) -> Matrix:
    python, spool, down = python_for(version), folder / "spool", free_address()
    folders = {server: folder / server for server in ("up", "down", "hanging")}
    for path in folders.values():
        path.mkdir()
    with ServerProcess.start(config(), folders["up"]) as up:
        with hanging_server() as hanging:
            addresses = (up.address, down, hanging)
            programs = {
                ending: Program(python, "matrix.py", ending, str(spool), *addresses) for ending in ENDINGS
            }
            runs = {ending: program.wait() for ending, program in programs.items()}
        spooled = waiting_in(spool)
        with (
            ServerProcess.start(config(down), folders["down"]) as first,
            ServerProcess.start(config(hanging), folders["hanging"]) as second,
        ):
            following = Program(python, "next.py", str(spool), down, hanging).wait()
            for server in (up, first, second):
                server.terminate()
                server.wait()
    return Matrix(
        runs,
        spooled,
        following,
        {server: lines_in(path) for server, path in folders.items()},
        {server: events_in(path) for server, path in folders.items()},
    )


def events_in(folder: Path) -> Counter[str]:
    text = (folder / "audit.json.log").read_text()
    return Counter(json.loads(line)["event_name"] for line in text.splitlines())


def keys(server: str, spools: Iterable[str]) -> Counter[str]:
    """Return what the programs logged by clients of a server with such spools, each once."""
    cases = [f"{ending}:{server}-{spool}-{api}" for ending in ENDINGS for spool in spools for api in APIS]
    return Counter(f"{case}:{line}" for case in cases for line in range(LINES))


def logged(lines: Counter[str]) -> Counter[str]:
    """Return the keys among the lines, without the attributes behind them."""
    return Counter(line.split()[0] for line in lines.elements() if line.partition(":")[0] in ENDINGS)


@pytest.mark.parametrize("version", PYTHONS)
def test_a_program_ends_in_time_and_with_its_own_code(matrix: Callable[[str], Matrix], version: str) -> None:
    """All clients together hold up the end for `close_timeout`, and no longer; the exit code is the program's."""
    runs = matrix(version).runs
    assert {ending: run.code for ending, run in runs.items()} == dict(ENDINGS)
    assert [run.seconds for run in runs.values() if run.seconds > CLOSE_SECONDS + MATRIX_SECONDS] == []


@pytest.mark.parametrize("version", PYTHONS)
def test_nothing_is_lost_while_the_server_is_up(matrix: Callable[[str], Matrix], version: str) -> None:
    """Each line is at the server once, whatever else the program has to wait for."""
    assert logged(matrix(version).lines["up"]) == keys("up", SPOOLS)


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("server", ["down", "hanging"])
def test_the_next_program_sends_what_was_spooled(
    matrix: Callable[[str], Matrix], version: str, server: str
) -> None:
    """With `spool_records="all"` the server gets each line from the next program, once, and none of the others."""
    result = matrix(version)
    assert (result.next.code, result.next.stderr) == (0, "")
    assert logged(result.lines[server]) == keys(server, ["all"])


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("server", ["down", "hanging"])
def test_the_next_program_tells_the_server_what_was_dropped(
    matrix: Callable[[str], Matrix], version: str, server: str
) -> None:
    """Where there is a spool, word of what did not go into it does."""
    told = [
        line for line in matrix(version).lines[server].elements() if line.startswith("the client dropped")
    ]
    sources = Counter(line.partition("dropped.source=")[2].split()[0] for line in told)
    assert sources == Counter({f"{server}-audit-{api}": len(ENDINGS) for api in APIS})
    assert all(f"dropped.count={LINES} dropped.cause=at_close" in line for line in told)


@pytest.mark.parametrize("version", PYTHONS)
def test_what_is_dropped_is_told_and_nothing_else(matrix: Callable[[str], Matrix], version: str) -> None:
    """Standard error has one line for each client that dropped something, no other, and nothing of grpc's."""
    dropped = [
        f"{server}-{spool}-{api}" for server in ("down", "hanging") for spool in SPOOLS[:2] for api in APIS
    ]
    for run in matrix(version).runs.values():
        assert sorted(line.partition(" (last: ")[0] for line in run.said) == sorted(
            f"emitd: {case}: dropped {LINES} records: at_close" for case in dropped
        )


@pytest.mark.parametrize("version", PYTHONS)
def test_audit_events_are_where_their_callers_were_told(
    matrix: Callable[[str], Matrix], version: str
) -> None:
    """COMMITTED and SPOOLED events are in the audit file, once; the others raised Unavailable."""
    result = matrix(version)
    for ending in ENDINGS:
        fates = result.fates(ending)
        assert Counter(fates.values()) == {"COMMITTED": 3, "SPOOLED": 4, "Unavailable": 2}
    for server, events in result.events.items():
        spools = SPOOLS if server == "up" else SPOOLS[1:]
        expected = Counter(f"{ending}.{server}.{spool}" for ending in ENDINGS for spool in spools)
        assert events == expected


@pytest.mark.parametrize("version", PYTHONS)
def test_the_spool_has_what_was_left(matrix: Callable[[str], Matrix], version: str) -> None:
    """It has the lines and events of those that spool, and a word of what each of the others dropped."""
    lines, words, events = 2 * len(APIS) * LINES, 2 * len(APIS), 4
    assert matrix(version).spooled_records == len(ENDINGS) * (lines + words + events)
