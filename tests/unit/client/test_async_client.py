"""`AsyncLogClient`: what is its own; the lines, settings and records are those of `LogClient`."""

import asyncio
import copy
import inspect
import json
import pickle
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd import (
    AsyncLogClient,
    AsyncLogger,
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
from support.client.names import Names


class Served:
    """A fake service whose answer a test can change, and a client of it."""

    def __init__(self, service: FakeLogService, client: AsyncLogClient) -> None:
        self.service, self.client = service, client

    def answer(self, *answers: Answer) -> None:
        self.service._answers = list(answers)

    async def records(self) -> list[v1.LogRecord]:
        """What was sent so far, once all lines are through."""
        assert await self.client.flush(10)
        batches = [each for each in self.service.requests if isinstance(each, v1.EmitBatchRequest)]
        return [record for batch in batches for record in batch.records]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    with fake_log_service(routed()) as service:
        settings: Any = {"source": "shop", "spool": tmp_path / "spool", **QUICK}
        async with AsyncLogClient(service.address, **settings) as client:
            yield Served(service, client)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., AsyncLogClient]]:
    """Make clients of no server, which are closed at the end."""
    clients: list[AsyncLogClient] = []

    def make(address: str = NOWHERE, **settings: Any) -> AsyncLogClient:
        given = QUICK | {"source": "shop", "spool": tmp_path / "spool"} | settings
        clients.append(AsyncLogClient(address, **given))
        return clients[-1]

    yield make
    for client in clients:
        await client.close(0)


@pytest.fixture
def held() -> Iterator["Held"]:
    held = Held()
    yield held
    held.leave.set()


class Held:
    """Answers of a server that take until the test lets them go."""

    def __init__(self) -> None:
        self.begun, self.ended, self.leave = threading.Event(), threading.Event(), threading.Event()

    def batch(self, request: v1.EmitBatchRequest, context: grpc.ServicerContext) -> v1.EmitBatchResponse:
        self.begun.set()
        self.leave.wait(10)
        return accept(request, context)

    def watch(self, _: Any, context: grpc.ServicerContext) -> Iterator[v1.WatchJobResponse]:
        context.add_callback(self.ended.set)
        yield at(1)
        self.begun.set()
        self.leave.wait(10)


def at(revision: int) -> v1.WatchJobResponse:
    return v1.WatchJobResponse(job=v1.Job(job_id="j", revision=revision))


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


async def all_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


class TestShape:
    def test_it_has_the_verbs_of_the_interface_and_of_the_other_client(self) -> None:
        """With the same parameters, names and defaults, so that one can take the place of the other."""
        for name, verb in vars(AsyncLogger).items():
            if name.startswith("_") or not inspect.isfunction(verb):
                continue
            theirs = inspect.signature(verb).parameters
            for client in (AsyncLogClient, LogClient):
                ours = inspect.signature(getattr(client, name)).parameters
                for parameter in theirs.values():
                    found = ours[parameter.name]
                    assert (found.kind, found.default) == (parameter.kind, parameter.default), name
        for name in ("audit", "job", "track", "list_jobs", "watch_job", "flush", "close"):
            ours = inspect.signature(getattr(AsyncLogClient, name)).parameters
            assert list(ours) == list(inspect.signature(getattr(LogClient, name)).parameters)

    async def test_it_cannot_be_pickled_and_its_copy_is_bound(
        self, make: Callable[..., AsyncLogClient]
    ) -> None:
        """As the other client."""
        client = make()
        for how in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="a AsyncLogClient cannot be pickled"):
                how(client)
        copied = copy.copy(client.bind(a=1))
        assert copied._engine is client._engine

    async def test_it_says_what_it_is(self, make: Callable[..., AsyncLogClient]) -> None:
        """And whether it is open."""
        client = make("logs:1")
        assert repr(client) == "<AsyncLogClient of 'shop' to logs:1, open>"
        await client.close()
        assert (client.state, repr(client)) == ("closed", "<AsyncLogClient of 'shop' to logs:1, closed>")


class TestAudit:
    async def test_it_is_committed_when_the_call_returns(self, served: Served) -> None:
        """With all that was given."""
        with log_context(request="r1"):
            receipt = await served.client.bind(shop=3).audit(
                "order.create", user_id="u1", source_ip="192.0.2.7", details={"order": 17}
            )
        (record,) = await served.records()
        assert (receipt.state, receipt.record_id) == ("COMMITTED", record.record_id)
        assert record.audit == v1.AuditEvent(
            event_name="order.create", user_id="u1", source_ip="192.0.2.7", details_json='{"order":17}'
        )
        assert json.loads(record.attributes_json) == {"request": "r1", "shop": 3}

    async def test_the_loop_turns_while_it_waits(self, served: Served, held: Held) -> None:
        """Many wait at the same time, and share a call."""
        served.answer(held.batch)
        tasks = [asyncio.create_task(served.client.audit("x", user_id="u")) for _ in range(50)]
        await until(lambda: served.client.stats()["awaited"] == 50)
        held.leave.set()
        receipts = await asyncio.gather(*tasks)
        assert len({receipt.record_id for receipt in receipts}) == 50
        assert len(served.service.requests) <= 4

    async def test_a_refusal_is_raised(self, served: Served) -> None:
        """By its field."""
        served.answer(refuse(record_error(0, "records[0].audit.user_id: is empty")))
        with pytest.raises(RecordRejected, match=r"^audit.user_id: is empty$"):
            await served.client.audit("x", user_id="")
        with pytest.raises(TypeError, match=r"details\['when'\]"):
            await served.client.audit("x", user_id="u", details={"when": object()})

    async def test_without_a_commit_in_time_it_is_spooled(self, make: Callable[..., AsyncLogClient]) -> None:
        """Or unavailable, where a commit is wanted or there is no spool."""
        client = make()
        receipt = await client.audit("x", user_id="u", record_id="r1", timeout=0.1)
        assert (receipt.state, receipt.record_id) == ("SPOOLED", "r1")
        with pytest.raises(Unavailable, match=r"not committed within 0.1 s; it may still be: UNAVAILABLE"):
            await client.audit("x", user_id="u", timeout=0.1, require_commit=True)
        with pytest.raises(Unavailable, match="there is no spool"):
            await make(spool="off").audit("x", user_id="u", timeout=0.1)
        assert client.stats()["awaited"] == 0

    @pytest.mark.parametrize("timeout", [1e12, float("inf")])
    async def test_it_may_take_as_long_as_it_likes(self, served: Served, timeout: float) -> None:
        """Longer than anybody can be told to wait."""
        assert (await served.client.audit("x", user_id="u", timeout=timeout)).state == "COMMITTED"

    async def test_a_cancelled_caller_only_stops_waiting(self, served: Served, held: Held) -> None:
        """What happened is in the trail all the same, once."""
        served.answer(held.batch)
        task = asyncio.create_task(served.client.audit("x", user_id="u", record_id="r1"))
        await until(held.begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.leave.set()
        await until(lambda: served.client.stats()["sent"] == 1)
        assert [record.record_id for record in await served.records()] == ["r1"]

    @pytest.mark.parametrize(("spool", "fate"), [({}, "spooled"), ({"spool": "off"}, "dropped_abandoned")])
    async def test_a_cancelled_callers_event_is_spooled_or_counted(
        self, make: Callable[..., AsyncLogClient], spool: dict[str, str], fate: str
    ) -> None:
        """Without a service, in time; and closing the client waits for it."""
        client = make(timeout=0.2, close_timeout=0.5, **spool)
        task = asyncio.create_task(client.audit("x", user_id="u"))
        await until(lambda: client.stats()["awaited"] == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()
        assert client.stats()[fate] == 1

    async def test_where_no_thread_can_be_started_the_caller_sends(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At the end of the program the loop has nothing else to turn for."""
        start = threading.Thread.start

        def refused(thread: threading.Thread) -> None:
            if thread.name.startswith("emitd"):  # the service's own may start
                raise RuntimeError("can't start new thread")
            start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            assert (await served.client.audit("x", user_id="u")).state == "COMMITTED"


class TestEveryStatus:
    """Whatever the service answers, a call raises one of the client's own errors, or has a result."""

    async def failing(self, code: grpc.StatusCode, call: Callable[[AsyncLogClient], Awaitable[Any]]) -> Any:
        settings: Any = {**QUICK, "timeout": 0.1 if code in PASSING | KEPT else 10.0, "spool": "off"}
        with fake_log_service(fail(code, "trouble")) as service:
            async with AsyncLogClient(service.address, **settings) as client:
                return await call(client)

    @pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
    async def test_of_any_call(self, code: grpc.StatusCode) -> None:
        """Refused for good, not there, or not to be had now."""
        question: type[EmitError] = Unavailable if code in PASSING else RequestRejected
        calls: dict[str, tuple[Callable[[AsyncLogClient], Awaitable[Any]], type[EmitError]]] = {
            "audit": (lambda client: client.audit("x", user_id="u"), RecordRejected),
            "get_job": (lambda client: client.get_job("j"), question),
            "list_jobs": (lambda client: all_of(client.list_jobs()), question),
            "watch_job": (lambda client: all_of(client.watch_job("j")), question),
        }
        for name, (call, refusal) in calls.items():
            expected = Unavailable if code in PASSING or (code in KEPT and name == "audit") else refusal
            if code is grpc.StatusCode.NOT_FOUND and name != "audit":
                expected = JobNotFound
            if (code, name) == (grpc.StatusCode.NOT_FOUND, "get_job"):
                assert await self.failing(code, call) is None
                continue
            with pytest.raises(EmitError) as caught:
                await self.failing(code, call)
            assert type(caught.value) is expected, name
            assert "trouble" in str(caught.value) or code in PASSING


class TestQuestions:
    async def test_a_job_is_asked_for_by_its_id(self, served: Served) -> None:
        """Again where that can help, and with the pauses that the service asks for."""
        job = v1.Job(job_id="j1", progress=50)
        served.answer(
            fail(grpc.StatusCode.UNAVAILABLE, "restarting"),
            fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", retry_seconds=0.01),
            lambda *_: v1.GetJobResponse(job=job),
        )
        assert await served.client.get_job("j1") == job
        assert served.service.requests == [v1.GetJobRequest(job_id="j1")] * 3

    async def test_a_server_that_is_not_there_is_given_up(
        self, make: Callable[..., AsyncLogClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After `timeout`, by questions and watches alike; names that are not known, too."""
        Names().use_for_getaddrinfo(monkeypatch)
        for client in (make(timeout=0.2), make("logs:1,others:1", timeout=0.2)):
            for ask in (client.get_job("j"), anext(client.watch_job("j"))):
                begun = time.monotonic()
                with pytest.raises(Unavailable, match="UNAVAILABLE"):
                    await ask
                assert 0.2 <= time.monotonic() - begun < 5

    async def test_jobs_are_read_a_page_at_a_time(self, served: Served) -> None:
        """The next one only when it is wanted."""
        pages = {"": (["a", "b"], "t1"), "t1": (["c"], "")}

        def answer(request: v1.ListJobsRequest, _: grpc.ServicerContext) -> v1.ListJobsResponse:
            ids, token = pages[request.page_token]
            return v1.ListJobsResponse(jobs=[v1.Job(job_id=each) for each in ids], next_page_token=token)

        served.answer(answer)
        found = served.client.list_jobs(statuses=["RUNNING"])
        assert (await anext(found)).job_id == "a"
        assert len(served.service.requests) == 1
        assert [job.job_id for job in await all_of(found)] == ["b", "c"]

    async def test_a_question_that_makes_no_sense_is_not_sent(self, served: Served) -> None:
        """By its field."""
        with pytest.raises(RequestRejected, match="statuses"):
            await all_of(served.client.list_jobs(statuses=["LOST"]))
        with pytest.raises(RequestRejected, match="after_revision"):
            await all_of(served.client.watch_job("j", after_revision=-1))
        assert served.service.requests == []

    async def test_it_can_be_asked_in_any_event_loop(self, served: Served) -> None:
        """Its connection is in no caller's loop."""
        served.answer(lambda *_: v1.GetJobResponse(job=v1.Job(job_id="j")))
        here = await served.client.get_job("j")

        def ask() -> v1.Job | None:
            return asyncio.run(served.client.get_job("j"))

        assert here == await asyncio.to_thread(ask) == v1.Job(job_id="j")


class TestWatches:
    async def test_it_goes_on_over_a_broken_connection(self, served: Served) -> None:
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
        found = await all_of(served.client.watch_job("j", after_revision=0))
        assert [each.job.revision for each in found] == [1, 2, 3]
        requests = [each for each in served.service.requests if isinstance(each, v1.WatchJobRequest)]
        assert [each.after_revision for each in requests] == [0, 2, 2]

    async def test_leaving_it_ends_it_at_the_server(self, served: Served, held: Held) -> None:
        """No stream is kept for a watch that nobody reads."""
        served.answer(routed(GetJobRequest=lambda *_: v1.GetJobResponse(), WatchJobRequest=held.watch))
        async with aclosing(served.client.watch_job("j")) as watch:
            assert (await anext(watch)).job.revision == 1
        assert await asyncio.to_thread(held.ended.wait, 10)

    async def test_the_end_of_the_client_ends_it(self, served: Served, held: Held) -> None:
        """Who waits for the next message gets ClientNotOpen, not a cancelled task."""
        served.answer(routed(GetJobRequest=lambda *_: v1.GetJobResponse(), WatchJobRequest=held.watch))
        watch = served.client.watch_job("j")
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await until(held.begun.is_set)
        await served.client.close()
        with pytest.raises(ClientNotOpen):
            await waiting

    async def test_a_cancelled_reader_is_cancelled(self, served: Served, held: Held) -> None:
        """By its own task; that is no end of the client's."""
        served.answer(routed(GetJobRequest=lambda *_: v1.GetJobResponse(), WatchJobRequest=held.watch))
        task = asyncio.create_task(all_of(served.client.watch_job("j")))
        await asyncio.to_thread(held.begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(held.ended.wait, 10)


class TestEnd:
    async def test_lines_are_sent_by_the_end(self, served: Served) -> None:
        """Those of any thread."""
        for number in range(100):
            served.client.info("m", number=number)
        await asyncio.to_thread(served.client.info, "m", number=100)
        await served.client.close()
        batches = [request.records for request in served.service.requests]
        found = [json.loads(record.attributes_json)["number"] for batch in batches for record in batch]
        assert sorted(found) == list(range(101))

    async def test_what_comes_later_is_counted_or_refused(self, make: Callable[..., AsyncLogClient]) -> None:
        """Plain calls never raise, those that wait do."""
        client = make(timeout=60)
        await client.close()
        await client.close()
        client.info("m")
        assert client.stats()["dropped_closed"] == 1
        calls: list[Awaitable[Any]] = [
            client.audit("x", user_id="u"),
            client.get_job("j"),
            all_of(client.list_jobs()),
            all_of(client.watch_job("j")),
            client.job("j", "sync").__aenter__(),
            client.__aenter__(),
        ]
        for call in calls:
            with pytest.raises(ClientNotOpen, match="the client is closed"):
                await call

    async def test_a_block_ends_it(self, make: Callable[..., AsyncLogClient]) -> None:
        """And raises what it raises."""
        client = make()
        with pytest.raises(LookupError):
            async with client as entered:
                assert entered is client
                raise LookupError
        assert client.state == "closed"

    async def test_a_flush_does_not_stop_the_loop(self, served: Served, held: Held) -> None:
        """It waits in a thread."""
        served.answer(held.batch)
        served.client.info("m")
        flush = asyncio.create_task(served.client.flush())
        await asyncio.to_thread(held.begun.wait, 10)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not flush.done()
        held.leave.set()
        assert await flush

    async def test_a_flush_without_a_server_ends_in_time(self, make: Callable[..., AsyncLogClient]) -> None:
        """And says that it did not succeed."""
        client = make()
        client.info("m")
        assert await client.flush(0.05) is False


class TestJobs:
    async def test_a_job_is_reported_from_its_beginning_to_its_end(self, served: Served) -> None:
        """With what is bound."""

        def answer(request: v1.EmitBatchRequest, context: grpc.ServicerContext) -> v1.EmitBatchResponse:
            response = accept(request, context)
            for receipt in response.receipts:
                receipt.job.attempt = 2
            return response

        served.answer(answer)
        async with served.client.bind(shop=3).job("j1", "sync", total=4) as job:
            assert job.attempt == 2
            job.advance(3)
        records = await served.records()
        assert [record.job.status for record in records] == [v1.JOB_STATE_RUNNING, v1.JOB_STATE_COMPLETED]
        assert [json.loads(record.attributes_json) for record in records] == [{"shop": 3}] * 2

    async def test_a_tracked_loop_is_a_job(self, served: Served) -> None:
        """Of its items, which come out as they are."""
        assert await all_of(served.client.track([1, 2, 3], job_type="sync", job_id="j1")) == [1, 2, 3]
        assert (await served.records())[-1].job.status == v1.JOB_STATE_COMPLETED
