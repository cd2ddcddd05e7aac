"""The window: what was taken is answered from memory, each record is committed once."""

import asyncio
from collections.abc import Sequence
from zlib import crc32

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emitd_handlers.columns import columns_of
from emitd_handlers.errors import HandlerUnavailable, RecordConflict
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, Outcomes, RecentCommit, Refused
from emitd_handlers.record import (
    AuditEvent,
    JobState,
    JobStatus,
    Level,
    LogRecord,
    content_fingerprint,
    earlier_fingerprints,
    job_content,
)
from emitd_server.dispatch.idempotency_window import IdempotencyWindow, _keys, _keys_of_all


def line(record_id: str, fingerprint: int = 1, source: str = "") -> LogRecord:
    return LogRecord(Level.INFO, record_id=record_id, fingerprint=fingerprint, source=source)


def event(
    record_id: str, event_id: str, *, fingerprint: int = 1, assigned: bool = False, source: str = ""
) -> LogRecord:
    payload = AuditEvent(event_id, "login", "u1", "unknown", "{}")
    given_up = ("event_id",) if assigned else ()
    return LogRecord(
        Level.AUDIT,
        record_id=record_id,
        payload=payload,
        assigned=given_up,
        fingerprint=fingerprint,
        source=source,
    )


def report(record_id: str, source: str, message: str = "", attempt: int = 1) -> LogRecord:
    payload = JobStatus("j", "sync", JobState.RUNNING, attempt=attempt)
    content = job_content((message, source, "", b"", b""), payload, attempt, 5)
    return LogRecord(
        *(Level.JOB_STATUS, message, record_id, 5, 5, source),
        payload=payload,
        fingerprint=content_fingerprint(content),
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
    window.restore([RecentCommit("r1", "e1", 1, receipt, "")])
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


@pytest.mark.parametrize("ids", [("r1", ""), ("", "e1"), ("r1", "e1"), ("same", "same")])
async def test_an_id_belongs_to_its_source(ids: tuple[str, str]) -> None:
    """Two programs with the same ids do not meet, in one batch or after each other; each gets its own receipt again."""
    window, ledger = IdempotencyWindow(10), Ledger()
    records = [event(*ids, fingerprint=number, source=source) for number, source in enumerate(("a", "b", ""))]
    first = await window.commit_once(records[:2], ledger)
    first = [*first, *await window.commit_once(records[2:], ledger)]
    again = await window.commit_once(records, ledger)
    assert [leaf(outcome) for outcome in first] == [leaf(outcome) for outcome in again] == [0, 1, 2]
    assert all([outcome.duplicate for outcome in again if isinstance(outcome, Committed)])
    (conflict,) = await window.commit_once([event(*ids, fingerprint=9, source="b")], ledger)
    assert isinstance(conflict, Refused)
    assert isinstance(conflict.error, RecordConflict)
    assert conflict.error.field == ("record_id" if ids[0] else "audit.event_id")
    assert f"'{ids[0] or ids[1]}'" in str(conflict.error)


def test_a_queued_record_belongs_to_its_source() -> None:
    """As for committed ones."""
    window = IdempotencyWindow(10)
    assert window.take_new([line("r", source="a"), line("r", source="b")]) == ()
    answers = window.take_new([line("r", source="c"), line("r", source="b"), line("r", 2, source="a")])
    assert answers[:2] == [None, Committed(None, duplicate=True)]
    assert isinstance(answers[2], Refused)


_texts = st.lists(st.sampled_from(["0", "1:", "r", "e", "\0", "\0r", "a", "\ud800"]), max_size=3).map("".join)


@given(st.lists(st.tuples(_texts, _texts, _texts), min_size=1, max_size=6))
@example([("", "\0rx", ""), ("\0r", "x", "")])
@example([("a", "ra", ""), ("ar", "a", "")])
@example([("1", ":rx", ""), ("1:r", "x", "")])
@example([("", "1:ra", ""), ("a", "", ""), ("1:", "ra", "")])
def test_no_two_ids_have_the_same_key(ids: list[tuple[str, str, str]]) -> None:
    """Whatever is in a source and in an id, and by whichever way the keys of a batch are made."""
    events = [event(record_id, event_id or "x", source=source) for source, record_id, event_id in ids]
    meant = {("record_id", source, record_id) for source, record_id, _ in ids if record_id}
    meant |= {("audit.event_id", source, event_id or "x") for source, _, event_id in ids}
    keys, places = _keys_of_all(columns_of(events))
    assert len(set(keys)) == len(meant)
    assert set(keys) == {key for record in events for key in _keys(record)}
    lines = [line(record_id or "x", source=source) for source, record_id, _ in ids]
    assert _keys_of_all(columns_of(lines)) == ([*map(_only_key, lines)], range(len(lines)))
    assert len(places) == len(keys)


def _only_key(record: LogRecord) -> str:
    (key,) = _keys(record)
    return key


async def test_a_commit_of_an_earlier_version_is_recognised_as_it_was_stored() -> None:
    """By its id and the CRC-32 of its content, whether the attempt was sent or left out; it blocks nothing else."""
    window, ledger = IdempotencyWindow(10), Ledger()
    mine, left_out = report("order-17", "a"), report("order-18", "a")
    receipts = [AuditReceipt("log", "", number, b"") for number in (50, 51)]
    stored = [earlier_fingerprints(mine)[0], earlier_fingerprints(left_out)[1]]
    assert stored[1] == crc32(
        msgspec.msgpack.encode(job_content(("", "a", "", b"", b""), left_out.payload, 0, 5))
    )  # type: ignore[arg-type]
    window.restore(
        RecentCommit(record.record_id, "", fingerprint, receipt)
        for record, fingerprint, receipt in zip((mine, left_out), stored, receipts, strict=True)
    )
    others = [report("order-17", "b"), report("order-17", "a", "other content"), report("order-17", "")]
    outcomes = await window.commit_once([others[0], mine, left_out], ledger)
    assert [leaf(outcome) for outcome in outcomes] == [0, 50, 51]
    assert outcomes[1] == Committed(receipts[0], duplicate=True)
    outcomes = await window.commit_once(others, ledger)
    assert [leaf(outcome) for outcome in outcomes] == [0, 1, 2]
    assert window.take_new([left_out, report("order-18", "b")]) == [
        Committed(receipts[1], duplicate=True),
        None,
    ]


async def test_a_new_fingerprint_is_never_read_as_an_old_one() -> None:
    """A row with a source is compared whole, however small its fingerprint is."""
    window, ledger = IdempotencyWindow(10), Ledger()
    mine = report("r", "a")
    window.restore([RecentCommit("r", "", earlier_fingerprints(mine)[0], None, "a")])
    (outcome,) = await window.commit_once([mine], ledger)
    assert isinstance(outcome, Refused)
