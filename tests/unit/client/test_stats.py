"""`Tally`: what became of the records of one process, by fate."""

import pytest

from emitd.sending.stats import Tally
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply


@pytest.fixture
def tally() -> Tally:
    return Tally(ClientSettings(unconfirmed_records=5))


def test_what_is_always_asked_for_is_always_there(tally: Tally) -> None:
    """Of the others only those that came about are."""
    assert tally.counts() == {"sent": 0, "unconfirmed": 0}
    tally.add("failed", 0)
    assert "failed" not in tally.counts()


def test_fates_add_up(tally: Tally) -> None:
    """Each is counted for itself."""
    tally.add("failed", 2)
    tally.add("failed", 1)
    tally.add("spooled", 4)
    assert tally.counts() == {"sent": 0, "unconfirmed": 0, "failed": 3, "spooled": 4}


def test_lines_of_a_broken_connection_are_unconfirmed(tally: Tally) -> None:
    """The last of them, as many as a server's queue has, and once; awaited records are not."""
    tally.add_accepted_lines(9)
    tally.add("sent", 1)
    tally.note(Reply(is_broken=True), 1)
    tally.note(Reply(is_broken=True), 1)
    assert tally.counts() == {"sent": 5, "unconfirmed": 5}


def test_lines_of_another_server_are_unconfirmed(tally: Tally) -> None:
    """That a server was replaced is seen by its id; an answer of the same says nothing."""
    tally.note(Reply(server_id=1), 1)
    tally.add_accepted_lines(2)
    tally.note(Reply(server_id=1), 1)
    assert tally.counts()["unconfirmed"] == 0
    tally.note(Reply(server_id=2), 1)
    assert tally.counts()["unconfirmed"] == 2


@pytest.mark.parametrize("address", ["127.0.0.1:1,127.0.0.1:2", "dns:///emitd:50051"])
def test_with_several_servers_another_one_says_nothing(address: str) -> None:
    """They answer in turn."""
    tally = Tally(ClientSettings(address=address))
    tally.note(Reply(server_id=1), 1)
    tally.add_accepted_lines(2)
    tally.note(Reply(server_id=2), 1)
    assert tally.counts() == {"sent": 2, "unconfirmed": 0}


def test_what_may_stand_twice_is_counted(tally: Tally) -> None:
    """A call that broke may have arrived, and is sent again."""
    tally.note(Reply(again={0: ("broken", 0.0)}, may_have_arrived=True), 3)
    assert tally.counts()["resent"] == 3
