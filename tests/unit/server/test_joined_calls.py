"""A committed delivery joins the calls that wait, and each call gets what it would have got alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.errors import HandlerTimeout, RecordConflict, RecordInvalid
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, Outcomes, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.settings import CommittedSettings, Delivery
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.dispatch.dispatcher import Dispatcher
from emitd_server.memory import MemoryAccount

#: Longer than a test may take.
LONG = 60.0


class Joining(BaseLogHandler):
    """Commits a batch when its gate is open; refuses a record whose message is `bad`. A receipt has its record's id."""

    default_delivery = Delivery.COMMITTED
    joins_calls = True

    def __init__(self) -> None:
        super().__init__(name="joining")
        self.gate = asyncio.Event()
        self.batches: list[list[str]] = []
        self.error: BaseException | None = None
        self._held: set[str] = set()
        self._places = count()

    def hold(self, record_ids: set[str]) -> None:
        """Commit no batch with one of these records, until the next call of this."""
        self._held = record_ids

    async def emit(self, record: LogRecord) -> None:
        raise AssertionError("emit_batch is overridden")

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        assert records
        self.batches.append([record.record_id for record in records])
        await self.gate.wait()
        while self._held.intersection([record.record_id for record in records]):
            await asyncio.sleep(0.001)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return Outcomes.of([self._outcome(record) for record in records])

    def _outcome(self, record: LogRecord) -> Outcome:
        if record.message == "bad":
            return Refused(RecordInvalid("message", "is bad"))
        return Committed(AuditReceipt("log", record.record_id, next(self._places), b""))


class Overlapping(Joining):
    """The same, of a class that does not ask for groups."""

    joins_calls = False


class Calls:
    """A delivery, and calls of it under way."""

    def __init__(
        self,
        handler: BaseLogHandler,
        *,
        timeout: float = LONG,
        linger: float = 0.0,
        group: int = 1024,
        group_bytes: int = 1 << 20,
    ) -> None:
        self.memory = MemoryAccount(1 << 30)
        settings = CommittedSettings(
            timeout_seconds=timeout,
            linger_ms=linger * 1000,
            max_group_records=group,
            max_group_bytes=group_bytes,
        )
        self.delivery = CommittedDelivery(handler, settings, 1000, lambda _: None, self.memory)
        self.tasks: list[asyncio.Task[Outcomes]] = []

    def take(self, *records: LogRecord | str) -> asyncio.Task[Outcomes]:
        """Send records, or lines of these ids, in a request of ten bytes a record."""
        batch = [line(record) if isinstance(record, str) else record for record in records]
        task = asyncio.create_task(self.delivery.take(batch, 10 * len(batch)))
        self.tasks.append(task)
        return task

    async def end(self) -> None:
        """Stop as the service does."""
        await self.delivery.drain()
        await self.delivery.stop()
        assert self.delivery.abandon() == 0
        assert self.memory.held == 0


def line(record_id: str, message: str = "", fingerprint: int = 1) -> LogRecord:
    return LogRecord(Level.INFO, message, record_id, fingerprint=fingerprint)


@pytest.fixture
async def handler() -> Joining:
    return Joining()


@pytest.fixture
async def calls(handler: Joining) -> AsyncIterator[Calls]:
    calls = Calls(handler)
    yield calls
    handler.gate.set()
    await calls.end()


async def turn_loop() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def ids(outcomes: Sequence[Outcome]) -> list[str]:
    """The event ids of the receipts: a call's own records."""
    found = []
    for outcome in outcomes:
        assert isinstance(outcome, Committed)
        assert isinstance(outcome.receipt, AuditReceipt)
        found.append(outcome.receipt.event_id)
    return found


async def test_calls_that_come_during_a_commit_form_the_next_batch(handler: Joining, calls: Calls) -> None:
    """In the order of their coming; each caller gets the receipts of its own records."""
    first = calls.take("a")
    await turn_loop()
    others = [calls.take("b", "c"), calls.take("d"), calls.take("e", "f", "g")]
    await turn_loop()
    assert handler.batches == [["a"]]
    assert calls.delivery.abandon() == 7
    handler.gate.set()
    answers = await asyncio.gather(first, *others)
    assert [ids(answer) for answer in answers] == [["a"], ["b", "c"], ["d"], ["e", "f", "g"]]
    assert handler.batches == [["a"], list("bcdefg")]
    assert calls.delivery.counts["committed"] == 7


async def test_calls_of_one_moment_form_a_batch(handler: Joining, calls: Calls) -> None:
    """Also the first ones."""
    handler.gate.set()
    await asyncio.gather(*(calls.take(letter) for letter in "abcd"))
    assert handler.batches == [list("abcd")]


async def test_a_handler_that_does_not_ask_for_it_gets_overlapping_calls() -> None:
    """Each call by itself, at once."""
    handler = Overlapping()
    calls = Calls(handler)
    tasks = [calls.take("a"), calls.take("b")]
    await turn_loop()
    assert handler.batches == [["a"], ["b"]]
    handler.gate.set()
    await asyncio.gather(*tasks)
    await calls.end()


@pytest.mark.parametrize("limits", [{"group": 4}, {"group_bytes": 40}])
async def test_a_group_is_limited_and_never_splits_a_call(limits: dict[str, int]) -> None:
    """By records and by bytes. A call with more than a group holds goes by itself."""
    handler = Joining()
    calls = Calls(handler, **limits)  # type: ignore[arg-type]
    sent = [calls.take("a0")]
    await turn_loop()
    parts = {"b": 2, "c": 2, "d": 5, "e": 1}
    sent += [calls.take(*(f"{name}{number}" for number in range(part))) for name, part in parts.items()]
    await turn_loop()
    handler.gate.set()
    await asyncio.gather(*sent)
    assert handler.batches == [
        ["a0"],
        ["b0", "b1", "c0", "c1"],
        [f"d{number}" for number in range(5)],
        ["e0"],
    ]
    await calls.end()


async def test_a_full_group_begins_while_another_is_under_way() -> None:
    """What comes after it waits for the last one."""
    handler = Joining()
    calls = Calls(handler, group=2)
    for letter in "abcd":
        calls.take(letter)
        await turn_loop()
    assert handler.batches == [["a"], ["b", "c"]]
    handler.gate.set()
    await asyncio.gather(*calls.tasks)
    assert handler.batches == [["a"], ["b", "c"], ["d"]]
    await calls.end()


async def test_a_large_call_delays_no_other_and_overtakes_none() -> None:
    """It begins at once, after those that came before it; those that come after it do not wait for its end."""
    handler = Joining()
    calls = Calls(handler, group=2)
    for letters in ("a", "b", "cde", "f", "g"):
        calls.take(*letters)
        await turn_loop()
    assert handler.batches == [["a"], ["b"], ["c", "d", "e"]]
    handler.hold({"c"})
    handler.gate.set()
    assert [ids(await calls.tasks[place]) for place in (0, 1, 3, 4)] == [["a"], ["b"], ["f"], ["g"]]
    assert not calls.tasks[2].done()
    handler.hold(set())
    assert ids(await calls.tasks[2]) == ["c", "d", "e"]
    assert handler.batches[3:] == [["f", "g"]]
    await calls.end()


async def test_a_refused_record_is_its_own_callers(handler: Joining, calls: Calls) -> None:
    """The others of its call and of its group are committed."""
    handler.gate.set()
    good, mixed, after = await asyncio.gather(
        calls.take("a"), calls.take("b", line("c", "bad"), "d"), calls.take("e")
    )
    assert len(handler.batches) == 1
    assert ids(good) == ["a"]
    assert ids([mixed[0], mixed[2]]) == ["b", "d"]
    assert isinstance(mixed[1], Refused)
    assert list(mixed.exceptional) == [1]
    assert ids(after) == ["e"]
    assert not after.exceptional


async def test_copies_in_one_group_are_committed_once(handler: Joining, calls: Calls) -> None:
    """The first is committed, an equal copy gets its receipt, and one with other content is refused."""
    handler.gate.set()
    first, other_call, copy, conflict, free = await asyncio.gather(
        calls.take("a"),
        calls.take("x"),
        calls.take("b", "a"),
        calls.take(line("a", fingerprint=2)),
        calls.take("c"),
    )
    assert handler.batches == [["a", "x"], ["b"], ["c"]]
    assert ids(first) == ["a"]
    assert ids(other_call) == ["x"]
    assert list(copy) == [Committed(copy[0].receipt), replace(first[0], duplicate=True)]  # type: ignore[union-attr]
    assert isinstance(conflict[0], Refused)
    assert isinstance(conflict[0].error, RecordConflict)
    assert ids(free) == ["c"]


async def test_a_call_that_takes_several_commits_delays_no_other(handler: Joining, calls: Calls) -> None:
    """Each copy of a record that is refused is tried; the calls that came with it, or after it, do not wait."""
    handler.gate.set()
    handler.hold({"x"})
    copies = calls.take(*[line("x", "bad")] * 3)
    assert [ids(each) for each in await asyncio.gather(calls.take("a"), calls.take("b"))] == [["a"], ["b"]]
    assert ids(await calls.take("c")) == ["c"]
    assert not copies.done()
    handler.hold(set())
    assert [type(outcome) for outcome in await copies] == [Refused] * 3
    assert sorted(handler.batches) == [["a", "b"], ["c"], ["x"], ["x"], ["x"]]


async def test_a_known_record_is_answered_while_a_group_is_under_way(handler: Joining, calls: Calls) -> None:
    """Those that came with it are one group all the same."""
    handler.gate.set()
    await calls.take("a")
    await asyncio.gather(calls.take("b"), calls.take("c"), calls.take("a"))
    assert handler.batches == [["a"], ["b", "c"]]


async def test_a_caller_that_goes_away_harms_no_other(handler: Joining, calls: Calls) -> None:
    """What is being committed goes on and is in the account and in the window; what has not begun is not committed."""
    under_way = calls.take("a"), calls.take("b")
    await turn_loop()
    waiting = calls.take("c"), calls.take("d")
    await turn_loop()
    for gone in (under_way[0], waiting[0]):
        gone.cancel()
    await asyncio.wait([under_way[0], waiting[0]])
    assert calls.delivery.abandon() == 3
    assert calls.memory.held > 0
    handler.gate.set()
    assert ids(await under_way[1]) == ["b"]
    assert ids(await waiting[1]) == ["d"]
    assert calls.memory.held == 0
    assert handler.batches == [["a", "b"], ["d"]]
    (again,) = await calls.take("a")
    assert again.duplicate  # type: ignore[union-attr]


async def test_a_handler_that_hangs_costs_each_call_its_own_timeout() -> None:
    """Calls that wait behind it end as well, hold no memory, and are never committed; the late commit counts."""
    handler = Joining()
    calls = Calls(handler, timeout=0.05)
    first = calls.take("a")
    await turn_loop()
    held = []
    for number in range(3):
        (outcome,) = await calls.take(f"b{number}")
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.error, HandlerTimeout)
        held.append(calls.memory.held)
    assert isinstance((await first)[0], Refused)
    assert held[0] > 0
    assert len({*held}) == 1
    assert calls.delivery.abandon() == 1
    assert calls.delivery.counts["timeout"] == 4
    handler.gate.set()
    await calls.delivery.drain()
    (again,) = await calls.take("a")
    assert again.duplicate  # type: ignore[union-attr]
    assert ids(await calls.take("b0")) == ["b0"]
    assert handler.batches == [["a"], ["b0"]]
    await calls.end()


async def test_a_batch_that_fails_is_its_own_groups(handler: Joining, calls: Calls) -> None:
    """All its calls are refused, and the next group is committed."""
    first, second = calls.take("a"), calls.take("b")
    await turn_loop()
    after = calls.take("c")
    await turn_loop()
    handler.error = OSError("disk full")
    handler.gate.set()
    for outcomes in await asyncio.gather(first, second):
        assert isinstance(outcomes[0], Refused)
        assert "disk full" in str(outcomes[0].error)
    assert ids(await after) == ["c"]


async def test_an_error_of_ours_reaches_the_callers(
    handler: Joining, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not end the delivery."""
    handler.gate.set()
    with monkeypatch.context() as patch:
        patch.setattr(calls.delivery._window, "_commit", None)
        for result in await asyncio.gather(calls.take("a"), calls.take("b"), return_exceptions=True):
            assert isinstance(result, TypeError)
    assert ids(await calls.take("a")) == ["a"]


async def test_a_stop_ends_the_calls_that_are_left() -> None:
    """Those under way, and those that wait: nobody waits for ever, and none of them is begun."""
    handler = Joining()
    calls = Calls(handler)
    sent = [calls.take("a")]
    await turn_loop()
    sent += [calls.take("b"), calls.take("c", "d")]
    await turn_loop()
    assert calls.delivery.abandon() == 4
    await calls.delivery.stop()
    for result in await asyncio.gather(*sent, return_exceptions=True):
        assert isinstance(result, asyncio.CancelledError)
    await turn_loop()
    assert handler.batches == [["a"]]
    assert calls.delivery.abandon() == 0
    assert calls.memory.held == 0


@pytest.mark.parametrize("handler_type", [Joining, Overlapping])
async def test_a_stop_ends_calls_whose_task_has_not_run(handler_type: type[Joining]) -> None:
    """And the delivery can be started and drained again."""
    handler = handler_type()
    calls = Calls(handler)
    sent = [calls.take("a"), calls.take("b")]
    await asyncio.sleep(0)
    await calls.delivery.stop()
    for result in await asyncio.gather(*sent, return_exceptions=True):
        assert isinstance(result, asyncio.CancelledError)
    assert handler.batches == []
    await calls.delivery.start()
    handler.gate.set()
    assert ids(await calls.take("a")) == ["a"]
    await calls.end()


async def test_a_lone_caller_never_waits_for_company() -> None:
    """However long the linger is: one call after the other is begun at once."""
    handler = Joining()
    handler.gate.set()
    calls = Calls(handler, linger=LONG)
    for number in range(5):
        await asyncio.wait_for(calls.take(f"a{number}"), 10)
    assert len(handler.batches) == 5
    await calls.end()


async def lap(calls: Calls, handler: Joining, first: str, waiting: str) -> None:
    """Have a group of the first letters committed, with calls of the others waiting at its end."""
    handler.gate.clear()
    sent = [calls.take(letter) for letter in first]
    await turn_loop()
    for letter in waiting:
        calls.take(letter)
    await turn_loop()
    handler.gate.set()
    await asyncio.gather(*sent)
    await turn_loop()


async def test_a_group_waits_for_those_just_answered() -> None:
    """Until as many calls wait as there were, with those that waited behind them."""
    handler = Joining()
    calls = Calls(handler, linger=LONG)
    await lap(calls, handler, "ab", "cd")
    assert handler.batches == [["a", "b"]]
    calls.take("e")
    await turn_loop()
    assert len(handler.batches) == 1
    await asyncio.wait_for(calls.take("f"), 10)
    assert handler.batches[1:] == [["c", "d", "e", "f"]]
    await calls.end()


async def test_the_wait_for_company_ends_with_the_linger() -> None:
    """If those that were answered do not come again."""
    handler = Joining()
    calls = Calls(handler, linger=0.01)
    await lap(calls, handler, "ab", "c")
    await asyncio.wait_for(asyncio.gather(*calls.tasks), 10)
    assert handler.batches == [["a", "b"], ["c"]]
    await asyncio.sleep(0.02)
    await asyncio.wait_for(calls.take("d"), 10)
    await calls.end()


async def test_a_full_group_waits_for_no_company() -> None:
    """More calls would not fit."""
    handler = Joining()
    calls = Calls(handler, linger=LONG, group=2)
    await lap(calls, handler, "ab", "c")
    calls.take("d")
    calls.take("e")
    await turn_loop()
    assert handler.batches[1:] == [["c", "d"]]
    await calls.end()


async def test_a_drain_waits_for_no_company() -> None:
    """What waits is begun at once."""
    handler = Joining()
    calls = Calls(handler, linger=LONG)
    await lap(calls, handler, "ab", "c")
    await asyncio.wait_for(calls.delivery.drain(), 10)
    assert handler.batches == [["a", "b"], ["c"]]
    await calls.end()


async def test_a_handler_knows_the_longest_wait() -> None:
    """Of a call that it has not answered, whether its group has begun or not."""
    handler = Joining()
    calls = Calls(handler, linger=LONG)
    assert handler.longest_wait() == 0.0
    calls.take("a")
    await asyncio.sleep(0.02)
    assert handler.longest_wait() >= 0.02
    calls.take("b")
    await turn_loop()
    handler.gate.set()
    await calls.tasks[0]
    await asyncio.sleep(0.02)
    assert handler.batches == [["a"]]  # the second call waits for the first caller
    assert handler.longest_wait() >= 0.02
    await calls.delivery.drain()
    await turn_loop()
    assert handler.longest_wait() == 0.0
    await calls.end()


async def test_a_call_of_several_handlers_is_joined_with_none_that_takes_another_way() -> None:
    """It goes to each of its handlers by itself; a call whose records all go to one handler waits for no other."""
    lines, errors = Joining(), Joining()
    lines.name, lines.levels = "lines", frozenset({Level.INFO})
    errors.name, errors.levels = "errors", frozenset({Level.ERROR})

    def error(record_id: str) -> LogRecord:
        return LogRecord(Level.ERROR, "", record_id, fingerprint=1)

    async with Dispatcher([lines, errors]) as dispatcher:

        def send(*records: LogRecord) -> asyncio.Task[Outcomes]:
            return asyncio.create_task(dispatcher.dispatch(records, 10))

        lines.gate.set()
        errors.hold({"e1", "e2"})
        errors.gate.set()
        sent = [
            send(line("a")),
            send(line("b")),
            send(line("c"), error("e1")),
            send(line("d")),
            send(error("e2")),
        ]
        assert [ids(await sent[place]) for place in (0, 1, 3)] == [["a"], ["b"], ["d"]]
        assert lines.batches == [["a", "b", "d"], ["c"]]
        assert sorted(errors.batches) == [["e1"], ["e2"]]
        assert not sent[2].done()
        errors.hold(set())
        assert [ids(await sent[place]) for place in (2, 4)] == [["c", "e1"], ["e2"]]


#: For each call: its record ids, how often the loop turns before it, and whether its caller goes away after that.
_calls = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=4),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=30,
)


@given(_calls, st.integers(1, 6), st.integers(0, 3), st.sampled_from([0.0, 0.001]))
def test_any_calls_get_what_they_would_get_alone(
    sent: list[tuple[list[str], int, bool]], limit: int, pauses: int, linger: float
) -> None:
    """Each id is committed once, groups are whole calls in order, and each answer fits its call's own records."""

    class Pausing(Joining):
        async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
            self.gate.set()
            for _ in range(pauses):
                await asyncio.sleep(0)
            return await super().emit_batch(records)

    async def run() -> None:
        handler = Pausing()
        calls = Calls(handler, linger=linger, group=limit)
        for letters, pause, goes_away in sent:
            for _ in range(pause):
                await asyncio.sleep(0)
            task = calls.take(*letters)
            if goes_away:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.wait(calls.tasks) if calls.tasks else None
        await calls.end()
        committed = [letter for batch in handler.batches for letter in batch]
        assert sorted(set(committed)) == sorted(committed)
        for (letters, _, _), task in zip(sent, calls.tasks, strict=True):
            if not task.cancelled():
                assert ids(task.result()) == letters
                assert set(letters) <= set(committed)

    asyncio.run(run())
