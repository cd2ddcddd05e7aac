"""Outcomes that are made when they are asked for."""

import pytest

from emitd_handlers.errors import HandlerError
from emitd_handlers.outcome import AuditReceipt, Committed, JobReceipt, Outcomes, Refused


def receipt(index: int) -> AuditReceipt:
    return AuditReceipt("log", f"e{index}", index, b"")


def test_all_committed_is_the_sequence_it_stands_for() -> None:
    """Length, order, places from either end, and slices."""
    outcomes = Outcomes(3, receipt)
    expected = [Committed(receipt(index)) for index in range(3)]
    assert list(outcomes) == expected
    assert len(outcomes) == 3
    assert outcomes[-1] == expected[-1]
    assert outcomes[1:] == expected[1:]
    assert list(reversed(outcomes)) == expected[::-1]
    for place in (3, -4):
        with pytest.raises(IndexError):
            outcomes[place]


def test_a_receipt_is_made_only_when_it_is_asked_for() -> None:
    """A batch whose sender wants no receipts makes none."""
    made: list[int] = []

    def noting(index: int) -> None:
        made.append(index)

    outcomes = Outcomes(1000, noting)
    assert made == []
    assert outcomes[7] == Committed(None)
    assert made == [7]


def test_what_the_sender_should_know_stands_apart() -> None:
    """Refusals, duplicates and notices of jobs, by index; the receipt says the rest."""
    given = [
        Committed(receipt(0)),
        Refused(HandlerError("no")),
        Committed(receipt(2), duplicate=True),
        Committed(JobReceipt("j", 2, 1, applied=True)),
        Committed(JobReceipt("j", 3, 1, applied=True, cancel_requested=True)),
    ]
    outcomes = Outcomes.of(given)
    assert list(outcomes) == given
    assert [*outcomes.exceptional] == [1, 2, 4]
    assert outcomes.receipt(3) == JobReceipt("j", 2, 1, applied=True)
    assert Outcomes.of(outcomes) is outcomes
