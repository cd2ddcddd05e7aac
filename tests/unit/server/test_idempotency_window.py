"""The window: what was taken is answered from memory, each record is committed once."""

import asyncio
from collections.abc import Sequence

import pytest

from emitd_handlers.errors import HandlerUnavailable, RecordConflict
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, Outcomes, RecentCommit, Refused
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_server.dispatch.idempotency_window import IdempotencyWindow


def line(record_id: str, fingerprint: int = 1) -> LogRecord:
    return LogRecord(Level.INFO, record_id=record_id, fingerprint=fingerprint)


def event(record_id: str, event_id: str, *, fingerprint: int = 1, assigned: bool = False) -> LogRecord:
    payload = AuditEvent(event_id, "login", "u1", "unknown", "{}")
    given_up = ("event_id",) if assigned else ()
    return LogRecord(
        Level.AUDIT, record_id=record_id, payload=payload, assigned=given_up, fingerprint=fingerprint
    )


class Ledger:
    """Commits whatever it is given, with a receipt that numbers the records; fails while told to."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.failing = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, records: Sequence[LogRecord]) -> Outcomes:
        await self.gate.wait()
        if self.failing:
            return Outcomes.of([Refused(HandlerUnavailable("full"))] * len(records))
        first = len(self.records)
        self.records.extend(records)
        return Outcomes(len(records), lambda i: AuditReceipt("log", "", first + i, b""))


def leaf(outcome: Outcome) -> int:
    assert isinstance(outcome, Committed)
    assert isinstance(outcome.receipt, AuditReceipt)
    return outcome.receipt.leaf_index


async def test_a_retry_yields_the_first_receipt_and_commits_nothing() -> None:
    """The same record again is a duplicate with the receipt of the first."""
    window, ledger = IdempotencyWindow(10), Ledger()
    (first,) = await window.commit_once([line("a")], ledger)
    (again,) = await window.commit_once([line("a")], ledger)
    assert isinstance(first, Committed)
    assert again == Committed(first.receipt, duplicate=True)
    assert len(ledger.records) == 1


async def test_other_content_under_a_known_id_is_a_conflict() -> None:
    """The id alone does not make a duplicate: the content must be the same."""
    window, ledger = IdempotencyWindow(10), Ledger()
    await window.commit_once([line("a", fingerprint=1)], ledger)
    (outcome,) = await window.commit_once([line("a", fingerprint=2)], ledger)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, RecordConflict)
    assert outcome.error.field == "record_id"
    assert len(ledger.records) == 1


async def test_an_event_id_is_an_id_of_its_own() -> None:
    """An audit event sent again under another record_id is known by its event_id, also for conflicts."""
    window, ledger = IdempotencyWindow(10), Ledger()
    await window.commit_once([event("r1", "e1")], ledger)
    duplicate, conflict = await window.commit_once(
        [event("r2", "e1"), event("r3", "e1", fingerprint=9)], ledger
    )
    assert isinstance(duplicate, Committed)
    assert duplicate.duplicate
    assert isinstance(conflict, Refused)
    assert isinstance(conflict.error, RecordConflict)
    assert conflict.error.field == "audit.event_id"
    assert len(ledger.records) == 1


async def test_a_record_id_and_an_event_id_never_meet() -> None:
    """The same text as a record_id and as an event_id names two different things."""
    window, ledger = IdempotencyWindow(10), Ledger()
    await window.commit_once([event("", "same")], ledger)
    (outcome,) = await window.commit_once([line("same", fingerprint=7)], ledger)
    assert isinstance(outcome, Committed)
    assert not outcome.duplicate


async def test_an_assigned_event_id_takes_no_place() -> None:
    """Only ids given by senders are remembered."""
    window, ledger = IdempotencyWindow(10), Ledger()
    await window.commit_once([event("", "assigned-1", assigned=True), line("")], ledger)
    assert len(window) == 0
    assert len(ledger.records) == 2


async def test_two_copies_in_one_batch_are_committed_once() -> None:
    """The second copy gets the first one's receipt."""
    window, ledger = IdempotencyWindow(10), Ledger()
    outcomes = await window.commit_once([line("a"), line("b"), line("a")], ledger)
    assert [leaf(outcome) for outcome in outcomes] == [0, 1, 0]
    assert [outcome.duplicate for outcome in outcomes if isinstance(outcome, Committed)] == [
        False,
        False,
        True,
    ]


async def test_a_copy_in_flight_waits_for_the_first() -> None:
    """A copy that comes while the first is being committed is answered with its receipt."""
    window, ledger = IdempotencyWindow(10), Ledger()
    ledger.gate.clear()
    calls = [asyncio.create_task(window.commit_once([line("a")], ledger)) for _ in range(3)]
    await asyncio.sleep(0)
    ledger.gate.set()
    outcomes = [outcome for call in calls for outcome in await call]
    assert len(ledger.records) == 1
    assert sorted(o.duplicate for o in outcomes if isinstance(o, Committed)) == [False, True, True]


async def test_a_copy_of_a_failed_record_is_committed_in_its_stead() -> None:
    """A refused record leaves no trace, so that a waiting copy or a retry can bring it."""
    window, ledger = IdempotencyWindow(10), Ledger()
    ledger.gate.clear()
    ledger.failing = True
    first = asyncio.create_task(window.commit_once([line("a")], ledger))
    second = asyncio.create_task(window.commit_once([line("a")], ledger))
    await asyncio.sleep(0)
    ledger.gate.set()
    assert isinstance((await first)[0], Refused)
    ledger.failing = False
    second_outcome = (await second)[0]
    if isinstance(second_outcome, Refused):  # it was offered while the ledger still failed
        (second_outcome,) = await window.commit_once([line("a")], ledger)
    assert isinstance(second_outcome, Committed)
    assert len(ledger.records) == 1


async def test_a_commit_that_raises_leaves_no_claim() -> None:
    """An exception frees the ids."""
    window, ledger = IdempotencyWindow(10), Ledger()

    async def broken(records: Sequence[LogRecord]) -> Outcomes:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await window.commit_once([line("a")], broken)
    (outcome,) = await window.commit_once([line("a")], ledger)
    assert isinstance(outcome, Committed)
    assert not outcome.duplicate


@pytest.mark.parametrize("batch_size", [1, 3, 200])
async def test_the_window_holds_the_last_ids_and_few_more(batch_size: int) -> None:
    """At least `capacity` ids, whether they came alone or in batches; the oldest are forgotten."""
    window, ledger = IdempotencyWindow(300), Ledger()
    names = [f"id-{number}" for number in range(1200)]
    for first in range(0, len(names), batch_size):
        await window.commit_once([line(name) for name in names[first : first + batch_size]], ledger)
    assert len(window) == 300
    for index in (900, 1000, 1199):
        (outcome,) = await window.commit_once([line(names[index])], ledger)
        assert isinstance(outcome, Committed)
        assert outcome.duplicate
        assert leaf(outcome) == index
    (conflict,) = await window.commit_once([line(names[1100], fingerprint=2)], ledger)
    assert isinstance(conflict, Refused)
    (outcome,) = await window.commit_once([line(names[0])], ledger)
    assert isinstance(outcome, Committed)
    assert not outcome.duplicate


async def test_what_was_committed_before_the_start_is_known() -> None:
    """Commits that a handler remembers count as taken, by both their ids."""
    window, ledger = IdempotencyWindow(10), Ledger()
    receipt = AuditReceipt("log", "e1", 7, b"")
    window.restore([RecentCommit("r1", "e1", 1, receipt)])
    outcomes = await window.commit_once([event("r1", "e1"), event("other", "e1")], ledger)
    assert outcomes == [Committed(receipt, duplicate=True)] * 2
    assert ledger.records == []


def test_a_queued_record_is_known_as_soon_as_it_is_taken() -> None:
    """`take_new` answers None, or nothing at all, for what is new, and the duplicate from then on."""
    window = IdempotencyWindow(10)
    assert window.take_new([line("a"), line(""), line("")]) == ()
    answers = window.take_new([line("a"), line("b"), line("b"), line("a", fingerprint=3)])
    assert answers[:3] == [Committed(None, duplicate=True), None, Committed(None, duplicate=True)]
    assert isinstance(answers[3], Refused)
