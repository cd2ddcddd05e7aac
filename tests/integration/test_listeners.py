"""Several listeners at once: TLS and its rotation, health alone, sockets; started all or none, and stopped together."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd import AsyncLogClient
from emitd.v1 import LEVEL_INFO, EmitRequest, LogRecord, LogServiceStub, WatchJobsRequest
from emitd_handlers.scope import Caller
from emitd_handlers.testing import InMemoryHandler
from emitd_server.access import watched
from emitd_server.errors import ConfigError, StartError
from emitd_server.process import make_grpc_server
from emitd_server.rpc import listening, server
from emitd_server.rpc.edge import Edge
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.rpc.open_streams import OpenStreams
from emitd_server.service import LoggingService
from emitd_server.settings import (
    AccessSettings,
    GrantSettings,
    Identity,
    ListenEntry,
    Role,
    ServerSettings,
    ShutdownSettings,
    TlsSettings,
)
from support.access.authority import HOUR, Authority, TlsFiles, subject
from support.client.in_process import in_memory, three_handlers

AUTHORITY = Authority()
ANY = ("127.0.0.1:0",)
ACCESS = AccessSettings(
    grants=tuple(
        GrantSettings(to=("spiffe://test/client", "one", "two"), role=role)
        for role in (Role.WRITER, Role.WATCHER)
    )
)
REQUEST = EmitRequest(record=LogRecord(level=LEVEL_INFO, message="x"))


class Served:
    """A service with several listeners."""

    def __init__(self, service: LoggingService, grpc_server: Any, addresses: Sequence[str]) -> None:
        self.service = service
        self.server = grpc_server
        self.addresses = addresses


@asynccontextmanager
async def serving(*listen: ListenEntry | str, **more: Any) -> AsyncIterator[Served]:
    entries = tuple(ListenEntry(address=each) if isinstance(each, str) else each for each in listen)
    handlers = more.pop("handlers", None) or [in_memory()]
    more.setdefault("access", ACCESS)
    service = LoggingService(handlers, settings=ServerSettings(listen=entries, **more))
    await service.start()
    grpc_server = make_grpc_server(service)
    try:
        yield Served(service, grpc_server, await grpc_server.start())
    finally:
        await service.stop(await grpc_server.stop())


def entry(tls: TlsSettings, host: str = "127.0.0.1") -> ListenEntry:
    identity = Identity.NONE if tls.client_ca_file is None else Identity.CERTIFICATE
    return ListenEntry(address=f"{host}:0", tls=tls, identity=identity)


def channel(
    address: str,
    authority: bytes = AUTHORITY.pem,
    pair: tuple[bytes, bytes] | tuple[None, None] = (None, None),
) -> grpc.aio.Channel:
    cert, key = pair
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(authority, key, cert), options=options
    )


async def answer(made: grpc.aio.Channel) -> grpc.StatusCode:
    """The status of one call over a channel, which is closed."""
    async with made:
        try:
            await LogServiceStub(made).Emit(REQUEST, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def shown_by(address: str) -> str:
    """Whose certificate a new connection is shown."""
    host, _, port = address.rpartition(":")
    return subject(await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=10))


async def until_shown(address: str, name: str) -> None:
    async with asyncio.timeout(10):
        while await shown_by(address) != name:
            await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0.05)


async def test_every_port_of_a_name_takes_a_new_pair(tmp_path: Path) -> None:
    """And calls go on, over connections old and new."""
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue("old"))
    async with serving(entry(files.settings, "localhost")) as served:
        port = served.addresses[0].partition(":")[2]
        hosts = (
            ["127.0.0.1", "::1"] if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() else ["127.0.0.1"]
        )
        async with channel(f"localhost:{port}") as old:
            await LogServiceStub(old).Emit(REQUEST)
            for name in ("old", "new", "newer"):
                files.write(AUTHORITY.issue(name))
                for host in hosts:
                    await until_shown(f"{host}:{port}", name)
            await LogServiceStub(old).Emit(REQUEST)
        assert await answer(channel(f"localhost:{port}")) is grpc.StatusCode.OK


async def test_a_bad_pair_leaves_the_old_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line says why, and the next good pair is taken."""
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue("old"))
    async with serving(entry(files.settings)) as served:
        (address,) = served.addresses
        files.write(AUTHORITY.issue("late", end=-HOUR / 2))
        await asyncio.sleep(0.5)
        assert await shown_by(address) == "old"
        files.write(AUTHORITY.issue("new", end=HOUR))
        await until_shown(address, "new")
    lines = [line for line in capfd.readouterr().err.splitlines() if "127.0.0.1:0 (server.listen[0])" in line]
    assert "what was read before stays in use" in lines[0]
    assert "added certificate of " in lines[-1]


async def test_a_client_certificate_is_required(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of the authorities of that listener only; its neighbour asks for none, and plaintext reaches neither."""
    other = Authority()
    (tmp_path / "a").mkdir()
    mutual, plain = TlsFiles(tmp_path / "a", client_ca=AUTHORITY.pem), TlsFiles(tmp_path)
    for files in (mutual, plain):
        files.write(AUTHORITY.issue())
    async with serving(entry(mutual.settings), entry(plain.settings)) as served:
        first, second = served.addresses
        good, refused = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
        assert await answer(channel(first, pair=AUTHORITY.issue("client"))) is good
        assert await answer(channel(first)) is refused
        assert await answer(channel(first, pair=other.issue("client"))) is refused
        assert await answer(channel(first, pair=AUTHORITY.issue("client", end=-HOUR / 2))) is refused
        assert await answer(channel(second)) is good
        assert await answer(channel(second, other.pem)) is refused
        assert await answer(grpc.aio.insecure_channel(second)) is refused
        # The authorities change: new connections are checked against the new ones.
        mutual.put(mutual.ca, other.pem)
        async with asyncio.timeout(10):
            while await answer(channel(first, pair=other.issue("client"))) is not good:
                await asyncio.sleep(0.05)
        assert await answer(channel(first, pair=AUTHORITY.issue("client"))) is refused


async def test_a_connection_with_tls_ends_and_its_calls_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that those who were let in with an old certificate are checked again."""
    assert dict(listening.AGE_OPTIONS)["grpc.max_connection_age_ms"] == 30 * 60_000
    monkeypatch.setattr(
        listening,
        "AGE_OPTIONS",
        [("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 500)],
    )
    files = TlsFiles(tmp_path, client_ca=AUTHORITY.pem)
    files.write(AUTHORITY.issue())
    async with (
        serving(entry(files.settings), handlers=three_handlers(tmp_path)) as served,
        channel(served.addresses[0], pair=AUTHORITY.issue("client")) as made,
    ):
        stub = LogServiceStub(made)
        watch = stub.WatchJobs(WatchJobsRequest(job_type="t"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(10):
                async for _ in watch:
                    pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for _ in range(200):  # over several connections
            await stub.Emit(REQUEST)
            await asyncio.sleep(0.01)
        files.put(files.ca, Authority().pem)
        with pytest.raises(grpc.aio.AioRpcError):
            async with asyncio.timeout(10):
                while True:
                    await stub.Emit(REQUEST)
                    await asyncio.sleep(0.05)


async def test_streams_of_clients_go_on_over_the_end_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail over several connections has every line once. (Without TLS: it is the end of connections that counts.)"""
    ages = (("grpc.max_connection_age_ms", 400), ("grpc.max_connection_age_grace_ms", 200))
    monkeypatch.setattr(server, "OPTIONS", (*server.OPTIONS, *ages))
    outages: list[object] = []
    opened: list[bytes] = []
    tail_logs = LogServicer.tail_logs

    def counted(self: LogServicer, data: bytes, caller: Caller) -> AsyncGenerator[bytes, None]:
        opened.append(data)
        return tail_logs(self, data, caller)

    monkeypatch.setattr(LogServicer, "tail_logs", counted)
    async with serving(*ANY) as served, AsyncLogClient(served.addresses[0], source="t") as client:
        tail = client.tail_log_lines(last=0, on_outage=outages.append)
        came: list[str] = []

        async def read() -> None:
            async for message in tail:
                assert not message.missed_count
                came.extend(line.record.message for line in message.lines)
                if came and came[-1] == "59":
                    return

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.3)
        for number in range(60):
            client.info(str(number))
            await asyncio.sleep(0.05)
        await asyncio.wait_for(reader, 20)
    assert came == [str(number) for number in range(60)]
    assert len(opened) > 2
    assert outages == []  # the age of a connection is none


async def test_listeners_share_one_service(tmp_path: Path) -> None:
    """What one takes, the others show; each has its own edge for the calls that it serves."""
    memory = InMemoryHandler()
    given: list[Edge] = []
    make = LogServicer.handler

    def handler(self: LogServicer, edge: Edge, streams: OpenStreams) -> Any:
        given.append(edge)
        return make(self, edge, streams)

    sockets = [ListenEntry(address=f"unix:{tmp_path}/{name}.sock", principal=name) for name in ("one", "two")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogServicer, "handler", handler)
        async with serving("127.0.0.1:0", *sockets, handlers=[memory]) as served:
            assert served.addresses[1:] == [each.address for each in sockets]
            for address in served.addresses:
                assert await answer(grpc.aio.insecure_channel(address)) is grpc.StatusCode.OK
            assert len(await memory.wait_for(3)) == 3
            assert len({*given}) == 3
            assert len({edge.intake for edge in given}) == 1
            # A socket whose path is gone is a problem of the whole service.
            async with grpc.aio.insecure_channel(served.addresses[0]) as made:
                health = health_pb2_grpc.HealthStub(made)
                check = health_pb2.HealthCheckRequest()
                assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.SERVING
                (tmp_path / "two.sock").unlink()
                assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert list(tmp_path.iterdir()) == []


async def test_health_alone_is_served(tmp_path: Path) -> None:
    """Neither records nor the contract; the other listener has both."""
    health_only = ListenEntry(address="127.0.0.1:0", health_only=True)
    async with serving(health_only, *ANY) as served:
        assert [await methods(address) for address in served.addresses] == [
            {"Check": "OK", "Emit": "UNIMPLEMENTED", "Reflection": "UNIMPLEMENTED"},
            {"Check": "OK", "Emit": "OK", "Reflection": "OK"},
        ]
    async with serving(*ANY, reflection=False) as served:
        assert (await methods(served.addresses[0]))["Reflection"] == "UNIMPLEMENTED"


async def methods(address: str) -> dict[str, str]:
    """What a method of each service answers."""
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async with grpc.aio.insecure_channel(address) as made:
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        calls = {
            "Check": health_pb2_grpc.HealthStub(made).Check(health_pb2.HealthCheckRequest()),
            "Emit": LogServiceStub(made).Emit(REQUEST),
            "Reflection": reflection_pb2_grpc.ServerReflectionStub(made).ServerReflectionInfo(iter([ask])),
        }
        with suppress(grpc.aio.AioRpcError):
            async for _ in calls["Reflection"]:
                pass
        return {name: (await call.code()).name for name, call in calls.items()}


async def test_all_listeners_start_or_none(tmp_path: Path) -> None:
    """What was opened is closed, its socket removed, and nothing goes on looking at files."""
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue())
    with socket.socket() as free, socket.socket() as taken:
        for each in (free, taken):
            each.bind(("127.0.0.1", 0))
        taken.listen()
        port = free.getsockname()[1]
        free.close()
        first = ListenEntry(address=f"127.0.0.1:{port}", tls=files.settings)
        unix = ListenEntry(address=f"unix:{tmp_path}/s")
        last = ListenEntry(address=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(StartError, match=r"\(server.listen\[2\]\): the address is in use"):
            async with serving(first, unix, last):
                pass
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
    assert not (tmp_path / "s").exists()
    assert [task for task in asyncio.all_tasks() if "certificates" in task.get_name()] == []


async def test_bad_files_refuse_the_start(tmp_path: Path) -> None:
    """With the address, the path of the entry, and the reason."""
    expected = (
        rf"cannot listen on 127.0.0.1:0 \(server.listen\[1\]\): tls.cert_file '{tmp_path}/server.pem' cannot "
    )
    with pytest.raises(StartError, match=expected):
        async with serving(*ANY, entry(TlsFiles(tmp_path).settings)):
            pass


async def test_all_stop_within_one_deadline(tmp_path: Path) -> None:
    """Streams of every listener end, and a call that hangs at each takes the one deadline, not two."""
    shutdown = ShutdownSettings(drain_seconds=1.0)
    async with serving(
        "127.0.0.1:0", "127.0.0.1:0", handlers=three_handlers(tmp_path), shutdown=shutdown
    ) as served:
        channels = [grpc.aio.insecure_channel(address) for address in served.addresses]
        watches = [LogServiceStub(made).WatchJobs(WatchJobsRequest(job_type="t")) for made in channels]
        for watch in watches:
            await watch.read()
        hanging = [
            made.stream_unary("/emitd.v1.LogService/Emit")(_never()) for made in channels
        ]  # a request that never comes
        await asyncio.sleep(0.2)
        began = asyncio.get_running_loop().time()
        left = await served.server.stop()
        took = asyncio.get_running_loop().time() - began
        assert 0.9 < took < 1.9
        assert left == 0.0
        for watch in watches:
            assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        for call in hanging:
            assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        for made in channels:
            await made.close()


async def _never() -> AsyncIterator[bytes]:
    await asyncio.sleep(60)
    yield b""


@pytest.mark.parametrize(
    ("ips", "is_refused"), [(["127.0.0.1"], False), (["127.0.0.1", "192.0.2.1"], True), (["::"], True)]
)
async def test_a_name_is_judged_by_its_addresses(
    monkeypatch: pytest.MonkeyPatch, ips: list[str], is_refused: bool
) -> None:
    """When the service starts: beyond loopback without TLS and identity nothing is opened."""

    async def resolve(host: str, *_: object, **more: Any) -> list[Any]:
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in ip], 1, 6, "", (ip, 0, 0, 0) if ":" in ip else (ip, 0)) for ip in ips]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    if is_refused:
        with pytest.raises(ConfigError) as caught:
            async with serving("emitd.example:0"):
                pass
        (problem,) = caught.value.problems
        found = "'emitd.example:0' is beyond loopback and has no TLS and no identity"
        assert (problem.path, problem.found) == ("server.listen[0]", found)
    else:
        async with serving("emitd.example:0"):
            pass


async def test_an_insecure_listener_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    """At each start, with its address; one that needs no `insecure` is not."""
    for _ in range(2):
        async with serving(
            ListenEntry(address="0.0.0.0:0", insecure=True), ListenEntry(address="127.0.0.1:0", insecure=True)
        ):
            pass
        assert capfd.readouterr().err.splitlines() == [
            "emitd 0.0.0.0:0 (server.listen[0]) is beyond loopback and has no TLS and no identity: insecure, "
            "open to everyone who can reach it"
        ]
