"""`JobRunState`: what is known of a run of a job, and its reports."""

import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from emitd import JobNotApplied, v1
from emitd.errors import LeaseLost
from emitd.jobs import run_state as module
from emitd.jobs.run_state import JobRunState
from emitd.records.exceptions import Incomplete
from emitd_handlers.jobs.merge import MAX_ATTEMPT, merge
from emitd_handlers.jobs.source import Job
from emitd_handlers.record import JobState
from emitd_server.convert.records import RecordReader
from emitd_server.settings import LimitSettings
from support.processes.own_calls import with_own

QUEUED, RUNNING = v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING
COMPLETED, FAILED = v1.JOB_STATE_COMPLETED, v1.JOB_STATE_FAILED
SECOND = 1_000_000_000


def make_notes(**fields: Any) -> JobRunState:
    nothing: dict[str, Any] = {"total": None, "labels": None, "details": None, "lease": None}
    nothing |= {"envelope": v1.LogRecord(), "on_news": lambda: None}
    return JobRunState("j1", "sync", **(nothing | fields))


def running(attempt: int = 1, **fields: Any) -> JobRunState:
    """Notes of a job whose RUNNING was applied."""
    run_state = make_notes(**fields)
    run_state.report(RUNNING)
    run_state.take_receipt(v1.JobReceipt(attempt=attempt, applied=True))
    return run_state


class TestReports:
    def test_a_report_carries_the_whole_state(self) -> None:
        """Also what was noted before the report before it, so that one that is lost takes nothing away."""
        envelope = v1.LogRecord(source="shop", attributes_json='{"a":1}')
        run_state = running(attempt=3, total=4, labels={"user": "u1"}, details={"rows": 0}, envelope=envelope)
        run_state.advance(3)
        run_state.message("nearly there")
        run_state.report(RUNNING)
        record = run_state.report(RUNNING)
        assert (record.source, record.attributes_json, record.message) == ("shop", '{"a":1}', "nearly there")
        assert record.job == v1.JobStatus(
            job_id="j1",
            job_type="sync",
            status=RUNNING,
            progress=75,
            details_json='{"rows":0}',
            labels={"user": "u1"},
            attempt=3,
        )

    def test_the_attempt_is_asked_for_until_a_receipt_names_it(self) -> None:
        """So a beginning that is tried anew, and a job that was QUEUED first, open one attempt each."""
        run_state = make_notes()
        first = run_state.report(QUEUED)
        again = run_state.report(QUEUED)
        assert [(r.job.new_attempt, r.job.attempt) for r in (first, again)] == [(True, 0)] * 2
        run_state.take_receipt(v1.JobReceipt(attempt=2, applied=True))
        begun = run_state.report(RUNNING)
        assert (begun.job.new_attempt, begun.job.attempt, run_state.attempt) == (False, 2, 2)

    def test_each_report_has_an_id_and_a_later_time_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even where the clock stands still or is set back."""
        times = iter([100, 100, 50, 200])
        monkeypatch.setattr(module, "time", with_own(time, time_ns=lambda: next(times)))
        run_state = make_notes()
        records = [run_state.report(RUNNING) for _ in range(4)]
        assert [record.time_unix_nano for record in records] == [100, 101, 102, 200]
        assert len({record.record_id for record in records}) == 4

    def test_only_running_has_the_lease(self) -> None:
        """Nobody renews the lease of a queued job, and the end needs none; without a lease there is none."""
        run_state = make_notes(lease=60)
        leases = [run_state.report(status).job for status in (QUEUED, RUNNING, COMPLETED, FAILED)]
        assert [job.HasField("lease_seconds") for job in leases] == [False, True, False, False]
        assert leases[1].lease_seconds == run_state.lease_seconds == 60
        assert not make_notes().report(RUNNING).job.HasField("lease_seconds")

    def test_progress_that_nobody_noted_is_absent(self) -> None:
        """And so it is in COMPLETED, which means 100."""
        run_state = make_notes()
        assert not run_state.report(RUNNING).job.HasField("progress")
        run_state.progress(40.9)
        assert run_state.report(RUNNING).job.progress == 40
        assert not run_state.report(COMPLETED).job.HasField("progress")
        assert run_state.report(FAILED).job.progress == 40

    def test_a_failure_names_the_exception(self) -> None:
        """The reason is a word for programs, the message a sentence for people."""
        job = running().failure_report(Incomplete("left after 3 of 10 items")).job
        assert (job.status, job.failure_reason, job.failure_message) == (
            FAILED,
            "INCOMPLETE",
            "left after 3 of 10 items",
        )

    def test_what_was_refused_is_left_out_until_there_is_better(self) -> None:
        """RUNNING reports keep the lease and the progress without it; the end brings it once more."""
        run_state = running(lease=60)
        assert not run_state.withhold_refused()  # nothing to blame
        run_state.details({"all": "x"})
        run_state.progress(40)
        assert run_state.report(RUNNING).job.details_json
        assert run_state.withhold_refused()
        assert not run_state.withhold_refused()
        bare = run_state.report(RUNNING)
        assert (bare.message, bare.job.details_json, bare.job.progress) == ("", "", 40)
        assert bare.job.lease_seconds == 60
        assert run_state.report(COMPLETED).job.details_json == '{"all":"x"}'
        run_state.details({"all": "y"})
        assert run_state.report(RUNNING).job.details_json == '{"all":"y"}'
        run_state.forget_refused()
        assert run_state.report(FAILED).job.details_json == ""


class TestNews:
    def test_only_what_is_new_is_news(self) -> None:
        """`on_news` is called for each change and for nothing else; a report takes the news."""
        calls: list[int] = []
        run_state = make_notes(total=1000, on_news=lambda: calls.append(1))
        for _ in range(10):
            run_state.advance()  # 0 to 1 percent: two changes
        assert (len(calls), run_state.has_news) == (2, True)
        run_state.report(RUNNING)
        assert not run_state.has_news
        run_state.message("m")
        run_state.message("m")
        run_state.details({"a": 1})
        run_state.details({"a": 1})
        run_state.progress(50)
        run_state.progress(50.5)
        assert (len(calls), run_state.has_news) == (5, True)

    def test_on_news_is_called_outside_of_the_lock(self) -> None:
        """Its owner may wait there for another thread that makes a report."""
        made: list[v1.LogRecord] = []

        def report_in_a_thread() -> None:
            thread = threading.Thread(target=lambda: made.append(run_state.report(RUNNING)), daemon=True)
            thread.start()
            thread.join(30)

        run_state = make_notes(total=10, on_news=report_in_a_thread)
        run_state.advance()
        run_state.progress(50)
        run_state.message("m")
        run_state.details({})
        assert len(made) == 4

    def test_no_step_is_lost_between_threads(self) -> None:
        """Steps may be counted from any thread while reports are made."""
        run_state = make_notes(total=8000)

        def work() -> None:
            for _ in range(1000):
                run_state.advance()
                run_state.report(RUNNING)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run_state.report(RUNNING).job.progress == 50

    @pytest.mark.parametrize("steps", [-5, 0, 4, 5, 1000])
    def test_steps_stay_within_0_and_100(self, steps: int) -> None:
        """More steps than there are, or less than none, are no reason to refuse the report."""
        run_state = make_notes(total=4)
        run_state.advance(steps)
        assert run_state.report(RUNNING).job.progress == min(max(steps * 25, 0), 100)

    @pytest.mark.parametrize("total", [None, 0, -4, 0.0, Decimal(0)])
    def test_without_a_total_steps_make_no_progress(self, total: Any) -> None:
        """And no news: that the progress is unknown fails no job."""
        calls: list[int] = []
        run_state = make_notes(total=total, on_news=lambda: calls.append(1))
        run_state.advance()
        run_state.advance(10**30)
        assert (calls, run_state.has_news) == ([], False)
        assert not run_state.report(RUNNING).job.HasField("progress")
        run_state.progress(30)
        run_state.advance(-1)
        assert run_state.report(RUNNING).job.progress == 30

    @given(
        st.none() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False),
        st.lists(
            st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False), max_size=9
        ),
    )
    def test_no_steps_of_no_total_raise(self, total: float | None, steps: list[float]) -> None:
        """The progress is in percent, or absent."""
        run_state = make_notes(total=total)
        for count in steps:
            run_state.advance(count)
        job = run_state.report(RUNNING).job
        assert job.HasField("progress") == (bool(steps) and total is not None and round(total, 9) > 0)
        assert 0 <= job.progress <= 100


class TestAnswers:
    @pytest.mark.parametrize("reason", ["SUPERSEDED", "ATTEMPT_ENDED"])
    def test_every_call_of_a_lost_job_raises(self, reason: str) -> None:
        """From the notice on that the attempt went on, or ended, without its reporter."""
        run_state = running(total=10)
        run_state.take_notice(reason, False)
        assert (run_state.is_lost, run_state.stale_reason) == (True, reason)
        calls = [
            lambda: run_state.advance(),
            lambda: run_state.progress(5),
            lambda: run_state.message("m"),
            lambda: run_state.details({}),
            lambda: run_state.refuse_if_lost(),
        ]
        for call in calls:
            with pytest.raises(LeaseLost, match=f"'j1' was not applied: {reason}"):
                call()
        assert not run_state.has_news

    def test_a_report_that_was_overtaken_means_nothing(self) -> None:
        """OUT_OF_ORDER says that a later one was applied."""
        run_state = running()
        run_state.take_notice("OUT_OF_ORDER", False)
        assert not run_state.is_lost

    @pytest.mark.parametrize("end", [COMPLETED, FAILED])
    def test_a_late_notice_does_not_make_an_ended_job_lost(self, end: v1.JobState) -> None:
        """A RUNNING that arrives after the job's own end is ATTEMPT_ENDED, as it should be."""
        run_state = running()
        run_state.report(end)
        run_state.take_notice("ATTEMPT_ENDED", False)
        assert not run_state.is_lost
        run_state.take_receipt(v1.JobReceipt(attempt=1, applied=True))

    def test_a_beginning_that_changed_nothing_is_not_applied(self) -> None:
        """It is no lost lease: the job was never running here."""
        run_state = make_notes()
        run_state.report(RUNNING)
        with pytest.raises(JobNotApplied) as caught:
            run_state.take_receipt(v1.JobReceipt(attempt=2, stale_reason="SUPERSEDED"))
        assert not isinstance(caught.value, LeaseLost)
        assert (run_state.is_lost, run_state.attempt) == (False, 0)

    def test_an_end_that_changed_nothing_is_a_lost_lease(self) -> None:
        """Whether the lease ran out or another run began: the result is nobody's."""
        run_state = running()
        run_state.report(COMPLETED)
        with pytest.raises(LeaseLost, match="ATTEMPT_ENDED"):
            run_state.take_receipt(v1.JobReceipt(attempt=1, stale_reason="ATTEMPT_ENDED"))

    def test_an_end_that_was_overtaken_is_not_applied(self) -> None:
        """That is no lost lease, and says so."""
        run_state = running()
        run_state.report(COMPLETED)
        with pytest.raises(JobNotApplied) as caught:
            run_state.take_receipt(v1.JobReceipt(attempt=1, stale_reason="OUT_OF_ORDER"))
        assert (type(caught.value), run_state.is_lost) == (JobNotApplied, False)

    def test_the_wish_to_cancel_is_kept(self) -> None:
        """Learnt from any answer, and not forgotten by the next."""
        run_state = running()
        assert not run_state.cancel_requested
        run_state.take_notice("", True)
        run_state.take_notice("OUT_OF_ORDER", False)
        assert run_state.cancel_requested
        opened = make_notes()
        opened.report(RUNNING)
        opened.take_receipt(v1.JobReceipt(attempt=1, applied=True, cancel_requested=True))
        assert opened.cancel_requested


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"total": float("nan")}, ValueError, "total: NaN is not a finite number of steps"),
        ({"total": "4"}, ValueError, "total: 4 is not a finite number of steps"),
        ({"lease": 0}, ValueError, "lease: 0 is not a number of seconds from 1"),
        ({"lease": 0.5}, ValueError, r"lease: 0\.5"),
        ({"lease": True}, ValueError, "lease: True"),
        ({"lease": "60"}, ValueError, "lease: 60"),
        ({"lease": 2**32}, ValueError, "lease: 4294967296"),
        ({"details": {"x": object()}}, TypeError, r"details\['x'\]"),
        ({"details": ["x"]}, TypeError, "details must be a mapping"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    """Where the job is made, and not by a refusal of its reports later."""
    with pytest.raises(error, match=message):
        make_notes(**fields)


def test_bad_news_is_named_and_changes_nothing() -> None:
    """What only a bug can cause raises where the bug is."""
    run_state = make_notes()
    with pytest.raises(ValueError, match="steps: NaN is not a finite number"):
        run_state.advance(float("nan"))
    for percent in (-1, 101, float("nan")):
        with pytest.raises(ValueError, match="not from 0 to 100"):
            run_state.progress(percent)
    with pytest.raises(TypeError, match=r"details\['x'\]"):
        run_state.details({"x": object()})
    assert not run_state.has_news


def apply(job: Job | None, record: v1.LogRecord, received_unix_nano: int) -> Job:
    """Merge a report as the service does, at a time by the service's clock."""
    (read,), _, bad = RecordReader(LimitSettings(), time.time_ns).read_all([record])
    assert not bad
    report = replace(read, received_unix_nano=received_unix_nano)
    merged = merge(job, report, received_unix_nano)
    assert merged.job.attempt <= MAX_ATTEMPT
    return merged.job


@given(
    st.permutations(range(6)),
    st.lists(st.integers(0, 5), max_size=4),
    st.integers(0, 3600),
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_late_copies_never_replace_what_is_newer(
    order: Sequence[int], copies: Sequence[int], slow_by_seconds: int, pauses: Sequence[int]
) -> None:
    """Reports of a sender whose clock is right or behind may arrive in any order and twice: the latest wins."""
    start = 1_800_000_000 * SECOND
    with pytest.MonkeyPatch.context() as patch:
        now = start
        patch.setattr(module, "time", with_own(time, time_ns=lambda: now - slow_by_seconds * SECOND))
        run_state = make_notes(lease=60)
        job = apply(None, run_state.report(RUNNING), now)
        run_state.take_receipt(v1.JobReceipt(attempt=1, applied=True))
        reports = []
        for number, pause in enumerate(pauses):
            now += pause * SECOND
            run_state.progress(50 - number)  # may fall: the time decides
            run_state.message(f"m{number}")
            reports.append(run_state.report(RUNNING))
    arrival = now + SECOND
    for place in [*order, *copies]:
        arrival += 1
        job = apply(job, reports[place], arrival)
    assert (job.message, job.progress) == ("m5", 45)
    job = apply(job, run_state.report(COMPLETED), arrival + 1)
    assert apply(job, reports[5], arrival + 2) is job
    assert (job.status, job.progress) == (JobState.COMPLETED, 100)


def test_a_slow_clock_costs_no_report() -> None:
    """All reports of a run are by one clock, the first too: none waits for it to catch up with the service's."""
    start = 1_800_000_000 * SECOND
    with pytest.MonkeyPatch.context() as patch:
        now = start
        patch.setattr(module, "time", with_own(time, time_ns=lambda: now - 3600 * SECOND))
        run_state = make_notes()
        job = apply(None, run_state.report(RUNNING), now)
        run_state.take_receipt(v1.JobReceipt(attempt=1, applied=True))
        for number in range(3):
            now += 1
            run_state.message(f"m{number}")
            job = apply(job, run_state.report(RUNNING), now)
            assert job.message == f"m{number}"


def test_a_fast_clock_makes_the_order_of_arrival_count() -> None:
    """Its reports count from their arrival, so those sent one after another are all applied."""
    start = 1_800_000_000 * SECOND
    with pytest.MonkeyPatch.context() as patch:
        now = start
        patch.setattr(module, "time", with_own(time, time_ns=lambda: now + 3600 * SECOND))
        run_state = make_notes()
        job = apply(None, run_state.report(RUNNING), now)
        run_state.take_receipt(v1.JobReceipt(attempt=1, applied=True))
        for number in range(3):
            now += 1
            run_state.message(f"m{number}")
            job = apply(job, run_state.report(RUNNING), now)
            assert job.message == f"m{number}"
