"""A LogService and AuditService whose answers a test writes, for tests of clients."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from emitd.v1 import (
    DELIVERY_COMMITTED,
    AuditServiceServicer,
    EmitBatchRequest,
    EmitBatchResponse,
    HandlerReceipt,
    LogServiceServicer,
    Receipt,
    RecordError,
)
from emitd.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from emitd.v1.log_service_pb2_grpc import add_LogServiceServicer_to_server

#: Answers one call; of a watch or a tail: with the messages of the stream.
Answer: TypeAlias = Callable[[Any, grpc.ServicerContext], Any]


class FakeLogService(LogServiceServicer, AuditServiceServicer):
    """Notes every request and answers it with the next of `answers`, the last of which stays."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.requests: list[Any] = []
        self.address = ""
        #: Let calls under way end for this number of seconds, and take no more.
        self.stop: Callable[[float], threading.Event]
        self._answers = list(answers)
        self._lock = threading.Lock()

    def _answer(self, request: Message, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self.requests.append(request)
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer(request, context)

    def answer_with(self, *answers: Answer) -> None:
        """Answer the next requests with these, the last of which stays."""
        with self._lock:
            self._answers = list(answers)

    Emit = EmitBatch = GetJob = ListJobs = ListJobTransitions = RequestCancel = _answer
    GetCheckpoint = GetInclusionProof = GetConsistencyProof = ListAuditEvents = ListLogs = _answer

    def WatchJob(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:  # noqa: N802
        yield from self._answer(request, context)

    WatchJobs = TailAuditEvents = TailLogs = WatchJob


@contextmanager
def fake_log_service(
    *answers: Answer, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[FakeLogService]:
    """Serve a FakeLogService on a free port until the end of the block, by TLS if it has credentials."""
    service = FakeLogService(answers)
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        add_LogServiceServicer_to_server(service, server)
        add_AuditServiceServicer_to_server(service, server)
        if credentials is None:
            port = server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        service.address = f"127.0.0.1:{port}"
        service.stop = server.stop
        server.start()
        try:
            yield service
        finally:
            server.stop(None).wait()


def accept(request: EmitBatchRequest, _: grpc.ServicerContext) -> EmitBatchResponse:
    """Commit every record."""
    receipts = [
        Receipt(
            record_id=record.record_id,
            handlers=[HandlerReceipt(handler="fake", delivery=DELIVERY_COMMITTED)],
        )
        for record in request.records
    ]
    return EmitBatchResponse(accepted_count=len(receipts), receipts=receipts if request.want_receipts else ())


def known_by(*tokens: str, answer: Answer = accept) -> Answer:
    """Answer those who bring one of these tokens; of the others say that nobody knows them."""

    def answer_known(request: Message, context: grpc.ServicerContext) -> Any:
        if dict(context.invocation_metadata()).get("authorization") in [
            f"Bearer {token}" for token in tokens
        ]:
            return answer(request, context)
        return fail(grpc.StatusCode.UNAUTHENTICATED, "who are you?")(request, context)

    return answer_known


def refuse(*errors: RecordError) -> Answer:
    """Commit every record but those that the errors are about."""

    def answer(request: EmitBatchRequest, context: grpc.ServicerContext) -> EmitBatchResponse:
        response = accept(request, context)
        for error in errors:
            response.receipts[error.index].Clear()
        response.accepted_count -= len(errors)
        response.errors.extend(errors)
        return response

    return answer


def record_error(
    index: int,
    message: str,
    retry_seconds: float | None = None,
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
) -> RecordError:
    """Why a record is refused; with `retry_seconds`, for now."""
    status = make_status(code, message, retry_seconds)
    return RecordError(index=index, status=status, retryable=retry_seconds is not None)


def fail(code: grpc.StatusCode, message: str, retry_seconds: float | None = None) -> Answer:
    """End the call with an error, with RetryInfo if `retry_seconds` is given."""

    def answer(_: Message, context: grpc.ServicerContext) -> NoReturn:
        packed = make_status(code, message, retry_seconds).SerializeToString()
        context.set_trailing_metadata((("grpc-status-details-bin", packed),))
        context.abort(code, message)

    return answer


def make_status(code: grpc.StatusCode, message: str, retry_seconds: float | None) -> status_pb2.Status:
    """Return a google.rpc.Status."""
    status = status_pb2.Status(code=code.value[0], message=message)
    if retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_seconds * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status
