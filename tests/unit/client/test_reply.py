"""`emitd.transport.reply`: what a reply or its failure means for each record."""

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from emitd import EmitError, JobNotFound, RecordRejected, RequestRejected, Unavailable, v1
from emitd.credentials import Credentials
from emitd.transport.channel import CallFailed
from emitd.transport.reply import (
    RETRY_NOW,
    UNSENT,
    Reply,
    is_retryable,
    read_failure,
    read_response,
    request_error,
)

#: What each status of a whole call means for its records, without RetryInfo.
MEANINGS = {
    grpc.StatusCode.CANCELLED: "again",
    grpc.StatusCode.DEADLINE_EXCEEDED: "again",
    grpc.StatusCode.ABORTED: "again",
    grpc.StatusCode.UNAVAILABLE: "broken",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "divide",
    grpc.StatusCode.INVALID_ARGUMENT: "divide",
    grpc.StatusCode.INTERNAL: "divide",
    grpc.StatusCode.UNKNOWN: "divide",
    grpc.StatusCode.NOT_FOUND: "rejected",
    grpc.StatusCode.ALREADY_EXISTS: "rejected",
    grpc.StatusCode.PERMISSION_DENIED: "kept",
    grpc.StatusCode.UNAUTHENTICATED: "kept",
    grpc.StatusCode.FAILED_PRECONDITION: "rejected",
    grpc.StatusCode.OUT_OF_RANGE: "rejected",
    grpc.StatusCode.UNIMPLEMENTED: "rejected",
    grpc.StatusCode.DATA_LOSS: "rejected",
}
FAILURES = sorted(set(grpc.StatusCode) - {grpc.StatusCode.OK}, key=lambda code: code.name)
KEY = "grpc-status-details-bin"
#: Details that say what they are, and are not.
BROKEN = status_pb2.Status(
    details=[
        any_pb2.Any(type_url=f"type.googleapis.com/google.rpc.{name}", value=b"\xff")
        for name in ("RetryInfo", "BadRequest")
    ]
)


class Failure(grpc.RpcError):
    """What grpc raises."""

    def __init__(
        self, code: grpc.StatusCode, *details: Message, metadata: Any = (), text: str = "why"
    ) -> None:
        self._code = code
        self._text = text
        self._metadata = (("x", "y"), (KEY, packed(*details).SerializeToString())) if details else metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> Any:
        return self._metadata


def packed(*details: Message) -> status_pb2.Status:
    status = status_pb2.Status(message="why")
    for detail in details:
        status.details.add().Pack(detail)
    return status


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def bad_request(*fields: str) -> error_details_pb2.BadRequest:
    violations = [error_details_pb2.BadRequest.FieldViolation(field=field) for field in fields]
    return error_details_pb2.BadRequest(field_violations=violations)


def record_error(index: int, message: str, *details: Message, retryable: bool = False) -> v1.RecordError:
    status = packed(*details)
    status.message = message
    return v1.RecordError(index=index, status=status, retryable=retryable)


def read(*errors: v1.RecordError) -> Reply:
    return read_response(v1.EmitBatchResponse(errors=errors, server_id=7))


class TestResponse:
    def test_a_response_without_errors_accepts_all(self) -> None:
        """And brings the receipts, and who answered."""
        receipts = [v1.Receipt(record_id="r1")]
        reply = read_response(v1.EmitBatchResponse(accepted_count=1, receipts=receipts, server_id=7))
        assert (reply.again, reply.rejected, reply.divide, reply.is_broken) == ({}, {}, None, False)
        assert (list(reply.receipts), reply.server_id) == (receipts, 7)

    def test_each_error_is_about_one_record(self) -> None:
        """By its index: the others were accepted, and have their receipts."""
        response = v1.EmitBatchResponse(
            errors=[record_error(2, "bad"), record_error(0, "busy", retryable=True)],
            receipts=[v1.Receipt(), v1.Receipt(record_id="r1"), v1.Receipt()],
            server_id=7,
        )
        reply = read_response(response)
        assert (set(reply.again), set(reply.rejected)) == ({0}, {2})
        assert (reply.receipts[1].record_id, reply.server_id) == ("r1", 7)
        assert isinstance(reply.rejected[2], RecordRejected)
        assert (reply.is_broken, reply.is_call_refused) == (False, False)

    def test_a_retryable_error_says_when(self) -> None:
        """By its RetryInfo, or at once without one; what the flag says counts, not the code."""
        reply = read(
            record_error(0, "busy", bad_request("x"), retry_info(1.5), retryable=True),
            record_error(1, "busy", retryable=True),
            record_error(2, "bad", retry_info(1.5)),
        )
        assert reply.again == {0: ("busy", 1.5), 1: ("busy", 0.0)}
        assert set(reply.rejected) == {2}

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ("records[3].audit.source_ip: no address", "audit.source_ip: no address"),
            ("records[3]: too large", "too large"),
            ("the trail is read-only", "the trail is read-only"),
            ("records[31].x: bad", "records[31].x: bad"),
        ],
    )
    def test_a_refusal_does_not_name_the_place_in_the_batch(self, message: str, text: str) -> None:
        """Its maker sent one record, and knows nothing of batches."""
        assert str(read(record_error(3, message)).rejected[3]) == text

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            (["records[3].audit.source_ip", "records[3].message"], "audit.source_ip"),
            (["audit.source_ip"], "audit.source_ip"),
            ([], ""),
        ],
    )
    def test_a_refusal_names_the_field_within_the_record(self, fields: Sequence[str], field: str) -> None:
        """The first of several, by its path in the record; empty where none is named."""
        error = read(record_error(3, "bad", retry_info(1), bad_request(*fields))).rejected[3]
        assert error.field == field


class TestFailure:
    def test_every_status_has_a_meaning(self) -> None:
        """A status that grpc adds must be thought about."""
        assert set(MEANINGS) == set(FAILURES)

    @pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
    def test_what_a_status_means_for_the_records(self, code: grpc.StatusCode) -> None:
        """For all of the call alike; nobody answered."""
        reply = read_failure(Failure(code), 3)
        found = {
            "again": set(reply.again) == {0, 1, 2} and not reply.is_broken and not reply.cause,
            "kept": set(reply.again) == {0, 1, 2}
            and not reply.is_broken
            and reply.cause == f"{code.name}: why",
            "broken": set(reply.again) == {0, 1, 2} and reply.is_broken,
            "divide": reply.divide is not None,
            "rejected": set(reply.rejected) == {0, 1, 2},
        }
        assert [meaning for meaning, is_so in found.items() if is_so] == [MEANINGS[code]]
        assert reply.is_call_refused == (MEANINGS[code] == "rejected")
        assert (len(reply.receipts), reply.server_id) == (0, 0)

    @pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
    def test_retry_info_makes_every_status_worth_another_try(self, code: grpc.StatusCode) -> None:
        """Whoever sends it is there: the connection is not broken."""
        reply = read_failure(Failure(code, bad_request("x"), retry_info(2.5)), 2)
        assert reply == Reply(again=dict.fromkeys((0, 1), (f"{code.name}: why", 2.5)))
        assert is_retryable(Failure(code, retry_info(0)))

    @pytest.mark.parametrize(
        ("code", "text", "may_have_arrived"),
        [
            (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: refused", False),
            (grpc.StatusCode.UNAVAILABLE, "connections to all backends failing; last error: refused", False),
            (grpc.StatusCode.UNAVAILABLE, "errors resolving logs:5: [Domain name not found]", False),
            (grpc.StatusCode.UNAVAILABLE, "DNS resolution failed for logs:5: no network", False),
            (grpc.StatusCode.UNAVAILABLE, "Socket closed", True),
            (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)", True),
            (grpc.StatusCode.UNAVAILABLE, "the backend said: failed to connect to all addresses", True),
            (grpc.StatusCode.CANCELLED, "Channel closed!", True),
            (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", True),
        ],
    )
    def test_records_that_never_left_have_not_arrived(
        self, code: grpc.StatusCode, text: str, may_have_arrived: bool
    ) -> None:
        """Where there was no connection; after anything else the service may have them all the same."""
        assert read_failure(Failure(code, text=text), 1).may_have_arrived == may_have_arrived

    @pytest.mark.parametrize(
        ("code", "text", "may_have_arrived"),
        [
            (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", False),
            (grpc.StatusCode.CANCELLED, "Channel closed!", False),
            (grpc.StatusCode.CANCELLED, "the server goes down", True),
            (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)", True),
        ],
    )
    def test_what_ended_here_without_a_connection_never_left(
        self, code: grpc.StatusCode, text: str, may_have_arrived: bool
    ) -> None:
        """What the other side ended did, although its connection is gone by now."""
        reply = read_failure(Failure(code, text=text), 1, was_connected=False)
        assert reply.may_have_arrived == may_have_arrived

    def test_what_the_service_answered_is_not_sent_twice(self) -> None:
        """With RetryInfo it says that it has not taken the records."""
        for code in FAILURES:
            assert not read_failure(Failure(code, retry_info(1)), 1).may_have_arrived

    def test_a_refused_call_says_why_and_which_field(self) -> None:
        """For each record, and for the halves."""
        for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
            reply = read_failure(Failure(code, bad_request("records")), 1)
            error = reply.divide or reply.rejected[0]
            assert isinstance(error, RecordRejected)
            assert (str(error), error.field) == (f"{code.name}: why", "records")

    @pytest.mark.parametrize(
        "metadata",
        [None, (("x", b"y"),), ((KEY, b"\xff no status"),), ((KEY, BROKEN.SerializeToString()),)],
        ids=["none", "other", "garbage", "garbage within"],
    )
    def test_details_that_cannot_be_read_are_none(self, metadata: Any) -> None:
        """A proxy's trailers must not make an error of another kind; the status alone counts then."""
        failure = Failure(grpc.StatusCode.OUT_OF_RANGE, metadata=metadata)
        (error,) = read_failure(failure, 1).rejected.values()
        assert error.field == ""
        assert isinstance(request_error(failure), RequestRejected)

    def test_the_trailers_of_both_kinds_of_client_are_read(self) -> None:
        """Those of grpc.aio are pairs without names."""
        value = packed(retry_info(2.5)).SerializeToString()
        trailers = grpc.aio.Metadata(("x", "y"), (KEY, value))
        error = grpc.aio.AioRpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), trailers, details="why"
        )
        assert read_failure(error, 1).again == {0: ("RESOURCE_EXHAUSTED: why", 2.5)}

    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
    def test_a_sender_without_a_right_has_sent_nothing(self, code: grpc.StatusCode) -> None:
        """Its records did not arrive, and its question is not asked again."""
        assert not read_failure(Failure(code), 1).may_have_arrived
        assert not is_retryable(Failure(code))
        assert is_retryable(CallFailed(code, "why", RETRY_NOW))
        assert read_failure(CallFailed(code, "why", RETRY_NOW), 1) == Reply(
            again={0: (f"{code.name}: why", 0.0)}
        )

    def test_a_cause_that_is_known_takes_the_place_of_grpc_s_words(self) -> None:
        """In every text; what the words say of the record stays."""
        failure = CallFailed(
            grpc.StatusCode.UNAVAILABLE, f"{UNSENT[1]}: x", cause="cannot reach a:1: no trust"
        )
        reply = read_failure(failure, 1)
        assert reply.again == {0: ("UNAVAILABLE: cannot reach a:1: no trust", 0.0)}
        assert (reply.cause, reply.may_have_arrived) == ("cannot reach a:1: no trust", False)
        assert str(request_error(failure)) == "UNAVAILABLE: cannot reach a:1: no trust"

    def test_a_cause_is_looked_for_only_where_there_was_no_connection(self) -> None:
        """A service or a proxy may speak of certificates too, of others."""
        credentials, said = Credentials("a:1"), "CERTIFICATE_VERIFY_FAILED"
        for details, is_known in ((f"{UNSENT[1]}: {said}", True), (f"upstream: {said}", False)):
            failure = Failure(grpc.StatusCode.UNAVAILABLE, text=details)
            assert bool(CallFailed.copy_of(failure, credentials, None).cause) is is_known


class TestRequestError:
    @pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
    def test_every_status_becomes_an_error_of_the_client(self, code: grpc.StatusCode) -> None:
        """What can be tried again is Unavailable; a job that is not there, JobNotFound; the rest a bad request."""
        error = request_error(Failure(code))
        kind: type[EmitError] = RequestRejected
        if MEANINGS[code] in ("again", "broken"):
            kind = Unavailable
        elif code is grpc.StatusCode.NOT_FOUND:
            kind = JobNotFound
        assert type(error) is kind
        assert error.retryable == is_retryable(Failure(code)) == (kind is Unavailable)
        assert str(error) == ("why" if kind is JobNotFound else f"{code.name}: why")

    def test_a_job_that_is_not_there_needs_no_text(self) -> None:
        """Grpc has None where a service gave none."""
        missing: Any = None
        assert str(request_error(Failure(grpc.StatusCode.NOT_FOUND, text=missing))) == ""

    def test_it_names_the_field(self) -> None:
        """That of the request."""
        error = request_error(Failure(grpc.StatusCode.INVALID_ARGUMENT, bad_request("page_size")))
        assert error.field == "page_size"

    def test_retry_info_makes_it_unavailable(self) -> None:
        """Whatever the status."""
        assert type(request_error(Failure(grpc.StatusCode.NOT_FOUND, retry_info(1)))) is Unavailable


def test_an_error_without_a_text_is_told_by_its_code() -> None:
    """So the server shortens the errors of a batch after the first hundred."""
    response = v1.EmitBatchResponse()
    response.errors.add(index=3, retryable=True).status.code = 14
    response.errors.add(index=4).status.code = 3
    reply = read_response(response)
    assert dict(reply.again) == {3: ("UNAVAILABLE", 0.0)}
    assert str(reply.rejected[4]) == "INVALID_ARGUMENT"
