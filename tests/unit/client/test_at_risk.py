"""`Confirmations`: the lines that a server's death may have lost."""

import pytest

from emitd.sending.stats import Confirmations


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def confirmations(clock: Clock) -> Confirmations:
    return Confirmations(seconds=60.0, max_lines=1000, clock=clock)


def test_what_was_accepted_before_a_break_is_unconfirmed(confirmations: Confirmations) -> None:
    """All of it, over several calls."""
    confirmations.accepted(3)
    confirmations.accepted(4)
    assert confirmations.broke() == 7


def test_it_is_told_once(confirmations: Confirmations) -> None:
    """The next break, of a server that has not come back, adds nothing."""
    confirmations.accepted(3)
    assert [confirmations.broke(), confirmations.broke()] == [3, 0]


def test_old_lines_are_not_at_risk(confirmations: Confirmations, clock: Clock) -> None:
    """They had time to leave the server's queue; those that are just as old as the limit still count."""
    confirmations.accepted(3)
    clock.now += 30
    confirmations.accepted(4)
    clock.now += 30
    assert confirmations.broke() == 7
    confirmations.accepted(5)
    clock.now += 60.001
    assert confirmations.broke() == 0


def test_no_more_are_at_risk_than_fit_a_servers_queue(confirmations: Confirmations) -> None:
    """The rest must have left it."""
    for _ in range(3):
        confirmations.accepted(999)
    assert confirmations.broke() == 1000


def test_old_lines_are_forgotten_while_there_are_new_ones(confirmations: Confirmations, clock: Clock) -> None:
    """Memory is for a minute of calls, not for the life of the program."""
    for _ in range(1000):
        confirmations.accepted(1)
        clock.now += 1
    assert len(confirmations._accepted) <= 61


def test_another_server_id_at_one_address_is_a_break(confirmations: Confirmations) -> None:
    """The server was restarted while no call was under way: nobody saw the connection break."""
    assert confirmations.answered(1, has_one_server=True) == 0
    confirmations.accepted(3)
    assert confirmations.answered(1, has_one_server=True) == 0
    assert confirmations.answered(2, has_one_server=True) == 3
    confirmations.accepted(4)
    assert confirmations.answered(2, has_one_server=True) == 0


def test_among_several_servers_another_id_means_nothing(confirmations: Confirmations) -> None:
    """They answer in turn."""
    confirmations.answered(1, has_one_server=False)
    confirmations.accepted(3)
    assert confirmations.answered(2, has_one_server=False) == 0
    assert confirmations.broke() == 3


def test_an_answer_without_an_id_says_nothing(confirmations: Confirmations) -> None:
    """An older server has none, and a failure has nobody behind it: the last known id stays."""
    assert confirmations.answered(0, has_one_server=True) == 0
    confirmations.answered(1, has_one_server=True)
    confirmations.accepted(3)
    assert confirmations.answered(0, has_one_server=True) == 0
    assert confirmations.answered(1, has_one_server=True) == 0
    assert confirmations.answered(2, has_one_server=True) == 3


def test_a_restart_is_seen_over_an_answer_without_an_id(confirmations: Confirmations) -> None:
    """What is compared is the last id that was known."""
    confirmations.answered(1, has_one_server=True)
    confirmations.accepted(3)
    confirmations.answered(0, has_one_server=True)
    assert confirmations.answered(2, has_one_server=True) == 3


def test_the_first_answer_is_no_restart(confirmations: Confirmations) -> None:
    """Nobody had answered before."""
    confirmations.accepted(3)
    assert confirmations.answered(7, has_one_server=True) == 0
