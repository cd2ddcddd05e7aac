"""`Transport`: the channel of one process, and its blocking calls."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd import v1
from emitd.credentials import Credentials
from emitd.transport.channel import NoChannel, make_channel, target_of
from emitd.transport.grpc_transport import MAX_REQUEST_BYTES, Transport, batch_request
from support.client.fake_log_service import accept, fail, fake_log_service
from support.client.names import Names

RECORD = v1.LogRecord(record_id="r1").SerializeToString()
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def made() -> Iterator[Callable[[str], Transport]]:
    """Make transports that are closed at the end."""
    transports: list[Transport] = []

    def make(address: str) -> Transport:
        transports.append(Transport(Credentials(address)))
        return transports[-1]

    yield make
    for transport in transports:
        transport.interrupt()


class Held:
    """Answers of a server that take until the test lets them go."""

    def __init__(self) -> None:
        self.begun, self.ended, self.leave = threading.Event(), threading.Event(), threading.Event()

    def batch(self, request: v1.EmitBatchRequest, context: grpc.ServicerContext) -> v1.EmitBatchResponse:
        context.add_callback(self.ended.set)
        self.begun.set()
        self.leave.wait(10)
        return accept(request, context)

    def watch(self, _: Any, context: grpc.ServicerContext) -> Iterator[v1.WatchJobResponse]:
        context.add_callback(self.ended.set)
        yield v1.WatchJobResponse(heartbeat=True)
        self.begun.set()
        self.leave.wait(10)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.leave.set()


def watching(transport: Transport) -> Iterator[v1.WatchJobResponse]:
    return transport.stream("WatchJob", v1.WatchJobRequest(job_id="j"), v1.WatchJobResponse)


def in_background(run: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    """Run in a thread, and note what it returned or raised."""
    results: list[Any] = []

    def main() -> None:
        try:
            results.append(run())
        except grpc.RpcError as error:
            results.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    return thread, results


class TestRequest:
    @given(
        st.lists(
            st.builds(
                v1.LogRecord,
                record_id=st.text(max_size=20),
                message=st.one_of(st.text(), st.sampled_from([200, 17_000]).map("x".__mul__)),
                time_unix_nano=st.integers(0, 2**64 - 1),
                trace_id=st.binary(max_size=16),
                audit=st.builds(v1.AuditEvent, details_json=st.text()),
            ),
            max_size=4,
        ),
        st.booleans(),
    )
    def test_protobuf_reads_what_is_put_together(self, records: list[v1.LogRecord], want: bool) -> None:
        """As the request that it would have written itself, byte by byte."""
        request = batch_request([record.SerializeToString() for record in records], want_receipts=want)
        expected = v1.EmitBatchRequest(records=records, want_receipts=want)
        assert v1.EmitBatchRequest.FromString(request) == expected
        assert request == expected.SerializeToString()

    @pytest.mark.parametrize("size", [0, 1, 2**7 - 1, 2**7, 2**14 - 1, 2**14, 2**21 - 1, 2**21])
    def test_a_length_of_any_size_can_be_read(self, size: int) -> None:
        """Where its form gets another byte too."""
        text = v1.LogRecord(message="x" * size)
        found = v1.EmitBatchRequest.FromString(batch_request([text.SerializeToString()], want_receipts=True))
        assert (found.records[0], found.want_receipts) == (text, True)


class TestTarget:
    @pytest.mark.parametrize(
        ("address", "target"),
        [
            ("logs:50051", "logs:50051"),
            (" logs:50051 ,", "logs:50051"),
            ("dns:///logs:50051", "dns:///logs:50051"),
            ("unix:/run/emitd.sock", "unix:/run/emitd.sock"),
            ("[::1]:5", "[::1]:5"),
            ("10.0.0.1:5,10.0.0.2:6", "ipv4:10.0.0.1:5,10.0.0.2:6"),
            ("10.0.0.1:5, 10.0.0.1:5", "ipv4:10.0.0.1:5"),
            ("[::1]:5,[fe80::1]:6", "ipv6:[::1]:5,[fe80::1]:6"),
            ("10.0.0.1:5,[::1]:6", "ipv6:[::ffff:10.0.0.1]:5,[::1]:6"),
            ("10.0.0.1:5,[::FFFF:a00:1]:5", "ipv4:10.0.0.1:5"),
            ("[::1%lo]:5,[::1]:6", "ipv6:[::1%25lo]:5,[::1]:6"),
            ("ipv4:10.0.0.1:5,10.0.0.2:6", "ipv4:10.0.0.1:5,10.0.0.2:6"),
            ("unix:///run/emitd.sock", "unix:/run/emitd.sock"),
            ("unix:run/emitd.sock", "unix:run/emitd.sock"),
        ],
    )
    def test_each_form_of_an_address_is_a_target(self, address: str, target: str) -> None:
        """One stands as it is; several become addresses of one kind."""
        assert target_of(address) == target

    def test_what_is_no_address_has_no_target(self) -> None:
        """A channel to it would only never connect."""
        with pytest.raises(ValueError, match=r"^'http://h:1' is a URL; "):
            make_channel(Credentials("http://h:1"))

    def test_names_among_several_are_looked_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All that a name stands for, of either kind, and each once."""
        names = Names(logs=["10.0.0.1", "10.0.0.2"], six=["2001:db8::1"])
        names.use_for_getaddrinfo(monkeypatch)
        assert target_of("logs:5,10.0.0.2:5,10.0.0.3:6") == "ipv4:10.0.0.1:5,10.0.0.2:5,10.0.0.3:6"
        assert target_of("six:5,10.0.0.3:6") == "ipv6:[2001:db8::1]:5,[::ffff:10.0.0.3]:6"
        assert target_of("nowhere:1,logs:5") == "ipv4:10.0.0.1:5,10.0.0.2:5"
        assert names.asked == ["logs", "six", "nowhere", "logs"]

    def test_names_that_are_not_known_are_worth_another_try(
        self, monkeypatch: pytest.MonkeyPatch, made: Callable[[str], Transport]
    ) -> None:
        """The network may be down: no call ends in an error that the client does not know."""
        Names().use_for_getaddrinfo(monkeypatch)
        transport = made("logs:5,others:5")
        transport.prepare()
        reply = transport.emit([RECORD], 1, want_receipts=False)
        ((why, _),) = reply.again.values()
        assert "address: 'logs' is not known: [Errno -2] Name or service not known" in why
        assert (reply.is_broken, reply.may_have_arrived) == (True, False)
        for ask in (
            lambda: transport.call("GetJob", v1.GetJobRequest(), v1.GetJobResponse, 1),
            lambda: next(watching(transport)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]

    def test_the_others_serve_meanwhile(
        self, monkeypatch: pytest.MonkeyPatch, made: Callable[[str], Transport]
    ) -> None:
        """A name that is not known, or known by IPv6 only, takes nothing from the other one."""
        Names(here=["127.0.0.1"], six=["100::1"]).use_for_getaddrinfo(monkeypatch)
        with fake_log_service(accept) as service:
            port = service.address.rpartition(":")[2]
            for other in ("nowhere:1", "six:1", "127.0.0.1:1"):
                transport = made(f"{other},here:{port}")
                assert not transport.emit([RECORD], 10, want_receipts=False).again

    def test_names_that_have_moved_are_looked_up_again(
        self, monkeypatch: pytest.MonkeyPatch, made: Callable[[str], Transport]
    ) -> None:
        """When a call finds no server: the next call goes where the name is now, for calls and for streams."""
        names = Names(a=["127.0.0.9"], b=["127.0.0.8"])
        names.use_for_getaddrinfo(monkeypatch)
        with fake_log_service(accept) as service:
            port = service.address.rpartition(":")[2]
            transport = made(f"a:{port},b:{port}")
            for name in ("a", "b"):
                reply = transport.emit([RECORD], 10, want_receipts=False)
                assert (reply.is_broken, reply.may_have_arrived) == (True, False)
                names[name] = ["127.0.0.1"]
                assert not transport.emit([RECORD], 10, want_receipts=False).again
                names[name] = ["127.0.0.9"]
                transport.interrupt()

    def test_addresses_that_cannot_move_keep_their_channel(self, made: Callable[[str], Transport]) -> None:
        """Grpc connects again by itself."""
        for address in (NOWHERE, f"{NOWHERE},127.0.0.9:1", "unix:/nowhere/s"):
            transport = made(address)
            channel = transport._open()
            assert transport.emit([RECORD], 10, want_receipts=False).is_broken
            assert transport._open() is channel

    def test_a_channel_that_was_left_ends_with_the_others(
        self, monkeypatch: pytest.MonkeyPatch, made: Callable[[str], Transport], held: Held
    ) -> None:
        """Calls that are under way on it go on; a fork ends them."""
        Names(a=["127.0.0.1"]).use_for_getaddrinfo(monkeypatch)
        unavailable = fail(grpc.StatusCode.UNAVAILABLE, "as of a connection that broke")
        with fake_log_service(held.batch, unavailable, accept) as service:
            transport = made(f"{service.address},a:1")
            thread, replies = in_background(lambda: transport.emit([RECORD], 60, want_receipts=False))
            assert held.begun.wait(10)
            left = transport._open()
            assert transport.emit([RECORD], 10, want_receipts=False).is_broken
            assert transport._open() is not left
            del left
            assert not transport.emit([RECORD], 10, want_receipts=False).again
            assert not held.ended.is_set()
            transport.interrupt()
            thread.join(10)
            assert [set(reply.again) for reply in replies] == [{0}]
            held.leave.set()

    def test_one_name_is_looked_up_by_grpc_and_again_too(self, made: Callable[[str], Transport]) -> None:
        """One that is not known yet, and one that moves."""
        names = Names()
        with names.served() as name_server, fake_log_service(accept) as service:
            transport = made(f"dns://{name_server}/logs.test:{service.address.rpartition(':')[2]}")
            reply = transport.emit([RECORD], 10, want_receipts=False)
            assert (reply.is_broken, reply.may_have_arrived) == (True, False)
            names["logs.test"] = ["127.0.0.9"]
            until_sent_to(transport, "127.0.0.9")
            names["logs.test"] = ["127.0.0.1"]
            until_sent_to(transport, "")

    def test_no_proxy_is_used(
        self, monkeypatch: pytest.MonkeyPatch, made: Callable[[str], Transport]
    ) -> None:
        """Those of the environment are for the web: they do not know this machine's ports."""
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, "http://user:secret@127.0.0.1:1")
            monkeypatch.setenv(name.upper(), "http://user:secret@127.0.0.1:1")
        with fake_log_service(accept) as service:
            port = service.address.rpartition(":")[2]
            for address in (service.address, f"localhost:{port}", f"127.0.0.1:{port},localhost:{port}"):
                assert not made(address).emit([RECORD], 10, want_receipts=False).again
        assert "127.0.0.9" in made("127.0.0.9:1").emit([RECORD], 10, want_receipts=False).again[0][0]


def until_sent_to(transport: Transport, ip: str) -> None:
    """Send until the failure names an address; empty: until there is none."""
    deadline = time.monotonic() + 30
    while True:
        reply = transport.emit([RECORD], 10, want_receipts=False)
        if (not reply.again and not ip) or (reply.again and ip and ip in reply.again[0][0]):
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


class TestCalls:
    def test_records_arrive_as_they_are(self, made: Callable[[str], Transport]) -> None:
        """In one request; receipts come only where they are wanted."""
        with fake_log_service(accept) as service:
            transport = made(service.address)
            for want in (True, False):
                reply = transport.emit([RECORD, RECORD], 10, want_receipts=want)
                assert [receipt.record_id for receipt in reply.receipts] == ["r1", "r1"] * want
                assert (reply.again, reply.rejected) == ({}, {})
        assert [[each.record_id for each in request.records] for request in service.requests] == [
            ["r1"] * 2
        ] * 2

    def test_all_calls_share_a_channel(self, made: Callable[[str], Transport]) -> None:
        """It is made once, with the first call or before."""
        with fake_log_service(accept) as service:
            transport = made(service.address)
            transport.prepare()
            opened = transport._channel
            transport.emit([RECORD], 10, want_receipts=False)
            transport.call("EmitBatch", v1.EmitBatchRequest(), v1.EmitBatchResponse, 10)
            assert transport._channel is opened is not None

    def test_a_server_that_is_not_there_is_a_reply_too(self, made: Callable[[str], Transport]) -> None:
        """Emitting never raises."""
        reply = made(NOWHERE).emit([RECORD, RECORD], 10, want_receipts=False)
        assert (set(reply.again), reply.is_broken, reply.may_have_arrived) == ({0, 1}, True, False)

    def test_a_call_that_takes_too_long_is_worth_another_try(
        self, made: Callable[[str], Transport], held: Held
    ) -> None:
        """After the time it was given; the server may have the records."""
        with fake_log_service(held.batch) as service:
            begun = time.monotonic()
            reply = made(service.address).emit([RECORD], 0.1, want_receipts=False)
            assert 0.1 <= time.monotonic() - begun < 5
            assert (set(reply.again), reply.may_have_arrived) == ({0}, True)
            held.leave.set()

    def test_a_call_that_never_had_a_connection_has_not_arrived(
        self, made: Callable[[str], Transport]
    ) -> None:
        """Whether its time was up or it was interrupted, by a server that takes connections and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport = made(f"127.0.0.1:{listener.getsockname()[1]}")
            reply = transport.emit([RECORD], 0.1, want_receipts=False)
            assert ("Deadline Exceeded" in reply.again[0][0], reply.may_have_arrived) == (True, False)
            thread, replies = in_background(lambda: transport.emit([RECORD], 60, want_receipts=False))
            while not replies:
                transport.interrupt()
                thread.join(0.05)
            assert [(set(reply.again), reply.may_have_arrived) for reply in replies] == [({0}, False)]

    def test_a_call_whose_server_stops_under_it_may_have_arrived(
        self, made: Callable[[str], Transport], held: Held
    ) -> None:
        """Although by its end the channel looks for another connection."""
        with fake_log_service(accept, held.batch) as service:
            transport = made(service.address)
            transport.emit([RECORD], 10, want_receipts=False)
            thread, replies = in_background(lambda: transport.emit([RECORD], 1, want_receipts=False))
            assert held.begun.wait(10)
            stopped = service.stop(5)
            thread.join(10)
            assert [(set(reply.again), reply.may_have_arrived) for reply in replies] == [({0}, True)]
            assert "Deadline Exceeded" in replies[0].again[0][0]
            assert not transport._is_connected()
            held.leave.set()
            stopped.wait()

    def test_a_question_brings_its_answer(self, made: Callable[[str], Transport]) -> None:
        """Of any size that the client is ready for, which is more than grpc's own 4 MiB."""
        job = v1.Job(job_id="j", details_json="x" * 5_000_000)
        with fake_log_service(lambda *_: v1.GetJobResponse(job=job)) as service:
            answer = made(service.address).call("GetJob", v1.GetJobRequest(job_id="j"), v1.GetJobResponse, 10)
        assert answer.job == job
        assert service.requests == [v1.GetJobRequest(job_id="j")]

    def test_a_question_that_fails_raises_grpc_s_status(self, made: Callable[[str], Transport]) -> None:
        """With its text and its trailers, for `emitd.transport.reply` to read."""
        no_job = fail(grpc.StatusCode.NOT_FOUND, "no job", retry_seconds=2)
        with fake_log_service(no_job) as service, pytest.raises(grpc.RpcError) as caught:
            made(service.address).call("GetJob", v1.GetJobRequest(), v1.GetJobResponse, 10)
        error: Any = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no job")
        assert [key for key, _ in error.trailing_metadata()] == ["grpc-status-details-bin"]

    def test_several_servers_are_used_in_turn(self, made: Callable[[str], Transport]) -> None:
        """So that each gets its share, and one that dies is no end."""
        with fake_log_service(accept) as one, fake_log_service(accept) as other:
            transport = made(f"{one.address},{other.address}")
            deadline = time.monotonic() + 10
            while not (one.requests and other.requests):
                assert time.monotonic() < deadline
                transport.emit([RECORD], 10, want_receipts=False)

    def test_a_server_that_comes_back_is_found_soon(self, made: Callable[[str], Transport]) -> None:
        """The pauses of grpc itself would grow to minutes."""
        with fake_log_service(accept) as service:
            transport = made(service.address)
            transport.emit([RECORD], 10, want_receipts=False)
        port = int(service.address.split(":")[1])
        for _ in range(5):
            assert transport.emit([RECORD], 1, want_receipts=False).again
            time.sleep(0.05)
        with fake_log_service(accept, port=port):
            begun = time.monotonic()
            while transport.emit([RECORD], 1, want_receipts=False).again:
                assert time.monotonic() - begun < 10
                time.sleep(0.01)
            assert time.monotonic() - begun < 5


class TestSize:
    """A request is at most as large as a service takes."""

    def test_a_batch_that_is_too_large_is_to_be_divided_and_is_not_sent(
        self, made: Callable[[str], Transport]
    ) -> None:
        """With its framing; one record alone is sent, for the service to say what is wrong with it."""
        record = v1.LogRecord(message="x" * (MAX_REQUEST_BYTES // 4 - 20)).SerializeToString()
        with fake_log_service(accept) as service:
            transport = made(service.address)
            assert transport.emit([record] * 5, 10, want_receipts=True).divide is not None
            assert service.requests == []
            assert transport.emit([record] * 3, 10, want_receipts=True).divide is None
            assert len(batch_request([record] * 3, want_receipts=True)) < MAX_REQUEST_BYTES


class TestInterruption:
    def test_it_ends_a_call_under_way(self, made: Callable[[str], Transport], held: Held) -> None:
        """Whose records are worth another try, by a new channel."""
        with fake_log_service(held.batch) as service:
            transport = made(service.address)
            thread, replies = in_background(lambda: transport.emit([RECORD], 60, want_receipts=False))
            assert held.begun.wait(10)
            transport.interrupt()
            thread.join(10)
            assert [(set(reply.again), reply.may_have_arrived) for reply in replies] == [({0}, True)]
            held.leave.set()
            assert not transport.emit([RECORD], 10, want_receipts=False).again

    def test_it_ends_a_question_and_a_stream(self, made: Callable[[str], Transport], held: Held) -> None:
        """With CANCELLED, which can be tried again."""
        with fake_log_service(held.watch, held.batch) as service:
            transport = made(service.address)
            stream = watching(transport)
            next(stream)
            thread, results = in_background(lambda: next(stream))
            assert held.begun.wait(10)
            held.begun.clear()
            asking, answers = in_background(
                lambda: transport.call("GetJob", v1.GetJobRequest(), v1.GetJobResponse, 60)
            )
            assert held.begun.wait(10)
            transport.interrupt()
            thread.join(10)
            asking.join(10)
            assert [error.code() for error in (*results, *answers)] == [grpc.StatusCode.CANCELLED] * 2
            held.leave.set()

    def test_without_a_call_there_is_nothing_to_interrupt(self, made: Callable[[str], Transport]) -> None:
        """Nor twice."""
        transport = made(NOWHERE)
        transport.interrupt()
        transport.prepare()
        transport.interrupt()
        transport.interrupt()

    def test_a_channel_that_is_closed_under_a_call_is_worth_another_try(
        self, made: Callable[[str], Transport], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By another thread, between its being taken and its use: grpc has a ValueError for that."""
        transport = made(NOWHERE)
        closed = transport._open()
        transport.interrupt()
        monkeypatch.setattr(transport, "_channel", closed)
        reply = transport.emit([RECORD], 1, want_receipts=False)
        assert (set(reply.again), reply.is_broken, reply.may_have_arrived) == ({0}, True, False)
        for ask in (
            lambda: transport.call("GetJob", v1.GetJobRequest(), v1.GetJobResponse, 1),
            lambda: next(watching(transport)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


class TestStreams:
    def test_a_stream_brings_its_messages_and_ends(self, made: Callable[[str], Transport]) -> None:
        """As the server ends it."""
        messages = [v1.WatchJobResponse(job=v1.Job(revision=number)) for number in range(3)]
        with fake_log_service(lambda *_: messages) as service:
            transport = made(service.address)
            assert list(watching(transport)) == messages
            assert transport._stream_channels == set()

    def test_a_stream_that_fails_raises_grpc_s_status(self, made: Callable[[str], Transport]) -> None:
        """After what came before."""

        def watch(request: Any, context: grpc.ServicerContext) -> Iterator[v1.WatchJobResponse]:
            yield v1.WatchJobResponse(heartbeat=True)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")

        with fake_log_service(watch) as service:
            transport = made(service.address)
            stream = watching(transport)
            assert next(stream).heartbeat
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.details() == "the server stops"  # type: ignore[attr-defined]
            assert transport._stream_channels == set()

    def test_cancelling_ends_all_streams(self, made: Callable[[str], Transport], held: Held) -> None:
        """Who reads gets CANCELLED; other calls go on, and so do later streams."""
        with fake_log_service(held.watch, held.watch, accept) as service:
            transport = made(service.address)
            streams = [watching(transport), watching(transport)]
            for stream in streams:
                next(stream)
            reading = [in_background(lambda stream=stream: next(stream)) for stream in streams]  # type: ignore[misc]
            until_inside(transport, 2)
            transport.cancel_streams()
            for thread, results in reading:
                thread.join(10)
                assert [error.code() for error in results] == [grpc.StatusCode.CANCELLED]
            assert not transport.emit([RECORD], 10, want_receipts=False).again
            held.leave.set()

    def test_leaving_a_stream_ends_it_at_the_server(
        self, made: Callable[[str], Transport], held: Held
    ) -> None:
        """Nobody reads it any more."""
        with fake_log_service(held.watch) as service:
            transport = made(service.address)
            stream: Any = watching(transport)
            next(stream)
            assert not held.ended.is_set()
            stream.close()
            assert held.ended.wait(10)
            assert transport._stream_channels == set()
            held.leave.set()


def until_inside(transport: Transport, count: int) -> None:
    deadline = time.monotonic() + 10
    while transport.fork_guard._inside != count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestGate:
    def test_every_call_stands_within_it(self, made: Callable[[str], Transport], held: Held) -> None:
        """So that a fork can wait for the end of all of them; between its messages a stream is outside."""
        with fake_log_service(held.batch, held.watch) as service:
            transport = made(service.address)
            thread, _ = in_background(lambda: transport.emit([RECORD], 60, want_receipts=False))
            assert held.begun.wait(10)
            assert transport.fork_guard._inside == 1
            held.leave.set()
            thread.join(10)
            assert transport.fork_guard._inside == 0
            stream = watching(transport)
            next(stream)
            assert transport.fork_guard._inside == 0
            assert list(stream) == []

    @pytest.mark.parametrize("kind", ["emit", "call", "stream"])
    def test_a_shut_gate_holds_every_call(self, made: Callable[[str], Transport], kind: str) -> None:
        """Until it is opened: a fork is under way."""
        answers: dict[str, Any] = {
            "emit": accept,
            "call": lambda *_: v1.GetJobResponse(),
            "stream": lambda *_: [v1.WatchJobResponse()],
        }
        with fake_log_service(answers[kind]) as service:
            transport = made(service.address)
            runs: dict[str, Callable[[], object]] = {
                "emit": lambda: transport.emit([RECORD], 10, want_receipts=False),
                "call": lambda: transport.call("GetJob", v1.GetJobRequest(), v1.GetJobResponse, 10),
                "stream": lambda: list(watching(transport)),
            }
            transport.fork_guard.shut()
            thread, results = in_background(runs[kind])
            thread.join(0.1)
            assert (results, service.requests) == ([], [])
            transport.fork_guard.open()
            thread.join(10)
            assert len(results) == len(service.requests) == 1
            assert not isinstance(results[0], Exception)


def test_a_call_without_a_channel_explains_itself() -> None:
    """In the form of grpc's own errors, which is all that callers know."""
    error = NoChannel("the reason")
    assert (error.code(), error.trailing_metadata()) == (grpc.StatusCode.UNAVAILABLE, ())
    assert error.details().endswith("the reason")
    assert isinstance(error, grpc.RpcError)
