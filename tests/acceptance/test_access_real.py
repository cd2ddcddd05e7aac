"""emitd's own clients, commands and examples at real servers that ask who calls; listeners of all kinds."""

import asyncio
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from emitd import LogClient, Unavailable
from emitd.async_client import AsyncLogClient
from emitd.logging import EmitdHandler
from emitd.v1 import LEVEL_INFO, EmitRequest, LogRecord, LogServiceStub
from emitd_cli.errors import ExitCode
from emitd_server.config.loader import load_config
from emitd_server.process import make_grpc_server
from emitd_server.service import LoggingService
from support.access.authority import HOUR, Authority
from support.access.real import config, events_of, grants_to, lines_of, new_token, put, start, tls
from support.client.sending import until
from support.processes.run_main import run_main
from support.processes.server_process import ServerProcess

pytestmark = pytest.mark.slow

ME = "spiffe://test/shop"
REQUEST = EmitRequest(record=LogRecord(level=LEVEL_INFO, message="x"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server and of clients: good ones, and others."""
    folder = tmp_path_factory.mktemp("real")
    good, other = Authority(name="good"), Authority(name="other")
    pairs = {
        "server": good.issue("server"),
        "old-server": good.issue("server", -2 * HOUR, -HOUR),
        "shop": good.issue("shop"),
        "guest": good.issue("guest"),
        "expired": good.issue("shop", -2 * HOUR, -HOUR),
        "foreign": other.issue("shop"),
    }
    for name, (certificate, key) in pairs.items():
        put(folder / f"{name}.pem", certificate)
        put(folder / f"{name}.key", key)
    put(folder / "ca.pem", good.pem)
    put(folder / "other-ca.pem", other.pem)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """One that knows its callers by their certificates; `guest` has no grant."""
    listen = {"address": "localhost:0", "tls": tls(".", wants_client=True), "identity": "certificate"}
    with start(config(listen, grants=grants_to(ME)), folder) as server:
        yield server
        server.terminate()
        assert server.wait() == 0
        # Peers that may not connect write nothing there.
        assert [line for line in server.stderr.splitlines() if not line.startswith("emitd ")] == []


def settings(folder: Path, name: str = "shop", ca: str = "ca") -> dict[str, Any]:
    own = {"cert_file": folder / f"{name}.pem", "key_file": folder / f"{name}.key"} if name else {}
    return {"ca_file": folder / f"{ca}.pem", **own}


def flags(settings: dict[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


class TestTheRightCertificate:
    def test_a_client(self, server: ServerProcess, folder: Path, tmp_path: Path) -> None:
        """All that it can do; the service says who sent the event."""
        with LogClient(server.address, source="one", spool=tmp_path, **settings(folder)) as client:
            client.info("a line", n=1)
            receipt = client.audit("one.create", user_id="u", details={"n": 1})
            assert receipt.state == "COMMITTED"
            with client.job("one-job", "copy") as job:
                job.progress(50)
            assert client.flush(10)
            assert client.get_job("one-job") is not None
            assert [event.record.audit.event_name for event in client.audit_events(event_name_prefix="one.")]
            assert [line.record.message for line in client.log_lines(sources=["one"])] == ["a line"]
            watched = [message.job.status for message in client.watch_job("one-job", after_revision=0)]
            assert watched
            assert client.checkpoint().tree_size > 0
        (event,) = [event for event in events_of(folder) if event["event_name"] == "one.create"]
        assert event["submitted_by"] == ME

    async def test_a_client_of_asyncio(self, server: ServerProcess, folder: Path, tmp_path: Path) -> None:
        """The same."""
        async with AsyncLogClient(server.address, source="two", spool=tmp_path, **settings(folder)) as client:
            client.info("a line")
            assert (await client.audit("two.create", user_id="u")).state == "COMMITTED"
            async with client.job("two-job", "copy"):
                pass
            assert await client.flush(10)
            assert await client.get_job("two-job") is not None
            assert [event async for event in client.audit_events(event_name_prefix="two.")]
            assert [line async for line in client.log_lines(sources=["two"])]
            assert [message async for message in client.watch_job("two-job")]

    def test_logging(self, server: ServerProcess, folder: Path, tmp_path: Path) -> None:
        """By Python's own."""
        handler = EmitdHandler(
            address=server.address, source="three", spool=str(tmp_path), **settings(folder)
        )
        logger = logging.Logger("shop")
        logger.addHandler(handler)
        logger.warning("by logging")
        handler.flush()
        until(lambda: "by logging" in (folder / "lines.log").read_text())
        handler.close()

    def test_every_command(self, server: ServerProcess, folder: Path, tmp_path: Path) -> None:
        """Each has what it asks for, and what it follows comes as it happens."""
        given = ["--address", server.address, *flags(settings(folder))]

        def good(*command: str) -> str:
            done = run_main(*command, *given)
            assert done.returncode == ExitCode.GOOD, (command, done)
            return done.stdout

        (tmp_path / "many").write_text("first of a file\nsecond of a file\n")
        good("emit", "hello", "--source", "cli")
        good("emit", "--file", str(tmp_path / "many"), "--source", "cli")
        with (
            following("log", "tail", "--last", "9", "--grep", "followed", *given) as tail_lines,
            following("audit", "tail", "--from", "0", "--event", "cli.", *given) as tail_events,
            following("job", "watch", "--type", "cli-job", "--json", *given) as watch,
        ):
            good("emit", "followed", "--source", "cli")
            good("emit", "--audit", "cli.create", "--user", "u", "--event-id", "cli-1")
            good("emit", "--job", "c1", "--type", "cli-job", "--status", "RUNNING")
            assert "followed" in tail_lines()
            assert "cli.create" in tail_events()
            assert "c1" in watch() + watch()  # one has the end of the jobs that were there
        assert "hello" in (listed := good("log", "list", "--source", "cli"))
        assert "second of a file" in listed
        assert "c1" in good("job", "list", "--type", "cli-job")
        assert "RUNNING" in good("job", "get", "c1")
        good("job", "cancel", "c1", "--reason", "enough")
        good("emit", "--job", "c1", "--status", "COMPLETED")
        good("job", "watch", "c1", "--timeout", "20")
        assert "COMPLETED" in good("job", "history", "c1")
        assert "cli.create" in good("audit", "list", "--event", "cli.")
        assert ME in good("audit", "show", "cli-1", "--json")


@contextmanager
def following(*command: str) -> Iterator[Callable[[], str]]:
    """A command that follows; the function returns its next line that is not a beginning."""
    process = subprocess.Popen(
        [sys.executable, "-m", "emitd_cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode in (0, 130, -signal.SIGINT), (out, err)


ENDED = "the server ended the connection at once: "
#: Which certificate a client shows and whom it trusts, and what it says.
TROUBLES = {
    "not trusted": ({"ca": "other-ca"}, "the server's certificate is not trusted"),
    "no certificate": ({"name": ""}, ENDED + "perhaps it asks for a client's certificate"),
    "another authority's": (
        {"name": "foreign"},
        ENDED + "perhaps it does not accept the client's certificate",
    ),
    "expired": ({"name": "expired"}, "the client's certificate has expired"),
}
#: Each with the role that it needs.
COMMANDS: Mapping[Sequence[str], str] = {
    ("emit", "x"): "writer",
    ("log", "list"): "watcher",
    ("job", "list"): "watcher",
    ("audit", "list"): "auditor",
}


def says(address: str, given: dict[str, Any], expected: str) -> None:
    """Each kind of client says why it cannot reach the server."""
    expected = f"cannot reach {re.escape(address)}: {expected}"
    with LogClient(address, spool="off", timeout=3.0, **given) as client:
        with pytest.raises(Unavailable, match=expected):
            client.audit("x.create", user_id="u")
        with pytest.raises(Unavailable, match=expected):
            client.get_job("j")

    async def ask() -> None:
        async with AsyncLogClient(address, spool="off", timeout=3.0, **given) as client:
            with pytest.raises(Unavailable, match=expected):
                await client.audit("x.create", user_id="u")

    asyncio.run(ask())
    for command in COMMANDS:
        done = run_main(*command, "--address", address, *flags(given))
        assert done.returncode == ExitCode.CANNOT_TELL, (command, done)
        assert re.match(f"emitd: {expected}", done.stderr), (command, done)


class TestTheWrongCertificate:
    @pytest.mark.parametrize(("given", "expected"), TROUBLES.values(), ids=TROUBLES)
    def test_the_cause_is_named(
        self, server: ServerProcess, folder: Path, given: dict[str, str], expected: str
    ) -> None:
        """By clients and by each group of commands."""
        says(server.address, settings(folder, **given), expected)

    def test_another_name_and_plain_text(self, server: ServerProcess, folder: Path, tmp_path: Path) -> None:
        """The certificate has no name `ip6-localhost`; TLS against plain text, and the reverse."""
        says(server.address, {}, f"{ENDED}perhaps it speaks TLS")
        port = server.address.rpartition(":")[2]
        says(f"[::1]:{port}", settings(folder), "the server's certificate does not have this name")
        with start(config("127.0.0.1:0"), tmp_path) as plain:
            says(plain.address, settings(folder), "the server does not speak TLS there")

    def test_a_server_that_has_expired(self, folder: Path, tmp_path: Path) -> None:
        """It does not start; one whose certificate ends while it serves is named by the clients."""
        soon = Authority(name="soon")
        put(tmp_path / "ca.pem", soon.pem)
        for name, data in zip(("pem", "key"), soon.issue("server", -HOUR, HOUR / 1200), strict=True):
            put(tmp_path / f"server.{name}", data)
        with start(config({"address": "127.0.0.1:0", "tls": tls(".")}), tmp_path) as server:
            time.sleep(3.5)
            says(server.address, {"ca_file": tmp_path / "ca.pem"}, "the server's certificate has expired")
            until(lambda: "has expired" in server.stderr)
        done = subprocess.run(
            [sys.executable, "-m", "emitd_cli", "serve", "--config", "emitd.yml"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "expired" in done.stderr) == (5, True), done.stderr

    def test_a_client_without_a_grant(self, server: ServerProcess, folder: Path) -> None:
        """Its certificate is good: the role that it lacks is named."""
        given = settings(folder, "guest")
        denied = pytest.raises(
            Unavailable, match=r"PERMISSION_DENIED: 'spiffe://test/guest' may not .* writer"
        )
        with LogClient(server.address, spool="off", timeout=1.0, **given) as client, denied:
            client.audit("x.create", user_id="u")
        for command, role in COMMANDS.items():
            done = run_main(*command, "--address", server.address, *flags(given))
            assert done.returncode in (ExitCode.BAD, ExitCode.CANNOT_TELL)
            assert re.match(f"emitd: .*PERMISSION_DENIED: .*{role}", done.stderr), done


class TestListeners:
    def test_several_in_one_server(self, folder: Path, tmp_path: Path) -> None:
        """Loopback asks nobody, the TLS listeners do, the socket names all; a probe gets health and nothing else."""
        (tmp_path / "tls").symlink_to(folder)
        put(tmp_path / "token", new_token(tmp_path, "till"))
        text = config(
            "127.0.0.1:0",
            {"address": "localhost:0", "tls": tls("tls", wants_client=True), "identity": "certificate"},
            {"address": "0.0.0.0:0", "tls": tls("tls"), "identity": "token"},
            {"address": "unix:emitd.sock", "principal": "programs-here"},
            {"address": "0.0.0.0:0", "health_only": True},
            grants=grants_to(ME, "till", "programs-here"),
            tokens_file="tokens.yml",
        )
        with start(text, tmp_path) as server:
            until(lambda: server.stderr.count("listening on") == 5)
            addresses = re.findall(r"emitd listening on (\S+)", server.stderr)
            plain, certificate, token, socket, probe = (
                re.sub(r"^0\.0\.0\.0:", "127.0.0.1:", address) for address in addresses
            )
            ways = {
                "plain": (plain, {}),
                "certificate": (certificate, settings(folder)),
                "token": (token, {"ca_file": folder / "ca.pem", "token_file": tmp_path / "token"}),
                "socket": (socket, {}),
            }
            for name, (address, given) in ways.items():
                with LogClient(address, source="shop", spool="off", timeout=5.0, **given) as client:
                    assert client.audit(f"{name}.create", user_id="u").state == "COMMITTED"
            missing = pytest.raises(
                Unavailable, match="UNAUTHENTICATED: the metadata 'authorization' is missing"
            )
            with LogClient(token, spool="off", timeout=1.0, ca_file=folder / "ca.pem") as client, missing:
                client.audit("x.create", user_id="u")
            with grpc.insecure_channel(probe) as channel:
                check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
                assert check.status == health_pb2.HealthCheckResponse.SERVING
                code = LogServiceStub(channel).Emit.future(REQUEST, timeout=10).code()
                assert code is grpc.StatusCode.UNIMPLEMENTED
            server.terminate()
            assert server.wait() == 0
        assert {event["event_name"]: event.get("submitted_by") for event in events_of(tmp_path)} == {
            "plain.create": None,
            "certificate.create": ME,
            "token.create": "till",
            "socket.create": "programs-here",
        }

    def test_the_environment_replaces_them(self, folder: Path, tmp_path: Path) -> None:
        """By one plain address; one beyond loopback is refused there too."""
        (tmp_path / "tls").symlink_to(folder)
        listen = {"address": "localhost:0", "tls": tls("tls", wants_client=True), "identity": "certificate"}
        (tmp_path / "emitd.yml").write_text(config(listen, "127.0.0.1:0", grants=grants_to(ME)))

        def launch(address: str) -> ServerProcess:
            environ = {"EMITD_LISTEN": address}
            return ServerProcess.launch(tmp_path, "--config", "emitd.yml", environ=environ)

        with launch("127.0.0.1:0") as server:
            server.wait_until_up()
            with LogClient(server.address, spool="off", timeout=5.0) as client:
                assert client.audit("x.create", user_id="u").state == "COMMITTED"
            server.terminate()
            assert server.wait() == 0
            assert server.stderr.count("listening on") == 1
        with launch("0.0.0.0:0") as server:
            assert server.wait() == 3
            assert "EMITD_LISTEN" in server.stderr
            assert "'0.0.0.0:0', which is beyond loopback and has no TLS and no identity" in server.stderr


async def test_a_client_in_the_service_s_process(folder: Path, tmp_path: Path) -> None:
    """Where the listener asks for tokens: as before, and nobody submitted its events."""
    (tmp_path / "tls").symlink_to(folder)
    token = new_token(tmp_path, "till")
    text = config(
        {"address": "localhost:0", "tls": tls("tls"), "identity": "token"},
        grants=grants_to("till"),
        tokens_file="tokens.yml",
    )
    (tmp_path / "emitd.yml").write_text(text)
    async with LoggingService.from_config(load_config(tmp_path / "emitd.yml", environ={})) as service:
        server = make_grpc_server(service)
        (address,) = await server.start()
        client = service.client("inside")
        client.info("a line")
        assert (await client.audit("inside.create", user_id="u")).state == "COMMITTED"
        async with client.job("j", "copy") as job:
            job.progress(10)
            await client.request_cancel("j")
        assert await client.get_job("j") is not None
        assert [event async for event in client.audit_events(event_name_prefix="inside.")]
        given = {"ca_file": folder / "ca.pem", "token": token}
        async with AsyncLogClient(address, source="outside", spool="off", **given) as other:
            assert (await other.audit("outside.create", user_id="u")).state == "COMMITTED"
        assert await client.flush(10)
        await server.stop()
    submitted = {event["event_name"]: event.get("submitted_by") for event in events_of(tmp_path)}
    assert submitted == {"inside.create": None, "outside.create": "till"}
    assert [line["message"] for line in lines_of(tmp_path)] == ["a line"]
