"""What tests of the sending share: quick clients, and a service that holds back, or finds records too large."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from emitd.client import LogClient
from emitd.receipt import Receipt
from emitd.v1 import EmitBatchRequest, EmitBatchResponse, JobReceipt, LogRecord
from emitd.v1 import Receipt as ReceiptMessage
from support.client.fake_log_service import Answer, FakeLogService, accept, fail

#: So that no test waits for a pause that it is not about.
QUICK = {"backoff_initial": 0.01, "backoff_max": 0.02, "linger": 0.01, "source": "shop"}


@contextmanager
def clients_in(folder: Path) -> Iterator[Callable[..., LogClient]]:
    """Make clients with a spool in the folder, and close them at the end of the block."""
    clients: list[LogClient] = []

    def make(address: str, **settings: Any) -> LogClient:
        clients.append(LogClient(address, **{"spool": folder / "spool", **QUICK, **settings}))
        return clients[-1]

    try:
        yield make
    finally:
        for client in clients:
            client.close(0.0)


def until(is_so: Callable[[], object], seconds: float = 10.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.002)


def records(service: FakeLogService) -> Sequence[LogRecord]:
    """All that the service was sent, in order."""
    return [record for request in service.requests for record in request.records]


def numbers(sent: Sequence[LogRecord]) -> Sequence[int]:
    """The numbers of log lines and audit events, as `log` and `audit` give them."""
    texts = [record.audit.details_json or record.attributes_json for record in sent]
    return [json.loads(text)["n"] for text in texts if '"n"' in text]


def log(client: LogClient, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        client.info("line", n=number)


def audit(client: LogClient, number: int = 0, **arguments: Any) -> Receipt:
    return client.audit("order.create", user_id="u", details={"n": number}, **arguments)


def drops(service: FakeLogService) -> Sequence[dict[str, Any]]:
    """What the service was told of drops."""
    told = [json.loads(record.attributes_json or "{}") for record in records(service)]
    return [attributes for attributes in told if "dropped.count" in attributes]


class Gate:
    """An answer that waits until it is opened, and knows how many calls were under way at once."""

    def __init__(self, answer: Answer = accept) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.is_open = threading.Event()

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.is_open.wait(10)
        with self._lock:
            self._now -= 1
        return self._answer(request, context)

    @property
    def now(self) -> int:
        return self._now


def commit_job(request: EmitBatchRequest, _: grpc.ServicerContext) -> EmitBatchResponse:
    """Apply every report, to a first attempt."""
    receipts = [
        ReceiptMessage(record_id=record.record_id, job=JobReceipt(attempt=1, applied=True))
        for record in request.records
    ]
    return EmitBatchResponse(accepted_count=len(receipts), receipts=receipts)


def job_reports(service: FakeLogService) -> Sequence[Any]:
    return [record.job for record in records(service)]


def lines_refused(*errors: Any) -> Answer:
    """As `refuse`, for a call that wants no receipts."""

    def answer(request: EmitBatchRequest, _: grpc.ServicerContext) -> EmitBatchResponse:
        return EmitBatchResponse(accepted_count=len(request.records) - len(errors), errors=errors)

    return answer


def too_large_for(limit_bytes: int) -> Answer:
    """As grpc itself answers a message that is too large for it."""
    too_large = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, f"larger than max ({limit_bytes})")

    def answer(request: EmitBatchRequest, context: grpc.ServicerContext) -> Any:
        if request.ByteSize() > limit_bytes:
            return too_large(request, context)
        return accept(request, context)

    return answer


def taken(service: FakeLogService, limit_bytes: int = 2_000) -> Sequence[LogRecord]:
    """The records that `too_large_for` let through."""
    taken = [request.records for request in service.requests if request.ByteSize() <= limit_bytes]
    return [record for batch in taken for record in batch]
