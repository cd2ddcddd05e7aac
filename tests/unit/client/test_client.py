"""`LogClient`: what it sends, what it asks, and what its calls say of trouble."""

import copy
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd import (
    ClientNotOpen,
    EmitError,
    JobNotFound,
    LogClient,
    RecordRejected,
    RequestRejected,
    Unavailable,
    log_context,
    v1,
)
from emitd.sending import engine as engine_module
from support.client.answers import FAILURES, KEPT, NOWHERE, PASSING, QUICK, routed
from support.client.fake_log_service import (
    Answer,
    FakeLogService,
    accept,
    fail,
    fake_log_service,
    record_error,
    refuse,
)
from support.processes.own_threads import own_threads


class Served:
    """A fake service whose answer a test can change, and a client of it."""

    def __init__(self, service: FakeLogService, client: LogClient) -> None:
        self.service, self.client = service, client

    def answer(self, answer: Answer) -> None:
        self.service._answers = [answer]

    @property
    def records(self) -> list[v1.LogRecord]:
        """What was sent so far, once all lines are through."""
        assert self.client.flush(10)
        batches = [each for each in self.service.requests if isinstance(each, v1.EmitBatchRequest)]
        return [record for batch in batches for record in batch.records]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with (
        fake_log_service(routed()) as service,
        LogClient(service.address, source="shop", spool=tmp_path / "spool", **QUICK) as client,
    ):
        yield Served(service, client)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LogClient]]:
    """Make clients of no server, which are closed at the end."""
    clients: list[LogClient] = []

    def make(address: str = NOWHERE, **settings: Any) -> LogClient:
        clients.append(
            LogClient(address, **(QUICK | {"source": "shop", "spool": tmp_path / "spool"} | settings))
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close(0)


def attributes(record: v1.LogRecord) -> dict[str, Any]:
    return dict(json.loads(record.attributes_json or "{}"))


def levels(records: list[v1.LogRecord]) -> list[int]:
    return [record.level for record in records]


class TestConstruction:
    def test_it_begins_nothing(self, make: Callable[..., LogClient]) -> None:
        """No thread, no connection and no file before the first record; nor does its end."""
        with own_threads() as threads:
            client = make(spool="/nowhere/that/could/be/made")
            assert (threads, client._engine.transport._channel) == ([], None)
            assert client.flush(0)
            client.close()
        assert threads == []

    def test_settings_come_from_arguments_and_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, make: Callable[..., LogClient]
    ) -> None:
        """And are there to be looked at."""
        monkeypatch.setenv("EMITD_ADDRESS", "logs:1")
        monkeypatch.setenv("EMITD_LINGER", "0.5")
        client = LogClient(source="shop", linger=0.25, spool="off")
        client.close()
        settings = client.settings
        assert (settings.address, settings.source, settings.linger) == ("logs:1", "shop", 0.25)

    def test_a_wrong_setting_is_named(self) -> None:
        """A wrong value, and a wrong name."""
        with pytest.raises(ValueError, match="linger"):
            LogClient(linger=-1)
        wrong: Any = {"tokn": "x"}
        with pytest.raises(TypeError, match="there is no setting 'tokn'"):
            LogClient(**wrong)

    def test_it_says_what_it_is(self, make: Callable[..., LogClient]) -> None:
        """Whose records it sends where, and whether it is open."""
        client = make("logs:1")
        assert (repr(client), client.state) == ("<LogClient of 'shop' to logs:1, open>", "open")
        client.close()
        assert (repr(client), client.state) == ("<LogClient of 'shop' to logs:1, closed>", "closed")


class TestLines:
    @pytest.mark.parametrize(
        ("verb", "level"), [("debug", 10), ("info", 20), ("warning", 30), ("error", 40), ("critical", 50)]
    )
    def test_each_verb_has_its_level(self, served: Served, verb: str, level: int) -> None:
        """The rest of a line is the same for all."""
        before = time.time_ns()
        getattr(served.client, verb)("order taken", order=17, by="u1")
        (record,) = served.records
        assert (record.level, record.message, record.source) == (level, "order taken", "shop")
        assert attributes(record) == {"order": 17, "by": "u1"}
        assert before <= record.time_unix_nano <= time.time_ns()
        assert record.record_id

    @pytest.mark.parametrize(
        ("threshold", "sent"), [("DEBUG", 5), ("info", 4), (30, 3), (31, 2), ("CRITICAL", 1), (51, 0)]
    )
    def test_lines_below_the_level_are_not_made(
        self, served: Served, threshold: str | int, sent: int, make: Callable[..., LogClient]
    ) -> None:
        """By their verbs as by `log`."""
        client = make(served.service.address, level=threshold)
        for verb in ("debug", "info", "warning", "error", "critical"):
            getattr(client, verb)("m")
            client.log(verb, "m")
        assert client.flush(10)
        assert len(served.records) == 2 * sent

    def test_a_disabled_level_costs_nothing(
        self, make: Callable[..., LogClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No attribute is looked at, no id drawn, no clock read, and no thread started."""
        client = make(level="ERROR").bind(user="u1")

        def unexpected(*_: object) -> Any:
            raise AssertionError("a line was made")

        for name in ("attributes_as_json", "next_record_id", "current_attributes", "current_span", "Line"):
            monkeypatch.setattr(engine_module, name, unexpected)
        for verb in (client.debug, client.info, client.warning):
            verb("m", attribute=unexpected)
        client.log("WARNING", "m", attribute=unexpected)
        assert not client._engine._has_begun
        client.error("m", attribute=1)
        assert client.stats()["dropped_internal_error"] == 1

    @pytest.mark.parametrize(
        ("asked", "level", "found"),
        [
            ("WARNING", 30, {}),
            (40, 40, {}),
            ("warning", 30, {"level": "warning"}),
            (25, 20, {"level": 25}),
            (5, 10, {"level": 5}),
            ("NOTICE", 20, {"level": "NOTICE"}),
        ],
    )
    def test_any_level_can_be_logged(
        self, served: Served, asked: str | int, level: int, found: dict[str, Any]
    ) -> None:
        """As one of the five; what was asked for is kept where it is none of these."""
        served.client.log(asked, "m", a=1)
        (record,) = served.records
        assert (record.level, attributes(record)) == (level, {**found, "a": 1})

    def test_an_exception_comes_with_its_stack(self, served: Served) -> None:
        """The one that is handled; outside of a handler it is a line like any other."""
        try:
            raise LookupError("no such order")
        except LookupError:
            served.client.exception("order lost", order=17)
        served.client.exception("no trouble")
        first, second = served.records
        assert levels([first, second]) == [40, 40]
        assert attributes(first)["exception.message"] == "no such order"
        assert attributes(first)["order"] == 17
        assert attributes(second) == {}

    def test_an_attribute_can_have_any_name(self, served: Served) -> None:
        """Also those of the call's own parameters."""
        served.client.info("m", message="a", self="b", level="c")
        served.client.log("INFO", "m", message="a", level="c")
        assert [attributes(record) for record in served.records] == [
            {"message": "a", "self": "b", "level": "c"},
            {"message": "a", "level": "c"},
        ]

    def test_what_is_no_text_and_no_json_is_written_all_the_same(self, served: Served) -> None:
        """A line never raises."""

        class Odd:
            def __repr__(self) -> str:
                raise RuntimeError("no")

        message: Any = Odd()
        served.client.info(message)
        served.client.info("a\ud800", odd=Odd(), number=float("nan"))
        first, second = served.records
        assert first.message == "<Odd whose repr raised RuntimeError>"
        assert second.message == "a\\ud800"
        assert attributes(second) == {"odd": "<Odd whose repr raised RuntimeError>", "number": "NaN"}

    def test_attributes_of_bind_and_context_are_on_every_line(self, served: Served) -> None:
        """A call's own win over those of `bind`, and these over those of `log_context`."""
        bound = served.client.bind(b="bound", c="bound")
        with log_context(a="context", b="context"):
            bound.info("m", c="own")
        bound.bind(d=1).warning("m")
        served.client.info("m")
        assert [attributes(record) for record in served.records] == [
            {"a": "context", "b": "bound", "c": "own"},
            {"b": "bound", "c": "bound", "d": 1},
            {},
        ]

    def test_stats_count_what_was_sent(self, served: Served) -> None:
        """And what waits."""
        for _ in range(3):
            served.client.info("m")
        assert served.records
        stats = served.client.stats()
        assert (stats["sent"], stats["queued"], stats["queued_bytes"], stats["awaited"]) == (3, 0, 0, 0)

    def test_a_flush_without_a_server_takes_no_longer_than_it_may(
        self, make: Callable[..., LogClient]
    ) -> None:
        """And says that it did not succeed."""
        client = make()
        client.info("m")
        begun = time.monotonic()
        assert client.flush(0.05) is False
        assert 0.05 <= time.monotonic() - begun < 5


class TestCopies:
    def test_a_bound_client_is_the_same_client(self, served: Served) -> None:
        """It shares the queue, the counts and the end."""
        bound = served.client.bind(a=1)
        bound.info("m")
        assert served.client.flush(10)
        assert bound.stats() == served.client.stats()
        assert type(bound) is LogClient
        bound.close()
        assert served.client.state == "closed"

    def test_a_copy_is_a_bound_client(self, served: Served) -> None:
        """With the same attributes, not with another queue."""
        copied = copy.copy(served.client.bind(a=1))
        copied.info("m")
        assert attributes(served.records[0]) == {"a": 1}
        assert copied is not served.client
        assert copied._engine is served.client._engine

    @pytest.mark.parametrize("how", [pickle.dumps, copy.deepcopy])
    def test_it_cannot_be_pickled(
        self, how: Callable[[object], object], make: Callable[..., LogClient]
    ) -> None:
        """Nor copied with all that it has: the error says what to do instead."""

        class ShopClient(LogClient):
            """Somebody's own."""

        for client in (make(), ShopClient(NOWHERE, spool="off")):
            with pytest.raises(TypeError, match="Make one in each process") as caught:
                how([client])
            assert str(caught.value).startswith(f"a {type(client).__name__} cannot be pickled")
            client.close()


class TestEnd:
    def test_lines_after_the_end_are_counted(
        self, make: Callable[..., LogClient], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """They never raise; the first is told."""
        client = make()
        client.close()
        client.info("m")
        client.bind(a=1).error("m")
        assert client.stats()["dropped_closed"] == 2
        assert capsys.readouterr().err == "emitd: shop: dropped 1 record: closed\n"

    @pytest.mark.parametrize(
        "call",
        [
            lambda client: client.audit("x", user_id="u"),
            lambda client: client.get_job("j"),
            lambda client: next(client.list_jobs()),
            lambda client: next(client.watch_job("j")),
            lambda client: client.job("j", "sync").__enter__(),
            lambda client: client.job("j", "sync").queued(),
            lambda client: next(client.track([1], job_type="sync")),
            lambda client: client.__enter__(),
        ],
        ids=["audit", "get_job", "list_jobs", "watch_job", "job", "queued", "track", "with"],
    )
    def test_calls_that_wait_are_refused_after_the_end(
        self, make: Callable[..., LogClient], call: Callable[[LogClient], object]
    ) -> None:
        """At once, as misuse, which no other try can help."""
        client = make(timeout=60)
        client.close()
        with pytest.raises(ClientNotOpen, match="the client is closed") as caught:
            call(client)
        assert not caught.value.retryable

    def test_it_ends_once(self, make: Callable[..., LogClient]) -> None:
        """Any number of times, and by a block too, which raises what it raises."""
        client = make()
        with pytest.raises(LookupError), client as entered:
            assert entered is client
            raise LookupError
        assert client.state == "closed"
        client.close()
        client.close(0)

    def test_its_end_sends_what_there_is(self, served: Served) -> None:
        """All of it, without waiting for a batch; batches may overtake each other."""
        for number in range(1000):
            served.client.info("m", number=number)
        served.client.close()
        batches = [request.records for request in served.service.requests]
        numbers = [attributes(record)["number"] for batch in batches for record in batch]
        assert sorted(numbers) == list(range(1000))
        assert served.client.stats()["sent"] == 1000

    def test_its_end_takes_no_longer_than_it_may(
        self, make: Callable[..., LogClient], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What is left is counted, and told."""
        client = make(close_timeout=60)
        client.info("m")
        begun = time.monotonic()
        client.close(0.1)
        assert time.monotonic() - begun < 5
        assert client.stats()["dropped_at_close"] == 1
        assert "dropped 1 record: at_close" in capsys.readouterr().err


class TestAudit:
    def test_the_record_has_all_that_was_given(self, served: Served) -> None:
        """And is committed when the call returns."""
        with log_context(request="r1"):
            receipt = served.client.bind(shop=3).audit(
                "order.create",
                user_id="u1",
                source_ip="192.0.2.7",
                details={"order": 17},
                message="taken",
                time_unix_nano=5,
            )
        (record,) = served.records
        assert record.audit == v1.AuditEvent(
            event_name="order.create", user_id="u1", source_ip="192.0.2.7", details_json='{"order":17}'
        )
        assert (record.message, record.source, record.time_unix_nano) == ("taken", "shop", 5)
        assert attributes(record) == {"request": "r1", "shop": 3}
        assert (receipt.state, receipt.record_id) == ("COMMITTED", record.record_id)
        assert [handler.handler for handler in receipt.handlers] == ["fake"]

    def test_two_calls_under_one_id_make_one_record(self, served: Served) -> None:
        """Whenever, and in whatever context they are made; the time is that of the receipt."""
        served.client.audit("x", user_id="u", record_id="r1")
        with log_context(request="r2"):
            served.client.audit("x", user_id="u", record_id="r1")
        first, second = served.records
        assert first == second
        assert (first.record_id, first.time_unix_nano, first.audit.source_ip) == ("r1", 0, "unknown")

    def test_what_is_no_json_is_refused_by_its_key(self, served: Served) -> None:
        """Nothing is sent."""
        with pytest.raises(TypeError, match=r"details\['when'\]"):
            served.client.audit("x", user_id="u", details={"when": object()})
        assert served.records == []

    def test_a_refusal_names_the_field(self, served: Served) -> None:
        """That of the record, though it was one of a batch."""
        served.answer(refuse(record_error(0, "records[0].audit.user_id: is empty")))
        with pytest.raises(RecordRejected, match=r"^audit.user_id: is empty$") as caught:
            served.client.audit("x", user_id="")
        assert not caught.value.retryable

    def test_it_is_tried_until_it_is_committed(self, served: Served) -> None:
        """The same record each time, so that no try does harm."""
        served.service._answers = [
            fail(grpc.StatusCode.UNAVAILABLE, "down"),
            refuse(record_error(0, "busy", retry_seconds=0.01)),
            accept,
        ]
        assert served.client.audit("x", user_id="u").state == "COMMITTED"
        tries = served.records
        assert len(tries) == 3
        assert tries[0] == tries[1] == tries[2]

    def test_without_a_commit_in_time_it_is_spooled(self, make: Callable[..., LogClient]) -> None:
        """On this machine's disk, under its id."""
        client = make()
        begun = time.monotonic()
        receipt = client.audit("x", user_id="u", record_id="r1", timeout=0.1)
        assert 0.1 <= time.monotonic() - begun < 5
        assert (receipt.state, receipt.record_id) == ("SPOOLED", "r1")
        stats = client.stats()
        assert (stats["spooled"], stats["spool_records"], stats["awaited"]) == (1, 1, 0)

    @pytest.mark.parametrize("spool", [None, "off"])
    def test_where_it_cannot_be_spooled_it_is_unavailable(
        self, make: Callable[..., LogClient], spool: str | None
    ) -> None:
        """Because the caller wants a commit, or there is no spool; the error says what was the trouble."""
        client = make(**({} if spool is None else {"spool": spool}), timeout=0.1)
        with pytest.raises(
            Unavailable, match=r"not committed within 0.1 s; it may still be: UNAVAILABLE"
        ) as caught:
            client.audit("x", user_id="u", require_commit=spool is None)
        assert caught.value.retryable
        assert client.stats()["spool_records"] == 0

    @pytest.mark.parametrize("timeout", [1e12, float("inf")])
    def test_it_may_take_as_long_as_it_likes(self, served: Served, timeout: float) -> None:
        """Longer than threads can be told to wait."""
        assert served.client.audit("x", user_id="u", timeout=timeout).state == "COMMITTED"

    def test_many_callers_share_a_call(self, served: Served) -> None:
        """What comes while a call is under way goes together with the next, and each gets its own receipt."""
        entered, leave = threading.Event(), threading.Event()

        def slow(request: v1.EmitBatchRequest, context: grpc.ServicerContext) -> v1.EmitBatchResponse:
            entered.set()
            leave.wait(10)
            return accept(request, context)

        served.answer(slow)
        found: dict[str, str] = {}

        def audit(record_id: str) -> None:
            found[record_id] = served.client.audit("x", user_id="u", record_id=record_id).record_id

        threads = [threading.Thread(target=audit, args=(f"r{number}",)) for number in range(20)]
        for thread in threads:
            thread.start()
        assert entered.wait(10)
        deadline = time.monotonic() + 10
        while served.client.stats()["awaited"] < 20:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        leave.set()
        for thread in threads:
            thread.join(10)
        assert found == {f"r{number}": f"r{number}" for number in range(20)}
        assert len(served.service.requests) <= 4

    def test_where_no_thread_can_be_started_the_caller_sends(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At the end of the program, or where the system has no more of them."""
        served.service._answers = [fail(grpc.StatusCode.UNAVAILABLE, "down"), accept]

        start = threading.Thread.start

        def refused(thread: threading.Thread) -> None:
            if thread.name.startswith("emitd"):  # the service's own may start
                raise RuntimeError("can't start new thread")
            start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            assert served.client.audit("x", user_id="u").state == "COMMITTED"
        assert len(served.service.requests) == 2


class TestEveryStatus:
    """Whatever the service answers, a call raises one of the client's own errors, or has a result."""

    @pytest.fixture(scope="class")
    @classmethod
    def failing(cls) -> Iterator[Callable[[grpc.StatusCode], LogClient]]:
        settings: Any = {**QUICK, "spool": "off"}
        with (
            fake_log_service(accept) as service,
            LogClient(service.address, timeout=0.1, **settings) as hasty,
            LogClient(service.address, timeout=10.0, **settings) as patient,
        ):

            def answering(code: grpc.StatusCode) -> LogClient:
                service._answers = [fail(code, "trouble")]
                return hasty if code in PASSING | KEPT else patient

            yield answering

    @pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
    def test_of_an_audit_event(
        self, failing: Callable[[grpc.StatusCode], LogClient], code: grpc.StatusCode
    ) -> None:
        """Refused for good, or not to be had now."""
        with pytest.raises(EmitError) as caught:
            failing(code).audit("x", user_id="u")
        assert type(caught.value) is (Unavailable if code in PASSING | KEPT else RecordRejected)
        assert "trouble" in str(caught.value) or code in PASSING

    @pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
    @pytest.mark.parametrize(
        "ask",
        [
            lambda client: client.get_job("j"),
            lambda client: list(client.list_jobs()),
            lambda client: list(client.watch_job("j")),
        ],
        ids=["get_job", "list_jobs", "watch_job"],
    )
    def test_of_a_question(
        self,
        failing: Callable[[grpc.StatusCode], LogClient],
        ask: Callable[[LogClient], object],
        code: grpc.StatusCode,
        request: pytest.FixtureRequest,
    ) -> None:
        """Not to be had now, not there, or refused."""
        expected: type[EmitError] = Unavailable if code in PASSING else RequestRejected
        if code is grpc.StatusCode.NOT_FOUND:
            if "get_job" in request.node.name:
                assert ask(failing(code)) is None
                return
            expected = JobNotFound
        with pytest.raises(EmitError) as caught:
            ask(failing(code))
        assert type(caught.value) is expected
        assert "trouble" in str(caught.value) or code in PASSING
        assert isinstance(caught.value.__cause__, grpc.RpcError)


class TestQuestions:
    def test_a_job_is_asked_for_by_its_id(self, served: Served) -> None:
        """And comes as it stands."""
        job = v1.Job(job_id="j1", progress=50)
        served.answer(lambda *_: v1.GetJobResponse(job=job))
        assert served.client.get_job("j1") == job
        assert served.service.requests == [v1.GetJobRequest(job_id="j1")]

    def test_a_question_is_asked_again_where_that_can_help(self, served: Served) -> None:
        """A server that is just being restarted is no trouble."""
        served.service._answers = [
            fail(grpc.StatusCode.UNAVAILABLE, "restarting"),
            fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", retry_seconds=0.01),
            lambda *_: v1.GetJobResponse(job=v1.Job(job_id="j1")),
        ]
        job = served.client.get_job("j1")
        assert job is not None
        assert len(served.service.requests) == 3

    def test_a_server_that_is_not_there_is_given_up(self, make: Callable[..., LogClient]) -> None:
        """After `timeout`, by questions and watches alike."""
        client = make(timeout=0.2)
        asks: list[Callable[[], object]] = [lambda: client.get_job("j"), lambda: next(client.watch_job("j"))]
        for ask in asks:
            begun = time.monotonic()
            with pytest.raises(Unavailable, match="UNAVAILABLE"):
                ask()
            assert 0.2 <= time.monotonic() - begun < 5

    def test_jobs_are_read_a_page_at_a_time(self, served: Served) -> None:
        """The next one only when it is wanted."""
        pages = {"": (["a", "b"], "t1"), "t1": ([], "t2"), "t2": (["c"], "")}

        def answer(request: v1.ListJobsRequest, _: grpc.ServicerContext) -> v1.ListJobsResponse:
            ids, token = pages[request.page_token]
            return v1.ListJobsResponse(jobs=[v1.Job(job_id=each) for each in ids], next_page_token=token)

        served.answer(answer)
        found = served.client.list_jobs(job_type="sync", statuses=["RUNNING"], page_size=2)
        assert next(found).job_id == "a"
        assert len(served.service.requests) == 1
        assert [job.job_id for job in found] == ["b", "c"]
        assert [request.page_token for request in served.service.requests] == ["", "t1", "t2"]
        assert {request.page_size for request in served.service.requests} == {2}

    def test_a_question_that_makes_no_sense_is_not_sent(self, served: Served) -> None:
        """By its field."""
        for found in (
            served.client.list_jobs(statuses=["LOST"]),
            served.client.list_jobs(page_size=-1),
            served.client.watch_job("j", after_revision=-1),
        ):
            with pytest.raises(RequestRejected):
                next(found)  # type: ignore[call-overload]
        assert served.service.requests == []


def at(revision: int) -> v1.WatchJobResponse:
    return v1.WatchJobResponse(job=v1.Job(job_id="j", revision=revision))


class TestWatches:
    def test_it_goes_on_over_a_broken_connection(self, served: Served) -> None:
        """After the last revision, and what was told is not told again."""

        def breaks(_: Any, context: grpc.ServicerContext) -> Iterator[v1.WatchJobResponse]:
            yield at(1)
            yield at(2)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")

        watches = iter([breaks, fail(grpc.StatusCode.UNAVAILABLE, "down"), lambda *_: [at(2), at(3)]])
        served.answer(
            routed(
                GetJobRequest=lambda *_: v1.GetJobResponse(),
                WatchJobRequest=lambda request, context: next(watches)(request, context),
            )
        )
        found = [each.job.revision for each in served.client.watch_job("j", after_revision=0, follow=True)]
        assert found == [1, 2, 3]
        requests = [each for each in served.service.requests if isinstance(each, v1.WatchJobRequest)]
        assert [(each.after_revision, each.follow) for each in requests] == [(0, True), (2, True), (2, True)]

    def test_the_end_of_the_client_ends_it(self, served: Served) -> None:
        """Who waits for the next message gets ClientNotOpen."""
        entered, leave = threading.Event(), threading.Event()

        def waits(*_: Any) -> Iterator[v1.WatchJobResponse]:
            yield at(1)
            entered.set()
            leave.wait(10)

        served.answer(routed(GetJobRequest=lambda *_: v1.GetJobResponse(), WatchJobRequest=waits))
        watch = served.client.watch_job("j")
        next(watch)
        assert entered.wait(10)
        closing = threading.Timer(0.05, served.client.close)
        closing.start()
        with pytest.raises(ClientNotOpen):
            next(watch)
        closing.join()
        leave.set()

    def test_leaving_it_ends_it_at_the_server(self, served: Served) -> None:
        """No thread is kept for a watch that nobody reads."""
        ended = threading.Event()

        def waits(_: Any, context: grpc.ServicerContext) -> Iterator[v1.WatchJobResponse]:
            context.add_callback(ended.set)
            yield at(1)
            ended.wait(10)

        served.answer(routed(GetJobRequest=lambda *_: v1.GetJobResponse(), WatchJobRequest=waits))
        for _ in served.client.watch_job("j"):
            break
        assert ended.wait(10)


class TestJobs:
    def test_a_job_is_reported_from_its_beginning_to_its_end(self, served: Served) -> None:
        """With what is bound and the context of its maker; the end waits for no interval."""

        def answer(request: v1.EmitBatchRequest, context: grpc.ServicerContext) -> v1.EmitBatchResponse:
            response = accept(request, context)
            for receipt in response.receipts:
                receipt.job.attempt = 2
            return response

        served.answer(answer)
        with log_context(request="r1"):
            reporter = served.client.bind(shop=3).job("j1", "sync", total=4, labels={"user": "u1"})
        with reporter as job:
            assert job.attempt == 2
            job.advance(3)
        records = served.records
        assert [record.job.status for record in records] == [v1.JOB_STATE_RUNNING, v1.JOB_STATE_COMPLETED]
        assert [record.job.new_attempt for record in records] == [True, False]
        assert {record.source for record in records} == {"shop"}
        assert attributes(records[0]) == {"request": "r1", "shop": 3}

    def test_a_job_that_cannot_begin_raises_why(self, served: Served) -> None:
        """It is not spooled: whoever works needs to know whether it may."""
        served.answer(refuse(record_error(0, "records[0].job.job_id: is empty")))
        with pytest.raises(RecordRejected, match=r"^job.job_id: is empty$"), served.client.job("", "sync"):
            raise AssertionError
        assert served.client.stats()["failed"] == 1

    def test_a_tracked_loop_is_a_job(self, served: Served) -> None:
        """Of its items, which come out as they are."""
        assert list(served.client.track([1, 2, 3], job_type="sync", job_id="j1")) == [1, 2, 3]
        assert served.records[-1].job.status == v1.JOB_STATE_COMPLETED


def test_a_question_s_last_try_does_not_hide_what_the_others_learned(
    make: Callable[..., LogClient],
) -> None:
    """There is no time left for it, so that it can end in nothing but a deadline."""

    def late(request: Any, context: grpc.ServicerContext) -> Any:
        if (context.time_remaining() or 0.0) < 0.05:
            time.sleep(0.2)
        return fail(grpc.StatusCode.UNAVAILABLE, "restarting")(request, context)

    with fake_log_service(late) as service:
        client = make(service.address, timeout=0.3)
        with pytest.raises(Unavailable, match=r"^UNAVAILABLE: restarting$"):
            client.get_job("j")
