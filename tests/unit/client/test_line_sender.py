"""`LineSender`: sends batches of log lines until each line is accepted, dropped or spooled."""

import math
import time
from collections.abc import Callable, Sequence

import pytest

from emitd.errors import RecordRejected, Unavailable
from emitd.runtime.threads import TimeLeft
from emitd.sending.line_queue import Line
from emitd.sending.line_sender import TRIES_BEFORE_SPOOLING, LineSender
from emitd.sending.stats import ClientStats, DropReport
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply
from emitd.v1 import LogRecord


class Delivery:
    """A delivery with all that it needs, whose service is a function."""

    def __init__(self, *, spools_lines: bool = False) -> None:
        settings = ClientSettings(
            source="test",
            backoff_initial=0.001,
            backoff_max=0.001,
            spool_records="all" if spools_lines else "audit",
        )
        self.answer: Callable[[list[str]], Reply] = lambda _: Reply()
        self.calls: list[list[str]] = []
        self.records: list[LogRecord] = []
        self.time_left = TimeLeft(1.0)
        self.stats = ClientStats(settings)
        self.drop_report = DropReport("test", 60.0)
        self.spooled: list[bytes] = []
        self.spool_error: Exception | None = None
        self.dropped: list[tuple[str, int, str, int]] = []
        self.lines = LineSender(
            settings,
            self._send,
            time_left=self.time_left,
            stats=self.stats,
            drop_report=self.drop_report,
            spool=self,  # type: ignore[arg-type]
            on_drop=lambda cause, level, why="", count=1: self.dropped.append((cause, level, why, count)),
        )

    def _send(self, records: Sequence[bytes]) -> Reply:
        self.records = [LogRecord.FromString(record) for record in records]
        self.calls.append([record.message for record in self.records])
        return self.answer(self.calls[-1])

    def append(self, records: Sequence[bytes]) -> None:
        if self.spool_error is not None:
            raise self.spool_error
        self.spooled += records


def again(*indexes: int) -> Reply:
    return Reply(again=dict.fromkeys(indexes, ("not now", 0.0)))


def line(message: str, level: int = 20) -> Line:
    return Line("id-1", 17, level, message, b'{"a":1}', b"t" * 16, b"s" * 8, 100)


def test_a_line_becomes_a_record() -> None:
    """With all that it has, and the client's source; text that is no UTF-8 is escaped."""
    delivery = Delivery()
    delivery.lines.deliver([line("a\udcff")])
    (record,) = delivery.records
    assert record == LogRecord(
        record_id="id-1",
        time_unix_nano=17,
        level=20,
        message="a\\udcff",
        source="test",
        attributes_json='{"a":1}',
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
    )


def test_only_what_was_not_taken_is_tried_again() -> None:
    """Each line is accepted once."""
    delivery = Delivery()
    delivery.answer = lambda messages: again(1) if len(messages) == 3 else Reply()
    delivery.lines.deliver([line("a"), line("b"), line("c")])
    assert delivery.calls == [["a", "b", "c"], ["b"]]
    assert delivery.stats.counts()["sent"] == 3


def test_the_service_says_how_long_to_wait() -> None:
    """The longest of what it asks for is the least."""
    delivery = Delivery()
    delivery.answer = lambda messages: (
        Reply(again={0: ("", 0.2), 1: ("", 0.1)}) if len(delivery.calls) == 1 else Reply()
    )
    began = time.monotonic()
    delivery.lines.deliver([line("a"), line("b")])
    assert time.monotonic() - began >= 0.2


def test_lines_are_spooled_after_some_tries() -> None:
    """Where lines are spooled, an outage does not hold them in memory; else they are tried for ever."""
    delivery = Delivery(spools_lines=True)
    delivery.answer = lambda messages: again(*range(len(messages)))
    delivery.lines.deliver([line("a"), line("b")])
    assert len(delivery.calls) == TRIES_BEFORE_SPOOLING
    assert len(delivery.spooled) == delivery.stats.counts()["spooled"] == 2
    assert delivery.dropped == []


def test_a_spool_that_takes_nothing_ends_no_try() -> None:
    """It may be full: the lines are tried again."""
    delivery = Delivery(spools_lines=True)
    delivery.spool_error = Unavailable("full")
    delivery.answer = lambda messages: again(0) if len(delivery.calls) < 6 else Reply()
    delivery.lines.deliver([line("a")])
    assert len(delivery.calls) == 6
    assert delivery.stats.counts()["sent"] == 1


def test_lines_are_given_up_when_no_time_is_left() -> None:
    """They are dropped, counted by level with the last error."""
    delivery = Delivery()
    delivery.time_left.close(-math.inf)
    delivery.answer = lambda messages: again(*range(len(messages)))
    delivery.lines.deliver([line("a"), line("b", 40), line("c")])
    assert delivery.dropped == [("at_close", 20, "not now", 2), ("at_close", 40, "not now", 1)]


def test_lines_that_nobody_has_sent_are_given_up_too() -> None:
    """Spooled, where lines are; else dropped."""
    delivery = Delivery()
    delivery.lines.give_up([line("a")], "no time")
    assert delivery.dropped == [("at_close", 20, "no time", 1)]
    delivery = Delivery(spools_lines=True)
    delivery.lines.give_up([line("a")], "no time")
    assert (len(delivery.spooled), delivery.dropped) == (1, [])


def test_drops_are_told_with_the_next_lines() -> None:
    """Before them, and once; where they cannot be sent they are kept, and make no further drop."""
    delivery = Delivery()
    delivery.drop_report.add("queue_full", 30, 4)
    delivery.time_left.close(-math.inf)
    delivery.answer = lambda messages: again(*range(len(messages)))
    delivery.lines.deliver([line("a")])
    assert delivery.dropped == [("at_close", 20, "not now", 1)]
    delivery.answer = lambda messages: Reply()
    delivery.lines.deliver([line("b")])
    delivery.lines.deliver([line("c")])
    assert delivery.calls[1:] == [["the client dropped 4 WARNING records: queue_full", "b"], ["c"]]


def test_a_refused_word_of_a_drop_makes_no_other() -> None:
    """There would be no end."""
    delivery = Delivery()
    delivery.drop_report.add("queue_full", 30)
    delivery.answer = lambda messages: Reply(rejected={0: RecordRejected("no")})
    delivery.lines.deliver(())
    assert delivery.dropped == []
    assert not delivery.drop_report


def test_word_of_drops_is_left_in_the_spool() -> None:
    """Where there is one; else the drop_report keeps it."""
    delivery = Delivery()
    delivery.drop_report.add("queue_full", 30)
    delivery.spool_error = Unavailable("there is no spool")
    delivery.lines.leave_word()
    assert delivery.drop_report
    delivery.spool_error = None
    delivery.lines.leave_word()
    assert not delivery.drop_report
    assert [LogRecord.FromString(record).level for record in delivery.spooled] == [30]


def test_a_call_that_is_too_large_is_halved() -> None:
    """Down to the one line at fault."""
    delivery = Delivery()
    delivery.answer = lambda messages: (
        Reply(divide=RecordRejected("too large")) if "c" in messages else Reply()
    )
    delivery.lines.deliver([line(name) for name in "abcd"])
    assert delivery.dropped == [("refused", 20, "too large", 1)]
    assert delivery.stats.counts()["sent"] == 3


def test_an_interrupted_call_loses_nothing_silently() -> None:
    """Its lines are dropped or spooled, and the interrupt goes on."""
    delivery = Delivery()

    def interrupt(_: list[str]) -> Reply:
        raise KeyboardInterrupt

    delivery.answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        delivery.lines.deliver([line("a")])
    assert delivery.dropped == [("at_close", 20, "interrupted", 1)]


def test_a_line_that_cannot_be_serialised_costs_no_other() -> None:
    """It is counted, with the reason; the batch goes without it."""
    delivery = Delivery()
    odd = line("odd")._replace(time_unix_nano=1 << 70)
    delivery.lines.deliver([line("a"), odd, line("b")])
    delivery.lines.give_up([odd], "no time")
    assert delivery.calls == [["a", "b"]]
    assert [(cause, level) for cause, level, *_ in delivery.dropped] == [("internal_error", 20)] * 2
