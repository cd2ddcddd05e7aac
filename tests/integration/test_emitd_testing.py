"""`emitd.testing`: a user's test sees what its program sent, over a real connection."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emitd import LogClient
from emitd.logging import EmitdHandler
from emitd.testing import RunningServer, running_server, serving
from emitd_handlers.record import JobState, Level
from emitd_handlers.testing import InMemoryHandler
from emitd_server.errors import StartError
from emitd_server.settings import ListenEntry, ServerSettings
from support.processes.own_threads import alive, own_threads


def test_the_three_kinds_of_record_are_there(emitd_server: RunningServer) -> None:
    """By the fixture: lines after `flush`, an event when `audit` returns, every report on a job."""
    with LogClient(emitd_server.address, source="shop") as client:
        client.warning("low", item=7)
        receipt = client.audit("user.login", user_id="u1", source_ip="192.0.2.7", details={"n": 1})
        with client.job("j1", job_type="import") as job:
            job.progress(50)
        assert client.flush(30)
    assert receipt.state.name == "COMMITTED"
    (line,) = emitd_server.lines
    assert (line.level, line.message, line.source, line.attributes_json) == (
        Level.WARNING,
        "low",
        "shop",
        '{"item":7}',
    )
    (event,) = emitd_server.events
    assert (event.event_name, event.user_id, event.details_json) == ("user.login", "u1", '{"n":1}')
    assert [report.job_id for report in emitd_server.jobs] == ["j1"] * len(emitd_server.jobs)
    assert emitd_server.jobs[-1].status is JobState.COMPLETED


def test_wait_for_waits_and_says_what_came(emitd_server: RunningServer) -> None:
    """For lines that a logging handler sends in the background."""
    with LogClient(emitd_server.address) as client:
        logger = logging.Logger("shop")
        logger.addHandler(EmitdHandler(client))
        logger.error("one")
        logger.error("two")
        emitd_server.wait_for(lines=2)
        assert [line.message for line in emitd_server.lines] == ["one", "two"]
        with pytest.raises(TimeoutError, match="2 lines, 0 events and 0 reports on jobs came"):
            emitd_server.wait_for(lines=2, events=1, timeout=0.05)


def test_it_can_be_made_to_fail(emitd_server: RunningServer, tmp_path: Path) -> None:
    """`handler.fail_next` refuses records: the program's client does what it does with a server that cannot now."""
    emitd_server.handler.fail_next(10_000)
    with LogClient(emitd_server.address, spool=tmp_path / "spool") as client:
        receipt = client.audit("user.login", user_id="u1", source_ip="unknown", timeout=0.5)
        assert receipt.state == "SPOOLED"
        assert emitd_server.events == []
        emitd_server.handler.fail_next(0)
        emitd_server.wait_for(events=1, timeout=30)


def test_servers_are_apart_and_leave_nothing_behind() -> None:
    """Each has its own port and records; its thread ends with the block, also by an exception."""
    with own_threads() as threads:
        with running_server() as first, running_server() as second:
            assert first.address != second.address
            with LogClient(first.address) as client:
                client.info("only here")
            assert len(first.lines) == 1
            assert second.lines == []
        with pytest.raises(ZeroDivisionError), running_server():
            raise ZeroDivisionError
    assert len([thread for thread in threads if thread.name == "emitd-testing"]) == 3
    assert [name for name in alive(threads) if "emitd" in name] == []


@pytest.mark.slow
def test_the_plugin_comes_with_the_distribution(tmp_path: Path) -> None:
    """A user's test file needs no conftest: pytest finds the fixture by the entry point."""
    (tmp_path / "test_shop.py").write_text(
        "def test_it(emitd_server):\n    assert emitd_server.address.startswith('127.0.0.1:')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_page_is_true(emitd_server: RunningServer) -> None:
    """The example of docs/testing.md passes."""
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    names["test_a_login_is_audited"](emitd_server)


def test_a_server_that_cannot_start_raises_why() -> None:
    """And leaves no thread."""
    settings = ServerSettings(listen=(ListenEntry(address="192.0.2.1:1", insecure=True),))
    with (
        own_threads() as threads,
        pytest.raises(StartError, match=r"192\.0\.2\.1"),
        serving([InMemoryHandler()], settings),
    ):
        pass
    assert [thread.name for thread in threads if thread.name == "emitd-testing"] == ["emitd-testing"]
    assert "emitd-testing" not in alive(threads)
