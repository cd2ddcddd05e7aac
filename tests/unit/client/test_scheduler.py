"""`SendScheduler`: audit events, changes of jobs, and ticks of running jobs, which are sent at once."""

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any, TypeAlias

import pytest

from emitd import EmitError, RecordRejected, Unavailable, v1
from emitd.jobs import ticker as ticker_module
from emitd.jobs.run_state import JobRunState
from emitd.jobs.ticker import JobTicker
from emitd.sending import scheduler as module
from emitd.sending.scheduler import AwaitedRecord, SendScheduler
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply

RUNNING = v1.JOB_STATE_RUNNING
#: Of the jobs that are watched.
TICKERS: dict[JobRunState, JobTicker] = {}
Answer: TypeAlias = Callable[[Sequence[v1.LogRecord]], Reply]


class Clock:
    """The time of the scheduler, set by the test."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(ticker_module, "time", clock)
    return clock


def accept(records: Sequence[v1.LogRecord]) -> Reply:
    return Reply(receipts=[v1.Receipt(record_id=record.record_id) for record in records])


def again(why: str = "down", seconds: float = 0.0) -> Answer:
    return lambda records: Reply(again=dict.fromkeys(range(len(records)), (why, seconds)))


def reject(why: str = "bad") -> Answer:
    return lambda records: Reply(rejected=dict.fromkeys(range(len(records)), RecordRejected(why)))


class Service:
    """Takes calls, and answers each with the next of `answers`, the last of which stays."""

    def __init__(self) -> None:
        self.calls: list[list[v1.LogRecord]] = []
        self.answers: list[Answer] = [accept]
        self.senders_started = 0

    def send(self, records: Sequence[bytes]) -> Reply:
        self.calls.append([v1.LogRecord.FromString(record) for record in records])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(self.calls[-1])

    def start_sender(self) -> None:
        self.senders_started += 1

    @property
    def ids(self) -> list[list[str]]:
        return [[record.record_id for record in call] for call in self.calls]

    @property
    def progress(self) -> list[int]:
        return [record.job.progress for call in self.calls for record in call]


@pytest.fixture
def service() -> Service:
    return Service()


def make(service: Service, **settings: Any) -> SendScheduler:
    given: dict[str, Any] = {"tick_interval": 1.0, "backoff_initial": 2.0, "backoff_max": 8.0}
    return SendScheduler(ClientSettings(**(given | settings)), service.send, service.start_sender)


@pytest.fixture
def scheduler(service: Service, clock: Clock) -> SendScheduler:
    """One that is run by the test, at a time of its own."""
    return make(service)


def run(scheduler: SendScheduler) -> None:
    """Send what is due now."""
    scheduler.run(module.time.monotonic())


def submit(scheduler: SendScheduler, *ids: str) -> list[AwaitedRecord]:
    return [scheduler.submit(v1.LogRecord(record_id=record_id)) for record_id in ids]


def running(scheduler: SendScheduler, job_id: str = "j", **fields: Any) -> JobRunState:
    """A job that is RUNNING, and watched by the scheduler."""
    nothing: dict[str, Any] = {"total": None, "labels": None, "details": None, "lease": None}
    run_state = JobRunState(
        job_id,
        "sync",
        envelope=v1.LogRecord(),
        on_news=lambda: scheduler.news(ticker),
        **(nothing | fields),
    )
    run_state.report(RUNNING)
    run_state.take_receipt(v1.JobReceipt(attempt=1, applied=True))
    ticker = TICKERS[run_state] = JobTicker(run_state, scheduler._settings.tick_interval)
    scheduler.watch(ticker)
    return run_state


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def thread_of(run: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


class TestAwaitedRecords:
    def test_each_gets_its_receipt(self, scheduler: SendScheduler, service: Service) -> None:
        """What waits at the same time shares a call, in order."""
        entries = submit(scheduler, "a", "b")
        assert scheduler.waits == 2
        run(scheduler)
        assert [entry.future.result(0).record_id for entry in entries] == ["a", "b"]
        assert (service.ids, scheduler.waits) == ([["a", "b"]], 0)

    def test_a_call_has_no_more_records_than_a_batch(self, service: Service, clock: Clock) -> None:
        """The rest goes with the next."""
        scheduler = make(service, batch_records=2)
        submit(scheduler, *"abcde")
        run(scheduler)
        assert service.ids == [["a", "b"], ["c", "d"], ["e"]]

    def test_a_refusal_is_given_to_its_maker(self, scheduler: SendScheduler, service: Service) -> None:
        """And to nobody else; it is not tried again."""
        refusal = RecordRejected("bad", field="audit.user_id")
        service.answers = [lambda records: Reply(rejected={1: refusal}, receipts=accept(records).receipts)]
        entries = submit(scheduler, *"abc")
        run(scheduler)
        assert entries[1].future.exception(0) is refusal
        assert [entries[index].future.result(0).record_id for index in (0, 2)] == ["a", "c"]
        run(scheduler)
        assert len(service.calls) == 1

    def test_one_that_was_not_taken_is_tried_after_its_own_pause(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """It keeps no other waiting, and the pause grows."""
        service.answers = [again("busy"), again("busy"), accept]
        (slow,) = submit(scheduler, "slow")
        run(scheduler)
        assert (slow.failure, slow.future.done()) == ("busy", False)
        submit(scheduler, "other")
        run(scheduler)
        assert service.ids == [["slow"], ["other"]]
        clock.now += 2.0
        run(scheduler)
        assert sorted(service.ids[2]) == ["other", "slow"]
        assert slow.future.result(0).record_id == "slow"

    def test_pauses_grow_with_each_failure(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """By the back-off, with its jitter: never shorter than half of it."""
        service.answers = [again()]
        submit(scheduler, "a")
        for longest in (2.0, 4.0, 8.0, 8.0):
            run(scheduler)
            calls = len(service.calls)
            clock.now += longest / 2 - 0.001
            run(scheduler)
            assert len(service.calls) == calls
            clock.now += longest / 2 + 0.001
        assert len(service.calls) == 4

    def test_the_service_can_ask_for_a_longer_pause(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """By RetryInfo."""
        service.answers = [again(seconds=100.0), accept]
        submit(scheduler, "a")
        run(scheduler)
        clock.now += 99.9
        run(scheduler)
        assert len(service.calls) == 1
        clock.now += 0.1
        run(scheduler)
        assert len(service.calls) == 2

    def test_an_absurd_pause_ends_no_sender(self, service: Service) -> None:
        """A sender can be told to wait for 300 years at most, and looks again then."""
        scheduler = make(service)
        service.answers = [again(seconds=1e12), accept]
        submit(scheduler, "a")
        sender = thread_of(scheduler.run)
        until(lambda: scheduler._idle and service.calls)
        submit(scheduler, "b")
        until(lambda: service.ids == [["a"], ["b"]])
        scheduler.abandon()
        scheduler.close()
        sender.join(10)

    def test_a_receipt_that_is_missing_is_asked_for_again(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Whatever a service forgets must not end the sender."""
        service.answers = [lambda records: Reply(receipts=accept(records).receipts[:1]), accept]
        first, second = submit(scheduler, "a", "b")
        run(scheduler)
        assert first.future.done()
        assert (second.future.done(), second.failure) == (False, "the service sent no receipt for it")
        clock.now += 8
        run(scheduler)
        assert second.future.result(0).record_id == "b"

    def test_a_call_that_is_refused_as_a_whole_is_halved(
        self, scheduler: SendScheduler, service: Service
    ) -> None:
        """Until the record that is to blame stands alone: it is refused, all others get through."""

        def too_large(records: Sequence[v1.LogRecord]) -> Reply:
            is_too_large = any(record.record_id == "d" for record in records)
            return Reply(divide=RecordRejected("too large")) if is_too_large else accept(records)

        service.answers = [too_large]
        entries = submit(scheduler, *"abcde")
        run(scheduler)
        assert str(entries[3].future.exception(0)) == "too large"
        assert [entries[index].future.result(0).record_id for index in (0, 1, 2, 4)] == ["a", "b", "c", "e"]
        assert service.ids == [list("abcde"), ["a", "b"], ["c", "d", "e"], ["c"], ["d", "e"], ["d"], ["e"]]

    def test_a_sender_is_started_where_none_waits(self, service: Service) -> None:
        """Else the one that waits is woken."""
        scheduler = make(service)
        submit(scheduler, "a")
        assert service.senders_started == 1
        sender = thread_of(scheduler.run)
        until(lambda: scheduler._idle == 1)
        (entry,) = submit(scheduler, "b")
        assert entry.future.result(10).record_id == "b"
        assert service.senders_started == 1
        scheduler.close()
        sender.join(10)


class TestWithdrawal:
    def test_what_was_withdrawn_is_not_sent(self, scheduler: SendScheduler, service: Service) -> None:
        """Nobody waits for it any more."""
        first, _ = submit(scheduler, "a", "b")
        assert scheduler.withdraw(first) is True
        assert scheduler.waits == 1
        run(scheduler)
        assert service.ids == [["b"]]

    def test_what_was_withdrawn_is_not_tried_again(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Though a call with it had failed before."""
        service.answers = [again(), accept]
        (entry,) = submit(scheduler, "a")
        run(scheduler)
        scheduler.withdraw(entry)
        clock.now += 100
        run(scheduler)
        assert len(service.calls) == 1

    def test_a_result_that_was_faster_wins(self, scheduler: SendScheduler, service: Service) -> None:
        """Withdrawing says so, and the receipt or the error is there."""
        service.answers = [accept, reject()]
        (entry,) = submit(scheduler, "a")
        run(scheduler)
        (refused,) = submit(scheduler, "b")
        run(scheduler)
        assert (scheduler.withdraw(entry), scheduler.withdraw(refused)) == (False, False)
        assert entry.future.result(0).record_id == "a"

    @pytest.mark.parametrize("answer", [accept, reject(), again()])
    def test_a_result_that_comes_too_late_is_nobody_s(
        self, scheduler: SendScheduler, service: Service, answer: Answer
    ) -> None:
        """Its maker was told that it was withdrawn, and has spooled it perhaps."""

        def withdrawn_meanwhile(records: Sequence[v1.LogRecord]) -> Reply:
            assert scheduler.withdraw(entry) is True
            return answer(records)

        service.answers = [withdrawn_meanwhile]
        (entry,) = submit(scheduler, "a")
        run(scheduler)
        assert entry.future.cancelled()
        assert scheduler.flush(module.time.monotonic())

    def test_it_ends_a_flush(self, service: Service) -> None:
        """There is nothing more to wait for."""
        scheduler = make(service)
        (entry,) = submit(scheduler, "a")
        flushed: list[bool] = []
        thread = thread_of(lambda: flushed.append(scheduler.flush(time.monotonic() + 10)))
        until(lambda: scheduler._changed._waiters)  # type: ignore[attr-defined]
        scheduler.withdraw(entry)
        thread.join(30)
        assert flushed == [True]


class TestNews:
    def test_news_is_sent_when_its_interval_is_over(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """The latest only: what came in between is in it."""
        run_state = running(scheduler, total=100)
        for _ in range(3):
            run_state.advance(10)
        run(scheduler)
        assert service.calls == []
        clock.now += 1
        run(scheduler)
        assert service.progress == [30]
        run_state.advance(10)
        clock.now += 0.999
        run(scheduler)
        assert service.progress == [30]
        clock.now += 0.001
        run(scheduler)
        assert service.progress == [30, 40]

    def test_after_a_quiet_time_news_is_sent_at_once(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """The interval is from one report to the next."""
        run_state = running(scheduler)
        clock.now += 50
        run(scheduler)
        run_state.progress(7)
        run(scheduler)
        assert service.progress == [7]

    def test_without_news_and_lease_nothing_is_sent(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """However long the job takes."""
        running(scheduler, total=1000)
        clock.now += 10**6
        run(scheduler)
        assert service.calls == []

    def test_news_and_awaited_records_share_a_call(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Of several jobs too."""
        for job_id in ("j1", "j2"):
            running(scheduler, job_id).progress(1)
        clock.now += 1
        submit(scheduler, "a")
        run(scheduler)
        (call,) = service.calls
        assert sorted(record.job.job_id for record in call) == ["", "j1", "j2"]

    def test_one_report_of_a_job_is_under_way_at_a_time(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Another sender leaves it alone, also when there is news; that is sent after the answer."""
        entered, leave = threading.Event(), threading.Event()

        def slow(records: Sequence[v1.LogRecord]) -> Reply:
            entered.set()
            leave.wait(10)
            return accept(records)

        service.answers = [slow, accept]
        run_state = running(scheduler, lease=3)
        run_state.progress(1)
        clock.now += 1
        thread = thread_of(lambda: run(scheduler))
        assert entered.wait(10)
        run_state.progress(2)
        clock.now += 100
        assert not scheduler.flush(clock.now)
        run(scheduler)
        assert service.progress == [1]
        leave.set()
        thread.join(10)
        run(scheduler)
        assert service.progress == [1, 2]

    def test_news_that_comes_with_the_answer_is_not_forgotten(
        self, scheduler: SendScheduler, service: Service, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is noted after the answer was read, and before the scheduler knows that it was."""
        taken = JobTicker.accept

        def accept_slowly(ticker: JobTicker, receipt: v1.Receipt) -> float:
            due = taken(ticker, receipt)
            if len(service.calls) == 1:
                run_state.progress(2)
            return due

        monkeypatch.setattr(JobTicker, "accept", accept_slowly)
        run_state = running(scheduler)
        run_state.progress(1)
        clock.now += 1
        run(scheduler)
        clock.now += 1
        run(scheduler)
        assert service.progress == [1, 2]

    def test_news_of_a_job_that_is_not_watched_is_not_sent(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """It has not begun, or has ended."""
        run_state = running(scheduler)
        scheduler.forget(TICKERS[run_state])
        scheduler.forget(TICKERS[run_state])
        run_state.progress(5)
        clock.now += 100
        run(scheduler)
        assert service.calls == []


class TestLease:
    def test_it_is_renewed_at_a_third_of_it(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """From the last report on, whatever that was for."""
        run_state = running(scheduler, lease=30)
        for _ in range(2):
            clock.now += 9.999
            run(scheduler)
            calls = len(service.calls)
            clock.now += 0.001
            run(scheduler)
            assert len(service.calls) == calls + 1
        clock.now += 5
        run_state.progress(1)
        run(scheduler)
        assert len(service.calls) == 3
        clock.now += 9.999
        run(scheduler)
        assert len(service.calls) == 3
        clock.now += 0.001
        run(scheduler)
        assert [call[0].job.lease_seconds for call in service.calls] == [30] * 4
        assert {call[0].job.status for call in service.calls} == {RUNNING}

    def test_each_report_is_a_new_record(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Later than the one before it, so that no copy that comes late replaces it."""
        running(scheduler, lease=3)
        for _ in range(3):
            clock.now += 1
            run(scheduler)
        records = [call[0] for call in service.calls]
        assert len({record.record_id for record in records}) == 3
        times = [record.time_unix_nano for record in records]
        assert times == sorted(set(times))

    def test_a_lost_job_is_left_alone(self, scheduler: SendScheduler, service: Service, clock: Clock) -> None:
        """What it reports changes nothing any more."""
        stale = v1.Receipt(job=v1.JobReceipt(stale_reason="SUPERSEDED"))
        service.answers = [lambda records: Reply(receipts=[stale])]
        run_state = running(scheduler, lease=3)
        clock.now += 1
        run(scheduler)
        assert run_state.is_lost
        clock.now += 100
        run(scheduler)
        assert len(service.calls) == 1
        assert scheduler._heap == []

    def test_a_wish_to_cancel_is_noticed(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """With the answer to whatever report."""
        wish = v1.Receipt(job=v1.JobReceipt(cancel_requested=True))
        service.answers = [lambda records: Reply(receipts=[wish])]
        run_state = running(scheduler, lease=3)
        clock.now += 1
        run(scheduler)
        assert run_state.cancel_requested
        assert not run_state.is_lost

    def test_a_job_that_is_forgotten_before_its_report_goes_out_sends_none(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """It was due already: its end must not be followed by RUNNING."""
        run_state = running(scheduler, lease=3)
        submit(scheduler, "a")
        clock.now += 1
        scheduler.forget(TICKERS[run_state])
        run(scheduler)
        assert service.ids == [["a"]]
        assert scheduler._under_way == set()


class TestFailedNews:
    def test_it_is_made_anew_after_a_pause(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """With what is known by then."""
        service.answers = [again(seconds=50), accept]
        run_state = running(scheduler)
        run_state.progress(1)
        clock.now += 1
        run(scheduler)
        run_state.progress(2)
        clock.now += 49.9
        run(scheduler)
        assert service.progress == [1]
        clock.now += 0.1
        run(scheduler)
        assert service.progress == [1, 2]

    def test_after_a_success_news_goes_by_its_interval_again(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """The pauses of an outage end with it; so they do with a refusal."""
        service.answers = [again(), reject(), accept]
        run_state = running(scheduler)
        for percent in (1, 2, 3):
            run_state.progress(percent)
            clock.now += 1 if percent != 2 else 8
            run(scheduler)
        assert service.progress == [1, 2, 3]

    def test_what_was_refused_is_left_out(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Soon, so that the progress is known all the same; and then there is peace."""
        service.answers = [reject("too large"), accept]
        run_state = running(scheduler)
        run_state.details({"rows": 1})
        run_state.progress(5)
        clock.now += 1
        run(scheduler)
        run(scheduler)
        assert len(service.calls) == 1
        clock.now += 1
        run(scheduler)
        assert [call[0].job.details_json for call in service.calls] == ['{"rows":1}', ""]
        assert service.progress == [5, 5]
        clock.now += 1000
        run(scheduler)
        assert len(service.calls) == 2

    def test_what_is_refused_without_a_reason_to_is_not_repeated(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """There is nothing to leave out: it waits for the next news, or the lease."""
        service.answers = [reject()]
        run_state = running(scheduler, lease=30)
        run_state.progress(5)
        clock.now += 1
        run(scheduler)
        clock.now += 9.9
        run(scheduler)
        assert len(service.calls) == 1
        clock.now += 0.1
        run(scheduler)
        assert len(service.calls) == 2


class TestFlush:
    def test_it_is_done_where_nothing_waits(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """A lease that is to be renewed some day does not count, and is not renewed for it."""
        running(scheduler, lease=30)
        assert scheduler.flush(clock.now)
        run(scheduler)
        assert service.calls == []

    def test_it_waits_for_receipts(self, scheduler: SendScheduler, service: Service, clock: Clock) -> None:
        """Also of what is tried again."""
        service.answers = [again(), accept]
        submit(scheduler, "a")
        assert not scheduler.flush(clock.now)
        run(scheduler)
        assert not scheduler.flush(clock.now)
        clock.now += 2
        run(scheduler)
        assert scheduler.flush(clock.now)

    def test_it_does_not_wait_for_the_interval_of_news(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Somebody waits for it."""
        run_state = running(scheduler)
        run_state.progress(5)
        assert not scheduler.flush(clock.now)
        run(scheduler)
        assert service.progress == [5]
        assert scheduler.flush(clock.now)

    def test_it_waits_for_news_that_is_tried_again(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Until the service has it; what is newer does not wait for the pause."""
        service.answers = [again(seconds=50), again(seconds=50), accept]
        run_state = running(scheduler)
        run_state.progress(5)
        clock.now += 1
        run(scheduler)
        assert not scheduler.flush(clock.now)
        run(scheduler)
        assert service.progress == [5]
        run_state.progress(6)
        assert not scheduler.flush(clock.now)
        run(scheduler)
        assert service.progress == [5, 6]
        assert not scheduler.flush(clock.now)
        clock.now += 50
        run(scheduler)
        assert service.progress == [5, 6, 6]
        assert scheduler.flush(clock.now)

    @pytest.mark.parametrize("way", ["forget", "abandon"])
    def test_it_does_not_wait_for_what_is_given_up(self, service: Service, way: str) -> None:
        """The job's end says all, or the client is at its own."""
        scheduler = make(service)
        run_state = running(scheduler)
        if way == "forget":
            run_state.progress(5)
        else:
            submit(scheduler, "a")
        flushed: list[bool] = []
        thread = thread_of(lambda: flushed.append(scheduler.flush(time.monotonic() + 10)))
        until(lambda: scheduler._changed._waiters)  # type: ignore[attr-defined]
        scheduler.forget(TICKERS[run_state]) if way == "forget" else scheduler.abandon()
        thread.join(30)
        assert flushed == [True]

    def test_it_waits_for_a_report_under_way(self, service: Service) -> None:
        """The news is taken, and not yet answered; and it can wait for ages."""
        entered, leave = threading.Event(), threading.Event()

        def slow(records: Sequence[v1.LogRecord]) -> Reply:
            entered.set()
            leave.wait(10)
            return accept(records)

        service.answers = [slow]
        scheduler = make(service, tick_interval=0.001)
        sender = thread_of(scheduler.run)
        running(scheduler).progress(5)
        assert entered.wait(10)
        assert not scheduler.flush(time.monotonic() + 0.01)
        flushed: list[bool] = []
        threads = [thread_of(lambda at=at: flushed.append(scheduler.flush(at))) for at in (math.inf, 1e300)]  # type: ignore[misc]
        until(lambda: len(scheduler._changed._waiters) == 2)  # type: ignore[attr-defined]
        leave.set()
        for thread in threads:
            thread.join(10)
        assert flushed == [True, True]
        scheduler.close()
        sender.join(10)


class TestEnd:
    def test_closing_sends_the_rest_and_ends(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """News at once, what is awaited too; a lease is not worth waiting for."""
        run_state = running(scheduler, lease=30)
        run_state.progress(5)
        submit(scheduler, "a")
        scheduler.close()
        scheduler.run()
        (call,) = service.calls
        assert sorted(record.job.progress for record in call) == [0, 5]

    def test_news_that_comes_during_the_last_report_is_sent_too(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """If it is time for it."""

        def slow(records: Sequence[v1.LogRecord]) -> Reply:
            scheduler.close()
            run_state.progress(2)
            clock.now += 1
            return accept(records)

        service.answers = [slow, accept]
        run_state = running(scheduler)
        run_state.progress(1)
        clock.now += 1
        scheduler.run()
        assert service.progress == [1, 2]

    def test_a_closed_lane_goes_on_until_each_record_is_settled(self, service: Service) -> None:
        """Tries and pauses included."""
        scheduler = make(service, backoff_initial=0.01)
        service.answers = [again(), again(), accept]
        (entry,) = submit(scheduler, "a")
        scheduler.close()
        scheduler.run()
        assert entry.future.result(0).record_id == "a"

    def test_it_wakes_a_sender_that_waits(self, service: Service) -> None:
        """For something that may never come."""
        scheduler = make(service)
        sender = thread_of(scheduler.run)
        until(lambda: scheduler._idle == 1)
        scheduler.close()
        sender.join(10)
        assert not sender.is_alive()

    def test_a_lane_without_time_tells_all_who_wait(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Why it did not get there; nothing more is sent."""
        service.answers = [again("no route")]
        (tried,) = submit(scheduler, "a")
        run(scheduler)
        (fresh,) = submit(scheduler, "b")
        running(scheduler).progress(5)
        scheduler.close()
        scheduler.abandon()
        errors: list[Any] = [entry.future.exception(0) for entry in (tried, fresh)]
        assert [type(error) for error in errors] == [Unavailable, Unavailable]
        assert [str(error).rsplit(": ", 1)[1] for error in errors] == ["no route", "no answer so far"]
        assert scheduler.waits == 0
        clock.now += 100
        scheduler.run()
        assert len(service.calls) == 1

    def test_a_result_after_that_is_nobody_s(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Its maker was told, and spools."""

        def abandoned_meanwhile(records: Sequence[v1.LogRecord]) -> Reply:
            scheduler.abandon()
            return accept(records)

        service.answers = [abandoned_meanwhile]
        (entry,) = submit(scheduler, "a")
        run(scheduler)
        assert isinstance(entry.future.exception(0), Unavailable)


class TestRun:
    def test_it_ends_at_its_deadline(self, service: Service) -> None:
        """With what is not due left for another."""
        scheduler = make(service)
        begun = time.monotonic()
        scheduler.run(begun + 0.05)
        assert time.monotonic() - begun >= 0.05

    def test_it_ends_with_a_record(self, service: Service) -> None:
        """A thread that sends by itself does so for a record of its own; what is resolved needs no sending."""
        scheduler = make(service, batch_records=1)
        first, second = submit(scheduler, "a", "b")
        scheduler.run(until=first)
        assert service.ids == [["a"]]
        assert not second.future.done()
        scheduler.run(until=first)
        assert service.ids == [["a"]]

    def test_it_ends_with_a_record_that_another_settles(self, service: Service) -> None:
        """While it waits for the next try."""
        scheduler = make(service)
        service.answers = [again(seconds=60)]
        (entry,) = submit(scheduler, "a")
        thread = thread_of(lambda: scheduler.run(until=entry))
        until(lambda: scheduler._idle == 1)
        scheduler.withdraw(entry)
        thread.join(30)
        assert not thread.is_alive()

    def test_an_interrupted_wait_leaves_the_lane_as_it_was(
        self, scheduler: SendScheduler, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """KeyboardInterrupt, in a thread that sends by itself: the next record has a sender started."""

        def interrupted(timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(scheduler._changed, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                scheduler.run()
        submit(scheduler, "a")
        assert service.senders_started == 1


def test_each_record_gets_one_fate_among_threads() -> None:
    """Four that submit, three that send, a service that fails in every way: all are answered, by what came of them."""
    chance = random.Random(7)
    committed: set[str] = set()

    def answer(records: Sequence[v1.LogRecord]) -> Reply:
        if len(records) > 1 and chance.random() < 0.1:
            return Reply(divide=RecordRejected("too large"))
        fates = [chance.choice(("accept", "accept", "again", "reject")) for _ in records]
        refused: dict[int, EmitError] = {
            index: RecordRejected("bad") for index, fate in enumerate(fates) if fate == "reject"
        }
        retried = {index: ("busy", 0.0) for index, fate in enumerate(fates) if fate == "again"}
        accepted = [each.record_id for each, fate in zip(records, fates, strict=True) if fate == "accept"]
        assert not committed.intersection(accepted)
        committed.update(accepted)
        return Reply(again=retried, rejected=refused, receipts=accept(records).receipts)

    service = Service()
    service.answers = [answer]
    scheduler = make(service, batch_records=16, backoff_initial=0.001, backoff_max=0.002)
    entries: dict[str, AwaitedRecord] = {}

    def work(name: int) -> None:
        for number in range(200):
            record_id = f"{name}-{number}"
            (entries[record_id],) = submit(scheduler, record_id)

    senders = [thread_of(scheduler.run) for _ in range(3)]
    for worker in [thread_of(lambda name=name: work(name)) for name in range(4)]:  # type: ignore[misc]
        worker.join(30)
    assert scheduler.flush(time.monotonic() + 30)
    scheduler.close()
    for sender in senders:
        sender.join(10)
        assert not sender.is_alive()
    assert not wait([entry.future for entry in entries.values()], 0).not_done
    for record_id, entry in entries.items():
        assert (entry.future.exception(0) is None) == (record_id in committed)
    assert (scheduler.waits, scheduler._under_way, scheduler._heap) == (0, set(), [])


class OddRecord(AwaitedRecord):
    """Raises at one step."""

    def __init__(self, record: bytes, step: str) -> None:
        super().__init__(record)

        def fail(*_: object) -> Any:
            raise MemoryError(step)

        setattr(self, step, fail)


class TestFaults:
    @pytest.mark.parametrize(
        ("step", "answer"),
        [("take", accept), ("accept", accept), ("note_failure", again())],
    )
    def test_a_fault_of_one_entry_settles_it_and_no_other(
        self, scheduler: SendScheduler, service: Service, clock: Clock, step: str, answer: Answer
    ) -> None:
        """Its maker gets an error of the client's; the others in the call, and later ones, get what they would."""
        service.answers = [answer, accept]
        odd = OddRecord(v1.LogRecord(record_id="odd").SerializeToString(), step)
        with scheduler._lock:
            scheduler._awaited.add(odd)
            scheduler._schedule(odd, 0.0)
        (good,) = submit(scheduler, "good")
        run(scheduler)
        assert isinstance(odd.future.exception(0), RecordRejected)
        (later,) = submit(scheduler, "later")
        clock.now += 10.0
        run(scheduler)
        assert [entry.future.result(0).record_id for entry in (good, later)] == ["good", "later"]
        assert scheduler.flush(0.0)

    def test_a_report_that_cannot_be_made_leaves_the_lease_alone(
        self, scheduler: SendScheduler, service: Service, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The news is given up, flush ends, and the lease is renewed at its time."""
        run_state = running(scheduler, lease=30, total=10)

        def fail(*_: object) -> Any:
            raise RuntimeError("odd")

        with monkeypatch.context() as patch:
            patch.setattr(run_state, "report", fail)
            run_state.advance()
            clock.now += 1.0
            run(scheduler)
        assert not service.calls
        assert scheduler.flush(0.0)
        clock.now += 10.0
        run(scheduler)
        assert service.progress == [10]

    def test_a_call_that_raises_is_made_again(
        self, scheduler: SendScheduler, service: Service, clock: Clock
    ) -> None:
        """Such as for want of memory: no record is left without a sender."""

        def fail(records: Sequence[v1.LogRecord]) -> Reply:
            raise MemoryError

        service.answers = [fail, accept]
        (entry,) = submit(scheduler, "r1")
        run(scheduler)
        clock.now += 2.0
        run(scheduler)
        assert entry.future.result(0).record_id == "r1"

    def test_news_asks_for_a_sender_again_where_none_could_be_started(
        self, scheduler: SendScheduler, service: Service
    ) -> None:
        """The news before it is scheduled already, and waits."""
        run_state = running(scheduler)
        run_state.progress(1)
        started = service.senders_started
        run_state.progress(2)
        assert service.senders_started == started + 1
