"""The client's `LineQueue` against a model of it, one step after the other."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emitd.sending.line_queue import Line, LineBatch, LineQueue
from emitd.settings import ClientSettings

MAX_LINES, MAX_BYTES = 6, 40
BATCH_LINES, BATCH_BYTES = 3, 12
POLICIES = st.sampled_from(["drop_newest", "drop_oldest", "block(0.0001)"])
SIZES = st.one_of(st.integers(min_value=1, max_value=8), st.integers(min_value=9, max_value=MAX_BYTES + 1))


class LineQueueMachine(RuleBasedStateMachine):
    """What waits, what is under way and what was dropped, as plain lists; whoever takes never waits."""

    @initialize(overflow=POLICIES)
    def make(self, overflow: str) -> None:
        self.drops_oldest = overflow == "drop_oldest"
        self.dropped: list[int] = []
        self.expected_drops: list[int] = []
        self.waiting: list[Line] = []
        self.under_way: list[LineBatch] = []
        self.count = 0
        self.has_left = 0
        self.is_nudged = False
        made = ClientSettings(
            overflow=overflow,
            max_queue_records=MAX_LINES,
            max_queue_bytes=MAX_BYTES,
            batch_records=BATCH_LINES,
            batch_bytes=BATCH_BYTES,
            linger=60.0,
        )
        self.queue = LineQueue(made, self.dropped.append)

    @rule(size=SIZES)
    def put(self, size: int) -> None:
        """Where there is no room, the policy decides."""
        self.count += 1
        line = Line(f"r{self.count}", 0, self.count, "", b"", b"", b"", size)
        while self.drops_oldest and size <= MAX_BYTES and self.waiting and not self.fits(size):
            self.expected_drops.append(self.waiting.pop(0).level)
            self.has_left += 1
        is_kept = self.fits(size)
        was_large = self.bytes() >= BATCH_BYTES
        if is_kept:
            self.waiting.append(line)
        else:
            self.expected_drops.append(line.level)
        starts = len(self.waiting) == 1 or not len(self.waiting) % BATCH_LINES
        starts |= not was_large and self.bytes() >= BATCH_BYTES
        assert self.queue.put(line) == (is_kept and starts)

    @rule()
    def take(self) -> None:
        """The oldest, as many as a batch may have; after a nudge also none."""
        batch = self.queue.take(may_wait=False)
        expected = self.next_batch()
        if not expected and not self.is_nudged:
            assert batch is None
            return
        assert batch is not None
        assert (batch.lines, batch.number) == (expected, self.has_left)
        del self.waiting[: len(expected)]
        self.has_left += len(expected)
        self.under_way.append(batch)
        self.is_nudged = False

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def resolve(self, data: st.DataObject) -> None:
        """In any order."""
        self.queue.resolve(self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1))))

    @rule()
    def drain(self) -> None:
        """All that nobody has taken."""
        assert self.queue.drain() == self.waiting
        self.has_left += len(self.waiting)
        self.waiting.clear()

    @rule()
    def nudge(self) -> None:
        """For the next batch."""
        assert self.queue.nudge()
        self.is_nudged = True

    @rule()
    def wake(self) -> None:
        """Changes nothing for who never waits."""
        self.queue.wake()

    @rule()
    def close(self) -> None:
        """Lines come and go as before."""
        self.queue.close()

    @invariant()
    def bounds_are_kept(self) -> None:
        """In lines and in bytes, and both are told as they are."""
        assert (len(self.queue), self.queue.size_bytes) == (len(self.waiting), self.bytes())
        assert len(self.queue) <= MAX_LINES
        assert self.queue.size_bytes <= MAX_BYTES

    @invariant()
    def drops_are_told(self) -> None:
        """Each once, the oldest first."""
        assert self.dropped == self.expected_drops

    @invariant()
    def a_flush_is_exact(self) -> None:
        """It is done if and only if nothing of what came so far waits or is under way."""
        is_settled = not self.waiting and not any(batch.number < self.has_left for batch in self.under_way)
        assert self.queue.flush(0) == is_settled

    def fits(self, size: int) -> bool:
        return self.bytes() + size <= MAX_BYTES and len(self.waiting) < MAX_LINES

    def bytes(self) -> int:
        return sum(line.size for line in self.waiting)

    def next_batch(self) -> Sequence[Line]:
        batch: list[Line] = []
        for line in self.waiting[:BATCH_LINES]:
            if batch and sum(each.size for each in batch) + line.size > BATCH_BYTES:
                break
            batch.append(line)
        return batch


LineQueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLineQueue = LineQueueMachine.TestCase
