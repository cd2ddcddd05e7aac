"""`ClientStats`: what became of the records of one process, by fate."""

import pytest

from emitd.sending.stats import ClientStats
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply


@pytest.fixture
def stats() -> ClientStats:
    return ClientStats(ClientSettings(unconfirmed_records=5))


def test_what_is_always_asked_for_is_always_there(stats: ClientStats) -> None:
    """Of the others only those that came about are."""
    assert stats.counts() == {"sent": 0, "unconfirmed": 0}
    stats.add("failed", 0)
    assert "failed" not in stats.counts()


def test_fates_add_up(stats: ClientStats) -> None:
    """Each is counted for itself."""
    stats.add("failed", 2)
    stats.add("failed", 1)
    stats.add("spooled", 4)
    assert stats.counts() == {"sent": 0, "unconfirmed": 0, "failed": 3, "spooled": 4}


def test_lines_of_a_broken_connection_are_unconfirmed(stats: ClientStats) -> None:
    """The last of them, as many as a server's queue has, and once; awaited records are not."""
    stats.add_accepted_lines(9)
    stats.add("sent", 1)
    stats.note(Reply(is_broken=True), 1)
    stats.note(Reply(is_broken=True), 1)
    assert stats.counts() == {"sent": 5, "unconfirmed": 5}


def test_lines_of_another_server_are_unconfirmed(stats: ClientStats) -> None:
    """That a server was replaced is seen by its id; an answer of the same says nothing."""
    stats.note(Reply(server_id=1), 1)
    stats.add_accepted_lines(2)
    stats.note(Reply(server_id=1), 1)
    assert stats.counts()["unconfirmed"] == 0
    stats.note(Reply(server_id=2), 1)
    assert stats.counts()["unconfirmed"] == 2


@pytest.mark.parametrize("address", ["127.0.0.1:1,127.0.0.1:2", "dns:///emitd:50051"])
def test_with_several_servers_another_one_says_nothing(address: str) -> None:
    """They answer in turn."""
    stats = ClientStats(ClientSettings(address=address))
    stats.note(Reply(server_id=1), 1)
    stats.add_accepted_lines(2)
    stats.note(Reply(server_id=2), 1)
    assert stats.counts() == {"sent": 2, "unconfirmed": 0}


def test_what_may_stand_twice_is_counted(stats: ClientStats) -> None:
    """A call that broke may have arrived, and is sent again."""
    stats.note(Reply(again={0: ("broken", 0.0)}, may_have_arrived=True), 3)
    assert stats.counts()["resent"] == 3
