"""Tokens, keys and certificates of a real server change under load: no record is lost, doubled, or put aside."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd import LogClient, Unavailable
from emitd.receipt import ReceiptState
from emitd.spool import manager as spool_manager
from emitd.v1 import LEVEL_INFO, EmitRequest, LogRecord, LogServiceStub
from emitd.watches import Watch
from support.access.authority import Authority
from support.access.jwt_issuer import AUDIENCE, ISSUER, KeysFile, jwk, jwks, sign
from support.access.keys_server import KeysServer, serving_keys
from support.access.real import Load, config, events_of, grants_to, new_token, put, start, tls
from support.client.sending import until
from support.processes.run_main import run_main
from support.processes.server_process import ServerProcess
from support.soak.server import free_port

pytestmark = pytest.mark.slow

#: Connections end after a second and a half, where a test wants that.
SHORT_AGE = {
    "emitd_server__rpc__listening__AGE_OPTIONS": (
        "(('grpc.max_connection_age_ms', 1500), ('grpc.max_connection_age_grace_ms', 1000))"
    )
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With certificates, and a token of `shop`."""
    assert run_main("tls", "dev", str(tmp_path / "certs")).returncode == 0
    put(tmp_path / "token", new_token(tmp_path, "shop"))
    return tmp_path


def with_tokens(port: int = 0, **limits: Any) -> str:
    listen = {"address": f"localhost:{port}", "tls": tls(), "identity": "token"}
    return config(listen, grants=grants_to("shop", **limits), tokens_file="tokens.yml")


def client_settings(folder: Path) -> dict[str, Any]:
    return {"ca_file": folder / "certs/ca.pem", "token_file": folder / "token"}


def end(server: ServerProcess) -> None:
    server.terminate()
    assert server.wait() == 0


def revoke(folder: Path, token: str) -> None:
    (digest,) = re.findall(
        r"\b[0-9a-f]{12,16}\b", run_main("token", "list", str(folder / "tokens.yml")).stdout
    )[:1]
    assert hashlib.sha256(token.encode()).hexdigest().startswith(digest)
    assert run_main("token", "revoke", digest, str(folder / "tokens.yml")).returncode == 0


class TestTokens:
    def test_a_token_is_renewed(self, folder: Path) -> None:
        """The next one is made and given, then the last is revoked: nobody notices."""
        with (
            start(with_tokens(), folder) as server,
            Load(server.address, folder, **client_settings(folder)) as load,
        ):
            for _ in range(3):
                old = (folder / "token").read_text()
                new = new_token(folder, "shop")
                load.during(2.2)  # the service has it
                put(folder / "token", new)
                load.during(1.2)  # and so has the client
                revoke(folder, old)
                load.during(1.2)
            load.settle()
            assert set(load.events) == {ReceiptState.COMMITTED}
            end(server)
        load.check(folder)
        assert {event["submitted_by"] for event in events_of(folder)} == {"shop"}

    def test_a_token_is_revoked(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Lines wait, events are spooled, and a new token brings all of them."""
        with (
            start(with_tokens(), folder) as server,
            Load(server.address, folder, timeout=0.3, **client_settings(folder)) as load,
        ):
            load.wait(lambda: ReceiptState.COMMITTED in load.events)
            token = (folder / "token").read_text()
            revoke(folder, token)
            load.wait(lambda: load.events.count(ReceiptState.SPOOLED) > 5)
            assert load.client.stats()["spool_rejected"] == 0
            with (
                LogClient(server.address, spool="off", timeout=0.5, **client_settings(folder)) as other,
                pytest.raises(Unavailable, match="UNAUTHENTICATED"),
            ):
                other.audit("order.create", user_id="u")
            put(folder / "token", new_token(folder, "shop"))
            load.wait(lambda: load.events[-3:] == [ReceiptState.COMMITTED] * 3)
            load.settle()
            end(server)
            assert token not in server.stderr + capfd.readouterr().err
        load.check(folder)

    def test_a_grant_that_is_missing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Denied events wait in the spool, the others pass them; they go when the service was given the grant."""
        monkeypatch.setattr(spool_manager, "DENIED_SECONDS", 1.0)
        port = free_port()
        settings = {**client_settings(folder), "spool": folder / "spool", "backoff_max": 0.2, "timeout": 0.2}
        for source in ("shop", "till"):  # while the server is down
            with LogClient(f"localhost:{port}", source=source, close_timeout=0.0, **settings) as client:
                for number in range(40):
                    name = "stock.count" if number % 2 else "order.create"
                    record = client.audit(name, user_id="u", details={"n": number}, timeout=0.001)
                    assert record.state is ReceiptState.SPOOLED
        client = LogClient(f"localhost:{port}", source="shop", **settings)
        client.info("up again")
        try:
            with start(with_tokens(port, sources=["shop"], event_names=["order.*"]), folder) as server:
                until(lambda: client.stats()["replayed"] == 20, 20)
                time.sleep(2.5)  # they are tried again
                stats = client.stats()
                assert (stats["spool_records"], stats["spool_rejected"]) == (60, 0)
                assert client.audit("order.create", user_id="u", details={"n": 100}, timeout=5.0).state == (
                    "COMMITTED"
                )
                assert client.audit("stock.count", user_id="u", details={"n": 101}).state == "SPOOLED"
                end(server)
            assert {(each["source"], each["event_name"]) for each in events_of(folder)} == {
                ("shop", "order.create")
            }
            with start(with_tokens(port, sources=["shop"]), folder) as server:
                until(lambda: client.stats()["spool_records"] == 40, 20)
                end(server)
            with start(with_tokens(port), folder) as server:
                until(lambda: client.stats()["spool_records"] == 0, 20)
                assert client.stats()["spool_rejected"] == 0
                end(server)
        finally:
            client.close()
        found = [(each["source"], each["details"]["n"]) for each in events_of(folder)]
        expected = [(source, n) for source in ("shop", "till") for n in range(40)]
        assert sorted(found) == sorted([*expected, ("shop", 100), ("shop", 101)])

    def test_the_server_is_killed(self, folder: Path) -> None:
        """And comes back, again and again: each event is there once, also those of the spool."""
        port = free_port()
        with Load(f"localhost:{port}", folder, timeout=0.3, **client_settings(folder)) as load:
            for _ in range(3):
                with start(with_tokens(port), folder) as server:
                    seen = len(load.events)
                    load.wait(lambda seen=seen: ReceiptState.COMMITTED in load.events[seen:])
                    load.during(0.3)
                    server.kill()
                    seen = len(load.events)
                    load.wait(lambda seen=seen: ReceiptState.SPOOLED in load.events[seen:])
            with start(with_tokens(port), folder) as server:
                load.settle()
                assert load.client.stats()["replayed"] > 0
                end(server)
        found = sorted(event["details"]["n"] for event in events_of(folder))
        assert found == [*range(len(load.events))]
        assert {event["submitted_by"] for event in events_of(folder)} == {"shop"}


class Streams:
    """A watch and two tails of a client, each in a thread; what they brought."""

    def __init__(self, client: LogClient) -> None:
        self.seen: dict[str, list[int]] = {"events": [], "lines": [], "jobs": []}
        self.outages: list[object] = []
        self.failures: list[BaseException] = []
        self._client = client
        for read in (self._events, self._lines, self._jobs):
            threading.Thread(target=self._read, args=(read,), daemon=True).start()

    def wait_for(self, load: Load) -> None:
        """All of the load came, once."""
        until(lambda: len(self.seen["events"]) >= len(load.events), 20)
        until(lambda: len(self.seen["lines"]) >= load.lines, 20)
        assert self.failures == []
        assert self.seen["events"] == [*range(len(load.events))]
        assert sorted(self.seen["lines"]) == [*range(load.lines)]  # two batches are under way at once

    def _read(self, read: Callable[[], None]) -> None:
        try:
            read()
        except BaseException as error:
            self.failures.append(error)

    def _events(self) -> None:
        for message in self._client.tail_audit_events(
            from_index=0, event_name_prefix="order.", on_outage=self.outages.append
        ):
            self.seen["events"] += [json.loads(entry.line)["details"]["n"] for entry in message.entries]

    def _lines(self) -> None:
        for message in self._client.tail_log_lines(last=1000, on_outage=self.outages.append):
            assert not message.missed_count
            self.seen["lines"] += [json.loads(line.record.attributes_json)["n"] for line in message.lines]

    def _jobs(self) -> None:
        for message in self._client.watch_job(
            "j", after_revision=0, follow=True, wait_for_creation=True, on_outage=self.outages.append
        ):
            self.seen["jobs"] += [int(transition.progress) for transition in message.transitions]


class TestCertificates:
    def test_a_connection_s_age_ends_no_stream(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Clients and commands open them again where they were, which is no outage, and send on."""
        ends: list[str] = []
        pause_after = Watch.pause_after

        def note(self: Watch[Any], error: Any) -> float:
            ends.append(type(self).__name__)
            return pause_after(self, error)

        monkeypatch.setattr(Watch, "pause_after", note)
        with (
            start(with_tokens(), folder, **SHORT_AGE) as server,
            Load(server.address, folder, **client_settings(folder)) as load,
        ):
            streams = Streams(load.client)
            flags = [f"--{name.replace('_', '-')}={path}" for name, path in client_settings(folder).items()]
            tail = ["audit", "tail", "--from=0", "--event=order.", "--json", f"--address={server.address}"]
            command = (sys.executable, "-m", "emitd_cli", *tail, *flags)
            with (folder / "printed").open("w") as out, (folder / "said").open("w") as err:
                tailing = subprocess.Popen(command, stdout=out, stderr=err)
            with load.client.job("j", "copy", total=100) as job:
                for percent in range(1, 40):
                    job.progress(percent)
                    load.during(0.2)
            load.settle()
            streams.wait_for(load)
            until(lambda: 100 in streams.seen["jobs"], 20)
            assert {*ends} == {"AuditTail", "LogTail", "JobWatch"}
            assert streams.outages == []
            assert set(load.events) == {ReceiptState.COMMITTED}
            until(lambda: (folder / "printed").read_text().count("\n") >= len(load.events), 20)
            tailing.send_signal(signal.SIGINT)
            tailing.wait(30)
            printed = [json.loads(line) for line in (folder / "printed").read_text().splitlines()]
            assert [line["details"]["n"] for line in printed] == streams.seen["events"]
            assert (folder / "said").read_text() == ""
            end(server)
        load.check(folder)

    def test_both_certificates_and_their_authority_change(self, folder: Path) -> None:
        """Those of the server by a link, as Kubernetes swaps it, those of the client by renaming, under load.

        In the order of a real change: all trust both authorities, then the certificates, then the old one goes. A
        client that kept the old certificate is then refused, with the reason.
        """
        old, new = Authority(name="old"), Authority(name="new")
        both = old.pem + new.pem
        mine = folder / "client"
        mine.mkdir()

        def swap(version: str, trusted: bytes, pair: tuple[bytes, bytes]) -> None:
            (folder / version).mkdir()
            for name, data in zip(("ca.pem", "server.pem", "server.key"), (trusted, *pair), strict=True):
                put(folder / version / name, data)
            (folder / "next").symlink_to(version)
            os.replace(folder / "next", folder / "..data")

        def give(name: str, pair: tuple[bytes, bytes]) -> None:
            for kind, data in zip(("pem", "key"), pair, strict=True):
                put(mine / f"{name}.{kind}", data)

        swap("1", old.pem, old.issue("server"))
        put(mine / "ca.pem", old.pem)
        give("shop", old.issue("shop"))
        give("stale", old.issue("shop"))
        text = config(
            {"address": "localhost:0", "tls": tls("..data", wants_client=True), "identity": "certificate"},
            grants=grants_to("spiffe://test/shop"),
        )

        def settings(name: str) -> dict[str, Any]:
            files = {"cert_file": mine / f"{name}.pem", "key_file": mine / f"{name}.key"}
            return {"ca_file": mine / "ca.pem", **files}

        with (
            start(text, folder, **SHORT_AGE) as server,
            Load(server.address, folder, **settings("shop")) as load,
        ):
            streams = Streams(load.client)
            load.during(2)
            put(mine / "ca.pem", both)
            swap("2", both, old.issue("server"))
            load.during(3)
            swap("3", both, new.issue("server"))
            load.during(3)
            give("shop", new.issue("shop"))
            load.during(3)
            put(mine / "ca.pem", new.pem)
            swap("4", new.pem, new.issue("server"))
            load.during(4)
            load.settle()
            streams.wait_for(load)
            with (
                LogClient(server.address, spool="off", timeout=3.0, **settings("stale")) as stale,
                pytest.raises(Unavailable, match="perhaps it does not accept the client's certificate"),
            ):
                stale.audit("order.create", user_id="u")
            end(server)
            assert "PRIVATE" not in server.stderr
        load.check(folder)
        assert {event["submitted_by"] for event in events_of(folder)} == {"spiffe://test/shop"}


@contextmanager
def published(kind: str, folder: Path) -> Iterator[tuple[dict[str, Any], Callable[..., None], KeysServer]]:
    """The settings of `jwt`, what publishes keys, and the issuer's server, which nobody asks where there is a file."""
    with serving_keys(folder) as issuer:
        jwt: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE}
        if kind == "file":
            file = KeysFile(folder / "keys.json", jwk("ES256", "k1"))
            yield {**jwt, "keys": "keys.json"}, file.publish, issuer
        else:
            issuer.body = jwks(jwk("ES256", "k1"))

            def publish(*entries: dict[str, Any]) -> None:
                issuer.body = jwks(*entries)

            yield {**jwt, "keys": issuer.url, "ca_file": str(issuer.ca_file)}, publish, issuer


class TestJwt:
    @pytest.mark.parametrize("kind", ["file", "url"])
    def test_keys_are_rotated(self, folder: Path, kind: str) -> None:
        """A new key is published, tokens are signed by it, the old key goes: nobody notices.

        A token of the old key is then refused, the issuer may go away, and unknown keys make no request.
        """
        quick = {
            "emitd_server__access__jwt_keys__REFRESH_SECONDS": "0.5",
            "emitd_server__access__jwt__CACHE_SECONDS": "2.0",
        }
        put(folder / "token", sign(kid="k1"))
        stale = sign(kid="k1", exp=int(time.time()) + 3000)
        with published(kind, folder) as (jwt, publish, issuer):
            listen = {"address": "localhost:0", "tls": tls(), "identity": "token"}
            text = config(listen, grants=grants_to("shop"), jwt=jwt)
            with (
                start(text, folder, **quick) as server,
                Load(server.address, folder, **client_settings(folder)) as load,
            ):
                load.during(1)
                publish(jwk("ES256", "k1"), jwk("RS256", "k2", 1))
                load.during(2.5)
                put(folder / "token", sign("RS256", "k2", 1))
                load.during(2)
                publish(jwk("RS256", "k2", 1))
                load.during(3)
                assert code_of(server, folder, stale) == {grpc.StatusCode.UNAUTHENTICATED}
                if kind == "url":
                    assert issuer.requests
                    issuer.status = 503
                    load.during(2)
                before, begin = len(issuer.requests), time.monotonic()
                unknown = [sign(kid=f"unknown-{number}") for number in range(500)]
                assert code_of(server, folder, *unknown) == {grpc.StatusCode.UNAUTHENTICATED}
                made, by_timer = len(issuer.requests) - before, (time.monotonic() - begin) / 0.5 + 2
                assert made <= (by_timer if kind == "url" else 0)
                load.settle()
                assert set(load.events) == {ReceiptState.COMMITTED}
                end(server)
                assert "eyJ" not in server.stderr
        load.check(folder)


def code_of(server: ServerProcess, folder: Path, *tokens: str) -> set[grpc.StatusCode]:
    """How calls with these tokens end."""
    trusted = grpc.ssl_channel_credentials((folder / "certs/ca.pem").read_bytes())
    request = EmitRequest(record=LogRecord(level=LEVEL_INFO, message="x"))
    with grpc.secure_channel(server.address, trusted) as channel:
        emit = LogServiceStub(channel).Emit
        calls = [
            emit.future(request, metadata=(("authorization", f"Bearer {token}"),), timeout=20)
            for token in tokens
        ]
        return {call.code() for call in calls}
