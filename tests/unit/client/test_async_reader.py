"""AsyncReader: grpc.aio in a thread of its own, which stands still for a fork."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from emitd.errors import Unavailable
from emitd.settings import ClientSettings
from emitd.transport.async_reader import AsyncReader
from emitd.transport.reply import is_retryable
from emitd.v1 import GetJobRequest, GetJobResponse, Job, WatchJobRequest, WatchJobResponse
from support.client.fake_log_service import FakeLogService, fail, fake_log_service
from support.client.names import Names


def answer(request: object, context: grpc.ServicerContext) -> object:
    """A watch tells one thing, and stays open."""
    return watch(context) if isinstance(request, WatchJobRequest) else GetJobResponse(job=Job(job_id="j"))


def watch(context: grpc.ServicerContext) -> Iterator[WatchJobResponse]:
    yield WatchJobResponse(job=Job(job_id="j", revision=1))
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(30)


@pytest.fixture
def service() -> Iterator[FakeLogService]:
    with fake_log_service(answer) as service:
        yield service


@pytest.fixture(autouse=True)
def no_other_user() -> None:
    """What other tests left of grpc.aio, with the errors they caught, keeps the thread that all its users share."""
    gc.collect()
    if not no_grpc_thread():
        pytest.skip("another test's use of grpc.aio is not over")


@pytest.fixture
def calls(service: FakeLogService) -> Iterator[AsyncReader]:
    calls = AsyncReader(ClientSettings.read({"address": service.address}, {}), lambda: None)
    yield calls
    calls.close()


def grpc_threads() -> list[str]:
    """Return the threads that grpc.aio keeps inside grpc."""
    return [thread.name for thread in threading.enumerate() if "_poll_wrapper" in thread.name]


def no_grpc_thread() -> bool:
    """Whether there is none, or none any more in a moment: one that has left grpc may still be ending."""
    give_up_at = time.monotonic() + 10
    while grpc_threads() and time.monotonic() < give_up_at:
        time.sleep(0.01)
    return not grpc_threads()


async def ask(calls: AsyncReader) -> str:
    return (await calls.ask("GetJob", GetJobRequest(job_id="j"), GetJobResponse)).job.job_id


async def test_for_a_fork_no_thread_stays_inside_grpc(calls: AsyncReader) -> None:
    """Though a stream was open; after it that is worth another try, and questions are answered."""
    stream = calls.stream("WatchJob", WatchJobRequest(job_id="j"), WatchJobResponse)
    idle = calls.stream("WatchJob", WatchJobRequest(job_id="j"), WatchJobResponse)
    assert (await anext(stream)).job.revision == (await anext(idle)).job.revision == 1
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    assert grpc_threads()
    calls.shut_for_fork()
    calls.wait_for_fork(time.monotonic())
    assert no_grpc_thread()
    calls.resume_after_fork()
    for broken in (waiting, anext(idle)):
        with pytest.raises(grpc.RpcError) as caught:
            await broken
        assert is_retryable(caught.value)
    assert await ask(calls) == "j"


async def test_names_that_have_moved_are_looked_up_again(
    service: FakeLogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a question finds no server; the next try goes where the name is now. So does a stream."""
    names = Names(a=["127.0.0.9"], b=["127.0.0.8"])
    names.use_for_getaddrinfo(monkeypatch)
    port = service.address.rpartition(":")[2]
    settings = ClientSettings.read({"address": f"a:{port},b:{port}", "timeout": 0.5}, {})
    calls = AsyncReader(settings, lambda: None)
    try:
        with pytest.raises(Unavailable):
            await ask(calls)
        names["b"] = ["127.0.0.1"]
        assert await ask(calls) == "j"
        names["b"] = ["127.0.0.9"]
        calls._channel = None
        with pytest.raises(grpc.RpcError) as caught:
            await anext(calls.stream("WatchJob", WatchJobRequest(job_id="j"), WatchJobResponse))
        assert is_retryable(caught.value)
        names["a"] = ["127.0.0.1"]
        stream = calls.stream("WatchJob", WatchJobRequest(job_id="j"), WatchJobResponse)
        assert (await anext(stream)).job.revision == 1
    finally:
        calls.close()


async def test_for_a_fork_a_channel_that_was_left_is_closed_too(
    service: FakeLogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream on it goes on until then."""
    Names(a=["127.0.0.1"]).use_for_getaddrinfo(monkeypatch)
    service.answer_with(answer, fail(grpc.StatusCode.UNAVAILABLE, "as of a connection that broke"), answer)
    calls = AsyncReader(ClientSettings.read({"address": f"{service.address},a:1"}, {}), lambda: None)
    try:
        stream = calls.stream("WatchJob", WatchJobRequest(job_id="j"), WatchJobResponse)
        assert (await anext(stream)).job.revision == 1
        left = id(calls._channel)
        assert await ask(calls) == "j"
        assert id(calls._channel) != left
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        calls.shut_for_fork()
        calls.wait_for_fork(time.monotonic())
        assert no_grpc_thread()
        calls.resume_after_fork()
        with pytest.raises(grpc.RpcError):
            await waiting
        assert await ask(calls) == "j"
    finally:
        calls.close()


async def test_what_is_asked_during_a_fork_is_answered_after_it(calls: AsyncReader) -> None:
    """It waits; so it does not enter grpc meanwhile."""
    assert await ask(calls) == "j"
    calls.shut_for_fork()
    calls.wait_for_fork(time.monotonic())
    asked = asyncio.ensure_future(ask(calls))
    await asyncio.sleep(0.05)
    assert not asked.done()
    assert no_grpc_thread()
    calls.resume_after_fork()
    assert await asked == "j"


async def test_a_fork_waits_no_longer_than_fork_wait(service: FakeLogService) -> None:
    """Where the thread does not come to stand still."""
    calls = AsyncReader(ClientSettings.read({"address": service.address, "fork_wait": 0.1}, {}), lambda: None)
    assert await ask(calls) == "j"
    leave = threading.Event()

    async def block() -> None:
        leave.wait(30)

    blocked = asyncio.ensure_future(calls.run(block()))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    calls.shut_for_fork()
    calls.wait_for_fork(began)
    assert not blocked.done()
    leave.set()
    calls.resume_after_fork()
    await blocked
    calls.close()


async def test_a_cancelled_question_is_cancelled_in_its_thread(calls: AsyncReader) -> None:
    """So is a step of a stream; other calls go on."""
    stream = calls.stream("WatchJob", WatchJobRequest(job_id="j"), WatchJobResponse)
    await anext(stream)
    step = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    await stream.aclose()
    assert await ask(calls) == "j"


async def test_the_thread_begins_with_the_first_call_and_ends_with_close(service: FakeLogService) -> None:
    """And grpc.aio's with it."""
    calls = AsyncReader(ClientSettings.read({"address": service.address}, {}), lambda: None)
    assert not [thread for thread in threading.enumerate() if thread.name == "emitd-reads"]
    await ask(calls)
    assert [thread for thread in threading.enumerate() if thread.name == "emitd-reads"]
    calls.close()
    calls.close()
    assert no_grpc_thread()
    assert not [thread for thread in threading.enumerate() if thread.name == "emitd-reads"]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
async def test_a_thread_that_cannot_be_started_is_tried_again(
    calls: AsyncReader, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The question says that nothing can be asked now, and the next one is asked."""

    def refuse(_: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Unavailable, match="nothing can be asked now"):
            await calls.ask("GetJob", GetJobRequest(job_id="j"), GetJobResponse)
    answer = await calls.ask("GetJob", GetJobRequest(job_id="j"), GetJobResponse)
    assert answer.job.job_id == "j"
