"""`DropReport`: what a client dropped, until the service knows of it."""

import json
import sys
import threading
from typing import Any

import pytest

from emitd import v1
from emitd.runtime.diagnostics import report_line
from emitd.sending import stats as module
from emitd.sending.stats import Drop, DropReport, drop_record

MINUTE = 60.0


class Clock:
    """Both clocks of the module, set by the test."""

    moment = 100.0

    def monotonic(self) -> float:
        return self.moment

    def time_ns(self) -> int:
        return int(self.moment * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def drop_report(clock: Clock) -> DropReport:
    return DropReport("shop", MINUTE)


def attributes(record: v1.LogRecord) -> dict[str, Any]:
    return dict(json.loads(record.attributes_json))


class TestDrops:
    def test_drops_of_one_cause_and_level_are_one_entry(self, drop_report: DropReport, clock: Clock) -> None:
        """With their number, the time of the first and the last, and the last error there was."""
        drop_report.add("refused", 20, why="too large")
        clock.moment = 105.0
        drop_report.add("refused", 20, count=3, why="bad")
        clock.moment = 107.0
        drop_report.add("refused", 20)
        assert drop_report.take() == [
            Drop("refused", 20, 5, first_unix_nano=100 * 10**9, last_unix_nano=107 * 10**9, why="bad")
        ]

    def test_each_cause_and_each_level_has_its_own_entry(self, drop_report: DropReport) -> None:
        """So that a lost ERROR is not hidden among DEBUG lines."""
        drop_report.add("queue_full", 10)
        drop_report.add("queue_full", 40)
        drop_report.add("closed", 10)
        found = [(drop.cause, drop.level, drop.records) for drop in drop_report.take()]
        assert found == [("queue_full", 10, 1), ("queue_full", 40, 1), ("closed", 10, 1)]

    def test_what_was_taken_is_not_given_again(self, drop_report: DropReport) -> None:
        """Unless it is put back."""
        assert not drop_report
        drop_report.add("closed", 20)
        assert drop_report
        taken = drop_report.take()
        assert (bool(drop_report), list(drop_report.take())) == (False, [])
        drop_report.put_back(taken)
        assert drop_report.take() == taken

    def test_what_is_put_back_joins_what_came_since(self, drop_report: DropReport, clock: Clock) -> None:
        """From the first to the last of both, and the newer error stays."""
        drop_report.add("refused", 20, why="old")
        taken = drop_report.take()
        clock.moment = 105.0
        drop_report.add("refused", 20, count=2)
        drop_report.put_back(taken)
        assert drop_report.take() == [Drop("refused", 20, 3, 100 * 10**9, 105 * 10**9, "old")]

    def test_threads_lose_no_count(self) -> None:
        """Added, taken and put back at the same time, none is missing and none is there twice."""
        drop_report = DropReport("shop", MINUTE)
        counted = 0

        def add() -> None:
            for _ in range(2_000):
                drop_report.add("closed", 20)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            taken = drop_report.take()
            drop_report.put_back(taken[:1])
            counted += sum(drop.records for drop in taken[1:])
        for thread in threads:
            thread.join()
        assert counted + sum(drop.records for drop in drop_report.take()) == 8_000


class TestTelling:
    def test_the_first_drop_is_told_at_once(
        self, drop_report: DropReport, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """By source, number, cause and error, on standard error."""
        drop_report.add("refused", 20, why="too large")
        assert capsys.readouterr() == ("", "emitd: shop: dropped 1 record: refused (last: too large)\n")

    def test_further_ones_are_told_together_when_it_is_time(
        self, drop_report: DropReport, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A line for each cause, over all levels."""
        drop_report.add("closed", 20)
        capsys.readouterr()
        for level in (10, 20, 30):
            drop_report.add("queue_full", level)
        drop_report.add("closed", 20)
        clock.moment += MINUTE - 0.001
        drop_report.tell()
        assert capsys.readouterr().err == ""
        clock.moment += 0.001
        drop_report.tell()
        assert capsys.readouterr().err == (
            "emitd: shop: dropped 3 records: queue_full\nemitd: shop: dropped 1 record: closed\n"
        )

    def test_at_the_end_it_is_told_at_once(
        self, drop_report: DropReport, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """There is no later, and what is told is not told again."""
        drop_report.add("closed", 20)
        drop_report.add("at_close", 20, count=7)
        capsys.readouterr()
        drop_report.tell(now=True)
        assert capsys.readouterr().err == "emitd: shop: dropped 7 records: at_close\n"
        drop_report.tell(now=True)
        assert capsys.readouterr().err == ""

    def test_without_a_drop_nothing_is_told(
        self, drop_report: DropReport, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nor does it count as told: the first drop after it is told at once."""
        drop_report.tell(now=True)
        assert capsys.readouterr().err == ""
        drop_report.add("closed", 20)
        assert capsys.readouterr().err == "emitd: shop: dropped 1 record: closed\n"

    def test_a_thousand_errors_are_one_line(
        self, drop_report: DropReport, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each refusal can have words of its own: the last stands for all, and no more are kept."""
        drop_report.add("refused", 20, why="no 0")
        capsys.readouterr()
        for number in range(1, 1000):
            drop_report.add("refused", 20, why=f"no {number}")
        clock.moment += MINUTE
        drop_report.add("refused", 20)
        assert capsys.readouterr().err == "emitd: shop: dropped 1000 records: refused (last: no 999)\n"

    def test_an_error_cannot_forge_a_line(
        self, drop_report: DropReport, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A record's own text can stand in it; letters of any language stay (CWE-117)."""
        drop_report.add("refused", 20, why="'grün\nemitd: all is well\x1b[2J'")
        assert capsys.readouterr().err == (
            "emitd: shop: dropped 1 record: refused (last: 'grün\\nemitd: all is well\\x1b[2J')\n"
        )

    def test_taking_a_drop_does_not_leave_it_untold(
        self, drop_report: DropReport, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The operator and the service are told each for itself; a drop put back is not told twice."""
        drop_report.add("closed", 20)
        drop_report.add("closed", 20)
        drop_report.put_back(drop_report.take())
        capsys.readouterr()
        clock.moment += MINUTE
        drop_report.tell()
        assert capsys.readouterr().err == "emitd: shop: dropped 1 record: closed\n"


class TestRecord:
    def test_a_drop_is_a_log_line_of_its_own(self, clock: Clock) -> None:
        """A WARNING that says how many, of which level and source, why, and from when to when."""
        drop = Drop("queue_full", 40, 2, 1_000_000_000, 2_500_000_000, "down")
        record = v1.LogRecord.FromString(drop_record(drop, "shop"))
        assert (record.level, record.source, record.time_unix_nano) == (
            v1.LEVEL_WARNING,
            "shop",
            100 * 10**9,
        )
        assert record.message == "the client dropped 2 ERROR records: queue_full"
        assert attributes(record) == {
            "dropped.count": 2,
            "dropped.cause": "queue_full",
            "dropped.level": "ERROR",
            "dropped.source": "shop",
            "dropped.from": "1970-01-01T00:00:01.000+00:00",
            "dropped.to": "1970-01-01T00:00:02.500+00:00",
            "dropped.error": "down",
        }

    @pytest.mark.parametrize("level", [level for level in v1.Level.values() if level])
    def test_records_of_every_level_can_be_dropped(self, level: int) -> None:
        """Those of audit and of jobs from the spool."""
        record = v1.LogRecord.FromString(drop_record(Drop("refused", level, 1, 0, 0, ""), "shop"))
        name = v1.Level.Name(level).removeprefix("LEVEL_")  # type: ignore[arg-type]
        assert record.message == f"the client dropped 1 {name} record: refused"
        assert "dropped.error" not in attributes(record)

    def test_each_has_an_id_of_its_own(self) -> None:
        """Two drops of the same kind are no duplicates."""
        drop = Drop("closed", 20, 1, 0, 0, "")
        ids = {v1.LogRecord.FromString(drop_record(drop, "shop")).record_id for _ in range(2)}
        assert len(ids) == 2

    def test_an_error_of_any_characters_can_be_written(self) -> None:
        """It comes from anywhere."""
        record = v1.LogRecord.FromString(drop_record(Drop("refused", 20, 1, 0, 0, "a\ud800"), "shop"))
        assert attributes(record)["dropped.error"] == "a\\ud800"


class TestSay:
    def test_without_standard_error_nothing_is_said(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And not on standard output either, which belongs to the program."""
        monkeypatch.setattr(sys, "stderr", None)
        report_line("hello")
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closed"), AttributeError("write")])
    def test_a_standard_error_that_fails_is_no_trouble(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A program goes on whose terminal was closed."""

        class Broken:
            def write(self, text: str) -> int:
                raise error

        monkeypatch.setattr(sys, "stderr", Broken())
        report_line("hello")

    def test_it_is_written_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not kept in a buffer until the end of the program, which may be a kill."""
        done: list[str] = []

        class Noted:
            def write(self, text: str) -> int:
                done.append(text)
                return len(text)

            def flush(self) -> None:
                done.append("<flush>")

        monkeypatch.setattr(sys, "stderr", Noted())
        report_line("hello")
        assert "".join(done) == "emitd: hello\n<flush>"
