"""AuditService against a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from emitd.v1 import (
    AuditEntry,
    AuditEvent,
    AuditServiceStub,
    EmitRequest,
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetConsistencyProofResponse,
    GetInclusionProofRequest,
    GetInclusionProofResponse,
    ListAuditEventsRequest,
    ListAuditEventsResponse,
    LogRecord,
    TailAuditEventsRequest,
)
from emitd_handlers.tlog.merkle import leaf_hash, root_of_inclusion
from emitd_handlers.tlog.note import Verifier
from emitd_server.settings import AuditSettings, ServerSettings, WatchSettings
from support.audit.log_reader import open_note, verify_consistency
from support.audit.sealed_log import LOG_ID, TIME, make_line
from support.audit.written_log import WrittenLog, WrittenLogHandler, written_log
from support.client.in_process import (
    Running,
    bad_fields,
    in_memory,
    retry_seconds,
    running,
    status_details,
    three_handlers,
)

SIZE = 40


class Served:
    """A server of one log."""

    def __init__(self, server: Running, log: WrittenLog) -> None:
        self.server = server
        self.log = log
        self.stub = AuditServiceStub(server.channel)

    def tail(self, **fields: object) -> "grpc.aio.UnaryStreamCall":
        return self.stub.TailAuditEvents(TailAuditEventsRequest(**fields))  # type: ignore[arg-type]


@asynccontextmanager
async def serving(folder: Path, size: int = SIZE, **sections: object) -> AsyncIterator[Served]:
    settings = ServerSettings(listen="127.0.0.1:0", **sections)  # type: ignore[arg-type]
    async with (
        written_log(folder / "audit.json.log", size) as log,
        running([in_memory(), WrittenLogHandler(log)], settings) as server,
    ):
        yield Served(server, log)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as served:
        yield served


async def failure(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_a_checkpoint_is_signed_and_says_what_it_covers(served: Served) -> None:
    """The note opens with the key beside it; size and root are its own."""
    response: GetCheckpointResponse = await served.stub.GetCheckpoint(GetCheckpointRequest())
    assert response.log_id == LOG_ID
    assert response.tree_size == SIZE
    text = open_note(response.checkpoint, [Verifier.from_vkey(vkey) for vkey in response.vkeys])
    assert text.split("\n")[:2] == [LOG_ID, str(SIZE)]
    named: GetCheckpointResponse = await served.stub.GetCheckpoint(GetCheckpointRequest(log_id=LOG_ID))
    assert named == response


async def test_inclusion_is_proved_by_index_and_by_event(served: Served) -> None:
    """Both lead from the line to the root of the checkpoint that comes along."""
    root = (await served.stub.GetCheckpoint(GetCheckpointRequest())).root_hash
    for request in (
        GetInclusionProofRequest(leaf_index=11),
        GetInclusionProofRequest(event_id="event-000011"),
        GetInclusionProofRequest(leaf_index=11, tree_size=SIZE),
    ):
        proof: GetInclusionProofResponse = await served.stub.GetInclusionProof(request)
        assert (proof.leaf_index, proof.line, proof.tree_size) == (11, make_line(11), SIZE)
        assert proof.checkpoint == served.log.log.notes[-1]
        assert proof.leaf_hash == leaf_hash(proof.line)
        assert root_of_inclusion(11, SIZE, proof.leaf_hash, proof.hashes) == root
    other = await served.stub.GetInclusionProof(GetInclusionProofRequest(leaf_index=0, tree_size=3))
    assert (other.tree_size, other.checkpoint, len(other.hashes)) == (3, b"", 2)


async def test_consistency_is_proved(served: Served) -> None:
    """A checkpoint that somebody kept is a beginning of the newest one."""
    kept: GetCheckpointResponse = await served.stub.GetCheckpoint(GetCheckpointRequest())
    served.log.grow(9)
    served.log.log.checkpoint()
    newest: GetCheckpointResponse = await served.stub.GetCheckpoint(GetCheckpointRequest())
    proof: GetConsistencyProofResponse = await served.stub.GetConsistencyProof(
        GetConsistencyProofRequest(old_size=kept.tree_size)
    )
    assert (proof.old_size, proof.new_size, proof.checkpoint) == (SIZE, SIZE + 9, newest.checkpoint)
    assert verify_consistency(SIZE, SIZE + 9, kept.root_hash, newest.root_hash, proof.hashes)


async def test_what_no_checkpoint_covers_is_unavailable_for_a_moment(tmp_path: Path) -> None:
    """Before the first checkpoint, and for a line that it does not cover yet: with RetryInfo of a second."""
    async with serving(tmp_path, 0) as served:
        served.log.grow(3)
        first = await failure(served.stub.GetCheckpoint(GetCheckpointRequest()))
        served.log.log.checkpoint()
        served.log.grow(1)
        for error in (
            first,
            await failure(served.stub.GetInclusionProof(GetInclusionProofRequest(leaf_index=3))),
            await failure(served.stub.GetInclusionProof(GetInclusionProofRequest(event_id="event-000003"))),
            await failure(served.stub.GetConsistencyProof(GetConsistencyProofRequest(new_size=4))),
        ):
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert retry_seconds(status_details(error)) == 1.0


async def test_what_there_is_not(served: Served) -> None:
    """A line beyond the log's end, an unknown event and an unknown log are NOT_FOUND, and say so."""
    for call, told in (
        (served.stub.GetInclusionProof(GetInclusionProofRequest(leaf_index=SIZE)), f"no line {SIZE}"),
        (served.stub.GetInclusionProof(GetInclusionProofRequest(event_id="x")), "no event 'x'"),
        (
            served.stub.GetCheckpoint(GetCheckpointRequest(log_id="other")),
            f"no audit log 'other' here, only '{LOG_ID}'",
        ),
        (served.stub.ListAuditEvents(ListAuditEventsRequest(log_id="other")), "no audit log 'other'"),
        (served.tail(from_index=SIZE + 1).read(), "none to begin with"),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert told in str(error.details())


async def test_bad_requests_name_the_field(served: Served) -> None:
    """INVALID_ARGUMENT with the field's path."""
    stub = served.stub
    for call, field in (
        (stub.GetInclusionProof(GetInclusionProofRequest()), "entry"),
        (stub.GetInclusionProof(GetInclusionProofRequest(event_id="")), "event_id"),
        (stub.GetInclusionProof(GetInclusionProofRequest(leaf_index=5, tree_size=5)), "tree_size"),
        (stub.GetConsistencyProof(GetConsistencyProofRequest(old_size=9, new_size=8)), "old_size"),
        (stub.GetConsistencyProof(GetConsistencyProofRequest(old_size=9, new_size=2**64 - 1)), "new_size"),
        (stub.ListAuditEvents(ListAuditEventsRequest(page_size=-1)), "page_size"),
        (stub.ListAuditEvents(ListAuditEventsRequest(page_token="nonsense")), "page_token"),
        (stub.ListAuditEvents(ListAuditEventsRequest(source_ip="somewhere")), "source_ip"),
        (served.tail(source_ip="somewhere").read(), "source_ip"),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(status_details(error)) == [field]


@pytest.mark.parametrize(
    "method", ["GetCheckpoint", "GetInclusionProof", "GetConsistencyProof", "ListAuditEvents"]
)
async def test_bytes_that_do_not_parse(served: Served, method: str) -> None:
    """INVALID_ARGUMENT, which grpc itself would not say."""
    call = served.server.channel.unary_unary(f"/emitd.v1.AuditService/{method}")
    error = await failure(call(b"\xff\xff\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "does not parse as emitd.v1." in str(error.details())
    tail = served.server.channel.unary_stream("/emitd.v1.AuditService/TailAuditEvents")
    assert (await failure(tail(b"\xff\xff\xff").read())).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_changed_log_is_data_loss(served: Served) -> None:
    """No proof is given of a line that was edited: DATA_LOSS, without RetryInfo."""
    path = served.log.log.path
    path.write_bytes(path.read_bytes().replace(b"event-000005", b"event-00000S"))
    error = await failure(served.stub.GetInclusionProof(GetInclusionProofRequest(leaf_index=5)))
    assert error.code() is grpc.StatusCode.DATA_LOSS
    assert status_details(error).code == code_pb2.DATA_LOSS
    assert retry_seconds(status_details(error)) is None


async def test_events_are_listed_with_filters_page_by_page(served: Served) -> None:
    """All filters at once, and the pages that they make."""
    request = ListAuditEventsRequest(
        received_after_unix_nano=TIME + 2_000_000,
        received_before_unix_nano=TIME + 38_000_000,
        event_name_prefix="user.login.",
        newest_first=True,
        page_size=10,
    )
    seen: list[int] = []
    while True:
        response: ListAuditEventsResponse = await served.stub.ListAuditEvents(request)
        assert response.log_id == LOG_ID
        assert len(response.entries) <= 10
        seen += [entry.leaf_index for entry in response.entries]
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert seen == [number for number in range(37, 1, -1) if number % 3 != 2]
    response = await served.stub.ListAuditEvents(ListAuditEventsRequest(event_id="event-000007"))
    (entry,) = response.entries
    assert (entry.line, entry.record.audit.event_id) == (make_line(7), "event-000007")
    response = await served.stub.ListAuditEvents(
        ListAuditEventsRequest(user_id="user-1", source_ip="192.0.2.8")
    )
    assert [entry.leaf_index for entry in response.entries] == [8]


async def test_a_search_is_cut_into_pages_by_the_setting(tmp_path: Path) -> None:
    """`server.audit.max_scan_bytes` bounds what is looked at for a page."""
    async with serving(tmp_path, audit=AuditSettings(max_scan_bytes=1)) as served:
        served.log.commit(
            [make_line(n).replace(b'{"n":', b'{"p":"' + b"x" * 60_000 + b'","n":') for n in range(80)]
        )
        response = await served.stub.ListAuditEvents(ListAuditEventsRequest(user_id="nobody"))
        assert not response.entries
        assert response.next_page_token


async def test_a_tail_streams_what_is_committed(served: Served) -> None:
    """The first message tells where it begins; then every line, once and in order."""
    call = served.tail(from_index=SIZE - 2, log_id=LOG_ID)
    first = await call.read()
    assert (first.log_id, first.heartbeat, first.next_index, len(first.entries)) == (
        LOG_ID,
        True,
        SIZE - 2,
        0,
    )
    second = await call.read()
    assert [entry.line for entry in second.entries] == served.log.log.lines[-2:]
    served.log.append([make_line(SIZE)])
    served.log.commit([make_line(SIZE + 1)])
    third = await call.read()
    assert [entry.leaf_index for entry in third.entries] == [SIZE, SIZE + 1]
    assert (third.heartbeat, third.next_index) == (False, SIZE + 2)
    call.cancel()


async def test_a_tail_from_now_on_with_a_filter(served: Served) -> None:
    """Without an index it begins with the next line."""
    call = served.tail(user_id="user-1")
    assert (await call.read()).next_index == SIZE
    served.log.grow(14)
    message = await call.read()
    assert [entry.record.audit.user_id for entry in message.entries] == ["user-1", "user-1"]
    assert message.next_index == SIZE + 14
    call.cancel()


async def test_an_idle_tail_beats(tmp_path: Path) -> None:
    """With the interval of watches."""
    async with serving(tmp_path, watch=WatchSettings(heartbeat_seconds=0.05)) as served:
        call = served.tail()
        for _ in range(3):
            message = await call.read()
            assert (message.heartbeat, message.next_index) == (True, SIZE)
        call.cancel()


async def test_too_many_tails(tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo, naming the setting; one that ends makes room."""
    async with serving(tmp_path, audit=AuditSettings(max_tails=1)) as served:
        call = served.tail()
        await call.read()
        error = await failure(served.tail().read())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "server.audit.max_tails" in str(error.details())
        assert retry_seconds(status_details(error)) == 5.0
        call.cancel()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert (await served.tail().read()).next_index == SIZE
                    return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)


async def test_tails_end_when_the_server_goes_down(served: Served) -> None:
    """UNAVAILABLE with RetryInfo, so that the reader comes back."""
    call = served.tail()
    await call.read()
    stopping = asyncio.create_task(served.server.server.stop())
    error = await failure(call.read())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert retry_seconds(status_details(error)) == 1.0
    await stopping


async def test_several_logs(tmp_path: Path) -> None:
    """Each is found by its name; without a name the request is refused, naming them."""
    async with (
        written_log(tmp_path / "a.log", 3, log_id="test/a") as a,
        written_log(tmp_path / "b.log", 5, log_id="test/b") as b,
        running([WrittenLogHandler(a, "a"), WrittenLogHandler(b, "b")]) as server,
    ):
        stub = AuditServiceStub(server.channel)
        for log_id, size in (("test/a", 3), ("test/b", 5)):
            response = await stub.GetCheckpoint(GetCheckpointRequest(log_id=log_id))
            assert (response.log_id, response.tree_size) == (log_id, size)
        error = await failure(stub.ListAuditEvents(ListAuditEventsRequest()))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad_fields(status_details(error)) == ["log_id"]
        assert "'test/a', 'test/b'" in str(error.details())


async def test_without_an_audit_log(tmp_path: Path) -> None:
    """UNIMPLEMENTED, and what to configure."""
    async with running([in_memory()]) as server:
        stub = AuditServiceStub(server.channel)
        for call in (
            stub.GetCheckpoint(GetCheckpointRequest()),
            stub.TailAuditEvents(TailAuditEventsRequest()).read(),
        ):
            error = await failure(call)
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "type: json_audit" in str(error.details())


async def test_an_event_from_its_emit_to_its_proof(tmp_path: Path) -> None:
    """What `json_audit` has acknowledged is tailed, listed, and soon proved, as its receipt says."""
    event = AuditEvent(event_name="user.login", user_id="u1", source_ip="192.0.2.1", details_json='{"n":1}')
    async with running(three_handlers(tmp_path)) as server:
        stub = AuditServiceStub(server.channel)
        tail = stub.TailAuditEvents(TailAuditEventsRequest())
        assert (await tail.read()).next_index == 0
        for _ in range(3):
            emitted = await server.stub.Emit(EmitRequest(record=LogRecord(audit=event, message="in")))
        receipt = emitted.receipt.audit
        tailed: list[AuditEntry] = []
        while len(tailed) < 3:
            tailed += (await tail.read()).entries
        tail.cancel()
        assert [entry.leaf_index for entry in tailed] == [0, 1, 2]
        (listed,) = (await stub.ListAuditEvents(ListAuditEventsRequest(event_id=receipt.event_id))).entries
        assert listed == tailed[2]
        assert (listed.record.audit.details_json, listed.record.message) == ('{"n":1}', "in")
        proof = await soon(
            lambda: stub.GetInclusionProof(GetInclusionProofRequest(event_id=receipt.event_id))
        )
        assert (proof.log_id, proof.leaf_index) == (receipt.log_id, receipt.leaf_index)
        assert proof.leaf_hash == receipt.leaf_hash == leaf_hash(proof.line)
        checkpoint: GetCheckpointResponse = await stub.GetCheckpoint(GetCheckpointRequest())
        open_note(checkpoint.checkpoint, [Verifier.from_vkey(vkey) for vkey in checkpoint.vkeys])
        root = root_of_inclusion(2, checkpoint.tree_size, proof.leaf_hash, proof.hashes)
        assert (proof.checkpoint, root) == (checkpoint.checkpoint, checkpoint.root_hash)


async def soon(call: Callable[[], Awaitable[GetInclusionProofResponse]]) -> GetInclusionProofResponse:
    """Ask again, as RetryInfo says, until there is an answer."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.05)


async def test_health_and_reflection_know_the_service(served: Served) -> None:
    """It is SERVING, listed and described."""
    name = "emitd.v1.AuditService"
    health = health_pb2_grpc.HealthStub(served.server.channel)
    reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(served.server.channel)
    call = reflection.ServerReflectionInfo(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
            ]
        )
    )
    services, described = [reply async for reply in call]
    assert name in [service.name for service in services.list_services_response.service]
    assert b"TailAuditEvents" in described.file_descriptor_response.file_descriptor_proto[0]


async def test_an_event_id_belongs_to_its_source(served: Served) -> None:
    """A proof by id needs the source if several have it, INVALID_ARGUMENT names them; a list shows all, or one's."""
    served.log.commit([make_line(7, source="b"), make_line(8, source="")])
    served.log.log.checkpoint()
    error = await failure(served.stub.GetInclusionProof(GetInclusionProofRequest(event_id="event-000007")))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "source: several sources have an event with this id, 'b', 'test': name one"
    assert bad_fields(status_details(error)) == ["source"]
    for number, source, index in ((7, "b", SIZE), (7, "test", 7), (8, "", SIZE + 1), (8, "test", 8)):
        request = GetInclusionProofRequest(event_id=f"event-{number:06}", source=source)
        assert (await served.stub.GetInclusionProof(request)).leaf_index == index
    error = await failure(
        served.stub.GetInclusionProof(GetInclusionProofRequest(event_id="event-000007", source="c"))
    )
    assert error.code() is grpc.StatusCode.NOT_FOUND
    for source, indexes in ((None, [7, SIZE]), ("b", [SIZE]), ("", [])):
        response = await served.stub.ListAuditEvents(
            ListAuditEventsRequest(event_id="event-000007", source=source)
        )
        assert [entry.leaf_index for entry in response.entries] == indexes
