"""The table from domain errors to gRPC status, and the details that go with each."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

import emitd_handlers.errors
import emitd_server.errors
from emitd.v1.job_pb2 import GetJobRequest
from emitd_handlers.errors import (
    EmitdError,
    HandlerError,
    HandlerUnavailable,
    RecordConflict,
    RecordInvalid,
    RetryableError,
)
from emitd_handlers.scope import ANYONE, Caller
from emitd_server.access.grants import Grants
from emitd_server.access.limits import CallerLimits
from emitd_server.access.trail import AccessTrail
from emitd_server.errors import JobNotFound, RequestInvalid, StartError
from emitd_server.memory import MemoryAccount
from emitd_server.rpc.edge import Edge
from emitd_server.rpc.intake import Intake
from emitd_server.rpc.methods import Rpcs
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.rpc.status import CODES, is_retryable, status_of
from emitd_server.settings import LimitSettings

#: Roots that are never raised themselves, and the error of starting, which no caller can see.
NOT_FOR_CALLERS = {EmitdError, HandlerError, RetryableError, emitd_handlers.errors.FieldInvalid, StartError}


def detail(status: status_pb2.Status, kind: type) -> object:
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def test_the_table_is_complete() -> None:
    """Every error that can reach a caller has a code of its own."""
    errors = set()
    for module in (emitd_handlers.errors, emitd_server.errors):
        errors |= {value for value in vars(module).values() if isinstance(value, type)}
    errors = {error for error in errors if issubclass(error, EmitdError)} - NOT_FOR_CALLERS
    missing = {error.__name__ for error in errors if error not in CODES}
    assert missing - {"ConfigError"} == set()


def test_a_bad_field_is_named_with_its_path() -> None:
    """The message and the BadRequest both name the field, under the record's place in the batch."""
    status = status_of(RecordInvalid("audit.source_ip", "is mandatory"), "records[3]")
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert status.message == "records[3].audit.source_ip: is mandatory"
    bad = detail(status, error_details_pb2.BadRequest)
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("records[3].audit.source_ip", "is mandatory")
    ]
    assert detail(status, error_details_pb2.RetryInfo) is None


def test_a_retryable_error_says_when() -> None:
    """UNAVAILABLE carries RetryInfo with the error's own delay."""
    error = HandlerUnavailable("down", retry_after_seconds=2.5)
    status = status_of(error, "record")
    assert status.code == code_pb2.UNAVAILABLE
    retry = detail(status, error_details_pb2.RetryInfo)
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToNanoseconds() == 2_500_000_000
    assert is_retryable(error)
    assert not is_retryable(RecordConflict("record_id", "a"))
    assert not is_retryable(JobNotFound("a"))


def test_a_conflict_names_the_id() -> None:
    """ALREADY_EXISTS says which id of which record."""
    status = status_of(RecordConflict("record_id", "r1"), "record")
    assert status.code == code_pb2.ALREADY_EXISTS
    bad = detail(status, error_details_pb2.BadRequest)
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert bad.field_violations[0].field == "record.record_id"


def test_a_request_error_without_field() -> None:
    """A request that is wrong as a whole has a message and no field."""
    status = status_of(RequestInvalid("", "the request does not parse"))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert status.message == "the request does not parse"


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
def test_a_status_stays_small(letter: str) -> None:
    """However long and wide a sender's text, the status fits the trailers of any client."""
    status = status_of(RecordInvalid("audit.details_json", letter * 100_000), "records[9999]")
    assert len(status.SerializeToString()) < 4096


def test_an_error_of_a_handler_of_ones_own_kind() -> None:
    """A subclass takes its parent's code."""

    class DiskFull(HandlerUnavailable):
        pass

    assert status_of(DiskFull("full")).code == code_pb2.UNAVAILABLE


class _GoneContext:
    """A call whose other end has gone away, as grpc shows it while a message is sent."""

    async def read(self) -> bytes:
        """Fail."""
        raise grpc.aio.InternalError('Failed "execute_batch"')


async def test_a_caller_that_goes_away_is_no_error_of_the_service() -> None:
    """The call ends as one that was cancelled, and nothing is reported."""
    reports: list[str] = []
    memory = MemoryAccount(1 << 30)
    edge = Edge(
        Intake(LimitSettings(), memory),
        lambda _: ANYONE.principal,
        Grants(()),
        CallerLimits(LimitSettings()),
        AccessTrail(None),  # type: ignore[arg-type]
    )
    rpcs = Rpcs("emitd.v1.LogService", edge, OpenStreams(memory), reports.append)

    async def messages(data: bytes, caller: Caller) -> AsyncGenerator[bytes, None]:
        yield data

    rpcs.stream("GetJob", messages, GetJobRequest)
    rpcs.page("ListJobs", messages, GetJobRequest)  # type: ignore[arg-type]
    for name in ("GetJob", "ListJobs"):
        handler = rpcs.handler().service(SimpleNamespace(method=f"/emitd.v1.LogService/{name}"))  # type: ignore[arg-type]
        with pytest.raises(asyncio.CancelledError):
            await handler.stream_stream(None, _GoneContext())  # type: ignore[union-attr, misc]
    assert reports == []
