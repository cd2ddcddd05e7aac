"""The webhook handler in a real service, with a real HTTP receiver that fails, hangs, goes away and recovers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from emitd.v1 import log_service_pb2 as service_pb2
from emitd.v1 import record_pb2
from emitd_handlers.outcome import Committed, Outcome, Refused
from emitd_handlers.record import LogRecord
from emitd_handlers.settings import CommittedSettings, OverflowPolicy, QueuedSettings
from emitd_handlers.testing import make_record
from emitd_handlers.webhook.handler import WebhookHandler, WebhookSettings
from emitd_handlers.webhook.url import WebhookUrl
from emitd_server.service import LoggingService
from support.client.in_process import retry_seconds, running, status_details
from support.processes.http_receiver import CLOSE, HANG, Answer, HttpReceiver

#: So long that nothing which waits for it can pass.
LONG_SECONDS = 60.0
#: What must end, ends within this; it is far less than LONG_SECONDS and far more than it takes.
DEADLINE_SECONDS = 30.0


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


def hook(
    receiver: HttpReceiver,
    *,
    request_timeout_seconds: float = 10.0,
    delivery: CommittedSettings | None = None,
    **queue: Any,
) -> WebhookHandler:
    fast = {"retry_initial_seconds": 0.01, "retry_max_seconds": 0.05, "max_retries": 1000}
    settings = WebhookSettings(
        url=WebhookUrl(receiver.url),
        request_timeout_seconds=request_timeout_seconds,
        delivery=delivery or QueuedSettings(**(fast | queue)),
    )
    return WebhookHandler(settings, name="hook")


@asynccontextmanager
async def serving(handler: WebhookHandler, told: list[str] | None = None) -> AsyncIterator[LoggingService]:
    report: Callable[[str], None] = (told if told is not None else []).append
    service = LoggingService([handler], report=report)
    await service.start()
    try:
        yield service
    finally:
        await service.stop(0)


async def drain(service: LoggingService) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await service.drain()


def lines(*numbers: int) -> list[LogRecord]:
    return [make_record(message=str(number)) for number in numbers]


def once_each(messages: list[str]) -> list[str]:
    """The messages without repetitions, each where it first came."""
    return list(dict.fromkeys(messages))


async def test_every_record_arrives_in_order_after_recovery(receiver: HttpReceiver) -> None:
    """Errors of the server, broken connections and time-outs delay records, and neither lose nor reorder them."""
    receiver.will(
        Answer(500), CLOSE, HANG, Answer(502, body=b"x" * 1000), Answer(408), Answer(), Answer(500), CLOSE
    )
    handler = hook(receiver, batch_size=10, request_timeout_seconds=0.2)
    async with serving(handler) as service:
        for start in range(0, 100, 4):
            await service.dispatch(lines(*range(start, start + 4)))
        await drain(service)
        counts = service.stats()["hook"]
    assert once_each(receiver.taken_messages) == list(map(str, range(100)))
    assert counts["accepted"] == counts["delivered"] == 100
    assert counts["retried"] > 0
    assert not [cause for cause in counts if cause.startswith("dropped") and counts[cause]]


async def test_every_record_arrives_when_the_receiver_comes_back(receiver: HttpReceiver) -> None:
    """A port that nobody listens on is tried again until somebody does."""
    async with serving(hook(receiver)) as service:
        await service.dispatch(lines(1, 2))
        await receiver.wait_until(lambda: len(receiver.taken) >= 1)
        receiver.go_away()
        await service.dispatch(lines(3, 4))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while service.stats()["hook"]["retried"] < 4:
                await asyncio.sleep(0.005)
        receiver.come_back()
        await drain(service)
    assert once_each(receiver.taken_messages) == ["1", "2", "3", "4"]


async def test_a_record_whose_answer_was_lost_comes_twice_under_one_id(receiver: HttpReceiver) -> None:
    """At least once: the repetition has the same body and key, and so the receiver can tell."""
    receiver.will(CLOSE)
    async with serving(hook(receiver)) as service:
        await service.dispatch(lines(1))
        await drain(service)
    first, second = receiver.requests
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_retry_after_is_kept(receiver: HttpReceiver) -> None:
    """The queue leaves the receiver alone for as long as it asks, where its back-off would not."""
    receiver.will(Answer(503, {"Retry-After": "1"}))
    clock = asyncio.get_running_loop().time
    async with serving(hook(receiver, retry_max_seconds=LONG_SECONDS)) as service:
        await service.dispatch(lines(1))
        await receiver.wait_until(lambda: len(receiver.requests) == 1)
        asked_at = clock()
        await drain(service)
        assert clock() - asked_at >= 0.9
    assert receiver.taken_messages == ["1"]


async def test_a_permanent_refusal_drops_and_counts(receiver: HttpReceiver) -> None:
    """The batch is not sent again, the operator reads why, and what comes later is delivered."""
    receiver.will(Answer(400))
    told: list[str] = []
    async with serving(hook(receiver), told) as service:
        await service.dispatch(lines(1, 2))
        await receiver.wait_until(lambda: len(receiver.requests) == 1)
        await service.dispatch(lines(3))
        await drain(service)
        counts = service.stats()["hook"]
    assert [request.messages for request in receiver.requests] == [["1", "2"], ["3"]]
    assert (counts["dropped_refused"], counts["delivered"], counts["retried"]) == (2, 1, 0)
    origin = f"http://127.0.0.1:{receiver.port}"
    assert told == [f"handler 'hook' dropped 2 records: refused (last: {origin} answered 400 Bad Request)"]


async def test_retries_end_and_are_counted(receiver: HttpReceiver) -> None:
    """A receiver that fails for longer than the retries last costs the batch, counted by its cause."""
    receiver.will(Answer(500), Answer(500), Answer(500))
    async with serving(hook(receiver, max_retries=2)) as service:
        await service.dispatch(lines(1, 2))
        await drain(service)
        counts = service.stats()["hook"]
    assert (counts["dropped_retries_exhausted"], counts["retried"], counts["delivered"]) == (2, 4, 0)


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [(OverflowPolicy.DROP_NEWEST, ["0", "1", "2"]), (OverflowPolicy.DROP_OLDEST, ["0", "8", "9"])],
)
async def test_overflow_while_hanging_is_counted(
    overflow: OverflowPolicy, kept: list[str], receiver: HttpReceiver
) -> None:
    """The sender is not held up; what the queue cannot hold is dropped by its policy and counted."""
    receiver.plan(lambda request: HANG)
    told: list[str] = []
    handler = hook(receiver, request_timeout_seconds=LONG_SECONDS, max_records=2, overflow=overflow)
    async with serving(handler, told) as service:
        await service.dispatch(lines(0))
        await receiver.wait_until(lambda: len(receiver.requests) == 1)
        for number in range(1, 10):
            await service.dispatch(lines(number))
        assert service.stats()["hook"]["dropped_queue_full"] == 7
        receiver.release()
        await drain(service)
        counts = service.stats()["hook"]
    assert receiver.taken_messages == kept
    assert counts["delivered"] + counts["dropped_queue_full"] == counts["accepted"] == 10
    assert told[0] == "handler 'hook' dropped 1 records: queue_full"


async def test_stop_while_hanging_ends_and_reports(receiver: HttpReceiver) -> None:
    """The deadline of `stop` holds whatever the request's time-out; what was left is said and counted."""
    receiver.plan(lambda request: HANG)
    told: list[str] = []
    before = asyncio.all_tasks()
    service = LoggingService([hook(receiver, request_timeout_seconds=LONG_SECONDS)], report=told.append)
    await service.start()
    await service.dispatch(lines(1))
    await receiver.wait_until(lambda: len(receiver.requests) == 1)
    await service.dispatch(lines(2, 3))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await service.stop(0.1)
    assert "handler 'hook' did not finish in time: 3 records were left" in told
    assert service.stats()["hook"]["dropped_at_stop"] == 3
    assert not asyncio.all_tasks() - before


async def test_stop_does_not_wait_for_a_retry(receiver: HttpReceiver) -> None:
    """A long wait that the receiver asked for ends with the deadline of `stop` too."""
    receiver.plan(lambda request: Answer(503, {"Retry-After": "60"}))
    told: list[str] = []
    service = LoggingService([hook(receiver, retry_max_seconds=LONG_SECONDS)], report=told.append)
    await service.start()
    await service.dispatch(lines(1))
    await receiver.wait_until(lambda: len(receiver.requests) == 1)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await service.stop(0.1)
    assert "handler 'hook' did not finish in time: 1 records were left" in told
    assert len(receiver.requests) == 1


async def test_stop_delivers_what_is_queued(receiver: HttpReceiver) -> None:
    """A receiver that takes records gets all of them before the service has stopped."""
    service = LoggingService([hook(receiver, batch_size=3)])
    await service.start()
    await service.dispatch(lines(*range(20)))
    await service.stop(DEADLINE_SECONDS)
    assert receiver.taken_messages == list(map(str, range(20)))


# Committed delivery


async def emit(stub: Any, message: str) -> None:
    record = record_pb2.LogRecord(level=record_pb2.LEVEL_INFO, message=message, record_id=f"id-{message}")
    await stub.Emit(service_pb2.EmitRequest(record=record))


async def test_a_committed_reply_waits_for_the_receiver(receiver: HttpReceiver) -> None:
    """OK means that the receiver said so."""
    async with running([hook(receiver, delivery=CommittedSettings())]) as server:
        await emit(server.stub, "1")
        assert receiver.taken_messages == ["1"]


@pytest.mark.parametrize(
    ("answer", "code", "seconds"),
    [
        (Answer(503, {"Retry-After": "7"}), grpc.StatusCode.UNAVAILABLE, 7.1),
        (Answer(500), grpc.StatusCode.UNAVAILABLE, 1.0),
        (Answer(400), grpc.StatusCode.INVALID_ARGUMENT, None),
        (Answer(401), grpc.StatusCode.INTERNAL, None),
    ],
)
async def test_a_committed_failure_reaches_the_sender(
    answer: Answer, code: grpc.StatusCode, seconds: float | None, receiver: HttpReceiver
) -> None:
    """The status says whether to send it again, and when; then it is taken, once."""
    receiver.will(answer)
    async with running([hook(receiver, delivery=CommittedSettings())]) as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await emit(server.stub, "1")
        assert raised.value.code() == code
        assert f"answered {answer.status}" in (raised.value.details() or "")
        assert retry_seconds(status_details(raised.value)) == seconds
        await emit(server.stub, "1")
        await emit(server.stub, "1")
    assert receiver.taken_messages == ["1"]


async def test_a_committed_receiver_that_hangs(receiver: HttpReceiver) -> None:
    """The sender's wait ends with `timeout_seconds`; the request goes on, and its outcome counts."""
    receiver.will(HANG)
    handler = hook(
        receiver, delivery=CommittedSettings(timeout_seconds=0.1), request_timeout_seconds=LONG_SECONDS
    )
    record = make_record(message="1")
    async with serving(handler) as service:
        (late,) = await service.dispatch([record])
        assert isinstance(late, Refused)
        receiver.release()
        await receiver.wait_until(lambda: len(receiver.taken) == 1)
        again: Outcome = late
        async with asyncio.timeout(DEADLINE_SECONDS):
            while isinstance(again, Refused):
                (again,) = await service.dispatch([record])
        assert again == Committed(duplicate=True)
    assert len(receiver.requests) == 1


async def test_stopping_a_committed_receiver_that_hangs(receiver: HttpReceiver) -> None:
    """`stop` ends within its deadline and says what was left; nothing runs on."""
    receiver.plan(lambda request: HANG)
    told: list[str] = []
    handler = hook(receiver, delivery=CommittedSettings(), request_timeout_seconds=LONG_SECONDS)
    before = asyncio.all_tasks()
    service = LoggingService([handler], report=told.append)
    await service.start()
    waiting = asyncio.create_task(service.dispatch(lines(1, 2)))
    await receiver.wait_until(lambda: len(receiver.requests) == 1)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await service.stop(0.1)
        await asyncio.wait([waiting])
    assert "handler 'hook' did not finish in time: 2 records were left" in told
    assert not asyncio.all_tasks() - before
