"""`emitd.Receipt`: what is known of an awaited record."""

import dataclasses

import pytest

from emitd import Receipt, ReceiptState, v1

COMMITTED = Receipt(
    ReceiptState.COMMITTED,
    v1.Receipt(
        record_id="r1",
        duplicate=True,
        handlers=[v1.HandlerReceipt(handler="audit", delivery=v1.DELIVERY_COMMITTED)],
        audit=v1.AuditReceipt(event_id="e1", leaf_index=7),
        job=v1.JobReceipt(revision=3),
    ),
)


def test_it_says_what_the_service_said() -> None:
    """Each word of the service's receipt is at hand, without the detour over the message."""
    assert (COMMITTED.record_id, COMMITTED.duplicate) == ("r1", True)
    assert [handler.handler for handler in COMMITTED.handlers] == ["audit"]
    assert (COMMITTED.audit.event_id, COMMITTED.audit.leaf_index, COMMITTED.job.revision) == ("e1", 7, 3)


def test_of_a_spooled_record_only_the_id_is_known() -> None:
    """The service has not seen it: the rest is empty, and nothing raises."""
    receipt = Receipt(ReceiptState.SPOOLED, v1.Receipt(record_id="r1"))
    assert (receipt.record_id, receipt.duplicate, list(receipt.handlers)) == ("r1", False, [])
    assert (receipt.audit, receipt.job) == (v1.AuditReceipt(), v1.JobReceipt())


def test_a_state_compares_with_its_name() -> None:
    """So that it can be logged and stored as it is."""
    assert ReceiptState.COMMITTED == "COMMITTED"
    assert f"{ReceiptState.SPOOLED}" == "SPOOLED"


def test_it_cannot_be_changed() -> None:
    """Nor can a misspelt attribute be put on it: an error names it."""
    with pytest.raises(dataclasses.FrozenInstanceError, match="state"):
        COMMITTED.state = ReceiptState.SPOOLED  # type: ignore[misc]


def test_it_prints_as_one_line() -> None:
    """Its state, and where the record is: an event by its line, a job by its revision."""
    event = v1.AuditReceipt(event_id="e1", log_id="example.com/log", leaf_index=7)
    message = v1.Receipt(record_id="r1", audit=event)
    assert (
        str(Receipt(ReceiptState.COMMITTED, message)) == "COMMITTED r1: event e1, line 7 of example.com/log"
    )
    message = v1.Receipt(record_id="r1", duplicate=True, job=v1.JobReceipt(revision=3, attempt=1))
    assert (
        str(Receipt(ReceiptState.COMMITTED, message)) == "COMMITTED r1 (duplicate): job revision 3, attempt 1"
    )
    message = v1.Receipt(record_id="r1", job=v1.JobReceipt(revision=3, attempt=2, stale_reason="SUPERSEDED"))
    assert str(Receipt(ReceiptState.COMMITTED, message)) == (
        "COMMITTED r1: job revision 3, attempt 2, not applied: SUPERSEDED"
    )
    assert str(Receipt(ReceiptState.SPOOLED, v1.Receipt(record_id="r1"))) == "SPOOLED r1"
