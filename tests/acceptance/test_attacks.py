"""What a stranger, or a peer with another's name in mind, can send to a real process: it is refused."""

import base64
import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from emitd.v1 import (
    LEVEL_AUDIT,
    LEVEL_INFO,
    AuditEvent,
    AuditServiceStub,
    EmitRequest,
    ListAuditEventsRequest,
    LogRecord,
    LogServiceStub,
    TailAuditEventsRequest,
)
from emitd_server.access.tokens import Digest, new_token
from support.access.authority import HOUR, Authority, TlsFiles
from support.access.jwt_issuer import AUDIENCE, ISSUER, KeysFile, jwk, private_key, sign
from support.processes.server_process import ServerProcess
from support.processes.set_clock import LIBRARIES, SetClock

pytestmark = pytest.mark.slow

OK, UNKNOWN, DENIED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)
CONFIG = f"""
server:
  listen:
    - {{address: "127.0.0.1:0", identity: token}}
    - address: "127.0.0.1:0"
      tls: {{cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem}}
      identity: certificate
    - {{address: "unix:emitd.sock", principal: local}}
    - {{address: "unix:open.sock"}}
    - {{address: "127.0.0.1:0", health_only: true}}
  reflection: false
  access:
    tokens_file: tokens.yml
    jwt: {{issuer: "{ISSUER}", audience: {AUDIENCE}, keys: keys.json, groups_claim: groups}}
    certificate_name: dns
    grants:
      - {{to: [shop, local, "group:web"], role: writer, sources: [shop]}}
      - {{to: [auditor], role: auditor}}
handlers:
  lines: {{type: discard, levels: [INFO]}}
  audit: {{type: json_audit, path: a.log}}
"""
LINE = EmitRequest(record=LogRecord(level=LEVEL_INFO, message="x", source="shop", time_unix_nano=1))
AUTHORITY = Authority()


class Target:
    """The process, its addresses by the order of its listeners, and the token of `shop`."""

    def __init__(self, folder: Path, server: ServerProcess, token: str) -> None:
        self.folder = folder
        self.server = server
        self.token = token
        give_up_at = time.monotonic() + 20
        while server.stderr.count("listening on") < 5:
            assert time.monotonic() < give_up_at, server.stderr
            time.sleep(0.02)
        lines = server.stderr.splitlines()
        self.tokens, self.certificates, self.socket, self.open_socket, self.health = (
            line.rpartition(" ")[2] for line in lines if "listening on" in line
        )

    def code(
        self, *metadata: tuple[str, str | bytes], read: bool = False, address: str = ""
    ) -> grpc.StatusCode:
        """How one call ends: a line, or a question for the trail."""
        with grpc.insecure_channel(address or self.tokens) as channel:
            return status(channel, *metadata, read=read)

    def with_token(self, token: str, *, read: bool = False) -> grpc.StatusCode:
        return self.code(("authorization", f"Bearer {token}"), read=read)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < give_up_at, self.server.stderr
            time.sleep(0.1)


def status(channel: grpc.Channel, *metadata: tuple[str, str | bytes], read: bool = False) -> grpc.StatusCode:
    log, audit = LogServiceStub(channel), AuditServiceStub(channel)
    call = (
        audit.ListAuditEvents.future(ListAuditEventsRequest(), metadata=metadata, timeout=10)
        if read
        else log.Emit.future(LINE, metadata=metadata, timeout=10)
    )
    code: grpc.StatusCode = call.code()
    return code


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("target")
    TlsFiles(folder, client_ca=AUTHORITY.pem).write(AUTHORITY.issue())
    token, _ = new_token(folder / "tokens.yml", "shop", [], None)
    KeysFile(folder / "keys.json", jwk("ES256", "k1"), jwk("RS256", "k2"))
    server = ServerProcess.start(CONFIG, folder)
    yield Target(folder, server, token)
    assert "internal error" not in server.stderr
    server.terminate()
    assert server.wait() == 0


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def good_claims(**more: object) -> dict[str, object]:
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "exp": int(time.time()) + 300, **more}


def signed_with_public_key() -> str:
    """HS256, whose secret is the public key of the issuer in PEM."""
    pem = private_key("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{part({'alg': 'HS256', 'kid': 'k2'})}.{part(good_claims())}"
    mac = hmac.digest(pem, text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def test_the_good_ones_are_let_in(target: Target) -> None:
    """So that what is refused below is refused for its own reason."""
    assert target.with_token(target.token) is OK
    assert target.with_token(sign()) is OK
    assert target.with_token(sign(sub="x", groups=["web"])) is OK
    assert target.code(address=target.socket) is OK


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "TOKEN")],
        [("authorization", "Basic TOKEN")],
        [("authorization", "Bearer TOKEN"), ("authorization", "Bearer TOKEN")],
        [("authorization", "Bearer TOKEN"), ("authorization", "Bearer x")],
        [("authorization", "Bearer TOKEN, Bearer TOKEN")],
        [("proxy-authorization", "Bearer TOKEN")],
        [("x-forwarded-authorization", "Bearer TOKEN")],
        [("x-authorization", "Bearer TOKEN")],
        [("authorization-bin", b"Bearer TOKEN")],
        [("token", "TOKEN")],
        [("cookie", "authorization=Bearer TOKEN")],
        [("authorization", "Bearer " + "x" * 7000)],
    ],
    ids=str,
)  # fmt: skip
def test_a_token_in_another_place(target: Target, metadata: list[tuple[str, Any]]) -> None:
    """Only `authorization: Bearer TOKEN`, once, is a token."""
    sent = [
        (key, value.replace("TOKEN", target.token) if isinstance(value, str) else value)
        for key, value in metadata
    ]
    assert target.code(*sent) is UNKNOWN


@pytest.mark.parametrize("path", ["?token=TOKEN", "?authorization=Bearer%20TOKEN", "/TOKEN", "#TOKEN"])
def test_a_token_in_the_path_is_no_token(target: Target, path: str) -> None:
    """It is the name of a method that there is not, and no text shows it."""
    with grpc.insecure_channel(target.tokens) as channel:
        method = f"/emitd.v1.LogService/Emit{path.replace('TOKEN', target.token)}"
        call = channel.unary_unary(method).future(LINE.SerializeToString(), timeout=10)
        assert call.code() in (UNKNOWN, grpc.StatusCode.UNIMPLEMENTED)
    assert target.token not in target.server.stderr


@pytest.mark.parametrize(
    "make",
    [
        lambda: f"{part({'alg': 'none', 'kid': 'k1'})}.{part(good_claims())}.",
        lambda: f"{part({'alg': 'NONE'})}.{part(good_claims())}.",
        signed_with_public_key,
        *(
            (lambda kid=kid: sign(kid=kid))
            for kid in ("../../keys.json", "/dev/null", "k1' OR '1'='1", "k1\x00", "K1", "", "k1;k2", "__class__")
        ),
        lambda: sign(kid=None),
        lambda: sign(number=1, headers={"jwk": jwk("ES256", "k1", 1)}),
        lambda: sign(number=1, kid="mine", headers={"jku": "https://127.0.0.1:1/keys", "x5u": "https://127.0.0.1:1/"}),
        lambda: sign(number=1, headers={"x5c": ["AAAA"]}),
        lambda: sign(exp=1),
        lambda: sign(exp=-(2**70)),
        lambda: sign(exp=None),
        lambda: sign(nbf=2**70),
        lambda: sign(iat=2**62),
        lambda: sign(aud=["other", "another"]),
        lambda: sign(aud=[]),
        lambda: sign(aud=[[AUDIENCE]]),
        lambda: sign(aud={"emitd": True}),
        lambda: sign(iss=[ISSUER]),
        lambda: sign(sub=["shop"]),
        lambda: sign(sub="shop\n"),
        lambda: sign(sub="shop\u200b"),
        lambda: sign(sub="group:web"),
        lambda: sign(groups="web"),
        lambda: sign(groups={"web": 1}),
        lambda: f"{part({'alg': 'ES256', 'kid': 'k1'})}.{'[' * 6000}.x",
        lambda: sign(x=[[[["x" * 4500]]]]) + "A",
    ],
)  # fmt: skip
def test_a_jwt_that_is_not_to_be_believed(target: Target, make: Callable[[], str]) -> None:
    """Forged, of another algorithm, with keys of its own, out of time, or for another audience."""
    assert target.with_token(make()) is UNKNOWN


@pytest.mark.parametrize(
    ("claims", "may_write", "may_read"),
    [
        ({"exp": 2**62}, OK, DENIED),
        ({"aud": ["other", AUDIENCE]}, OK, DENIED),
        ({"sub": "nobody"}, DENIED, DENIED),
        ({"sub": "nobody", "groups": ["group:web"]}, DENIED, DENIED),
        ({"sub": "nobody", "groups": ["shop"]}, DENIED, DENIED),
        ({"sub": "web"}, DENIED, DENIED),
        ({"sub": "a.example"}, DENIED, DENIED),
        ({"sub": "SHOP"}, DENIED, DENIED),
        ({"sub": "anonymous"}, DENIED, DENIED),
        ({"sub": "emitd"}, DENIED, DENIED),
        ({"sub": "nobody", "groups": ["web"] * 500}, OK, DENIED),
        ({"sub": "auditor"}, DENIED, OK),
        ({"sub": "*"}, DENIED, DENIED),
        ({"sub": "x", "groups": ["*"]}, DENIED, DENIED),
    ],
    ids=str,
)
def test_a_name_in_a_grant_is_no_pattern(
    target: Target, claims: dict[str, object], may_write: grpc.StatusCode, may_read: grpc.StatusCode
) -> None:
    """A name is only itself: `*` has nothing of others, and a group of the name of a principal neither."""
    token = sign(**claims)
    assert target.with_token(token) is may_write
    assert target.with_token(token, read=True) is may_read


def test_large_headers_in_a_flood(target: Target) -> None:
    """1,000 calls with 15 KiB of metadata each in four connections: all refused, and others are served."""
    big = [("authorization", "Bearer " + "x" * 7000), ("x-more", "y" * 8000)]

    def flood(_: int) -> set[grpc.StatusCode]:
        with grpc.insecure_channel(target.tokens, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            calls = [LogServiceStub(channel).Emit.future(LINE, metadata=big, timeout=30) for _ in range(250)]
            return {call.code() for call in calls}

    with ThreadPoolExecutor(4) as pool:
        floods = pool.map(flood, range(4))
        for _ in range(20):
            assert target.with_token(target.token) is OK
        assert set().union(*floods) <= {UNKNOWN, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert target.with_token(target.token) is OK


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (lambda: AUTHORITY.issue("shop"), DENIED),
        (lambda: Authority().issue("shop"), grpc.StatusCode.UNAVAILABLE),
        (lambda: AUTHORITY.issue("shop", begin=-2 * HOUR, end=-HOUR), grpc.StatusCode.UNAVAILABLE),
        (lambda: AUTHORITY.issue("shop", begin=HOUR), grpc.StatusCode.UNAVAILABLE),
        (lambda: named("shop"), UNKNOWN),
        (lambda: named("shop", x509.DNSName("a.example")), DENIED),
        (lambda: named("x", x509.DNSName("*.example")), DENIED),
        (lambda: named("x", x509.DNSName("shop")), OK),
        (lambda: named("x", x509.DNSName("shop"), x509.DNSName("local")), UNKNOWN),
        (lambda: named("x", x509.UniformResourceIdentifier("shop")), UNKNOWN),
        (lambda: named("x", x509.DNSName("shop\n")), UNKNOWN),
        (lambda: named("x", x509.DNSName("group:web")), UNKNOWN),
        (lambda: named("x", x509.DNSName("spiffe://test/shop")), UNKNOWN),
        (lambda: named("x", *(x509.UniformResourceIdentifier(f"spiffe://test/{i}") for i in "ab")), UNKNOWN),
    ],
    ids=str,
)
def test_a_certificate_of_another(
    target: Target, pair: Callable[[], tuple[bytes, bytes]], expected: grpc.StatusCode
) -> None:
    """Of another authority, out of time, with a name in the wrong place, or with two; a wildcard is one name."""
    cert, key = pair()
    with grpc.secure_channel(
        target.certificates, grpc.ssl_channel_credentials(AUTHORITY.pem, key, cert)
    ) as channel:
        assert status(channel) is expected
        # A token changes nothing about who calls there.
        assert status(channel, ("authorization", f"Bearer {target.token}")) is expected


def named(common_name: str, *names: x509.GeneralName) -> tuple[bytes, bytes]:
    return AUTHORITY.issue(common_name, names=names)


def test_sockets_have_the_names_of_their_entries(target: Target) -> None:
    """A token that is sent to a socket changes nothing, and an entry without a name gives none in the trail."""
    token = ("authorization", "Bearer nonsense")
    assert target.code(token, address=target.socket) is OK
    assert target.code(token, address=target.socket, read=True) is DENIED
    event = AuditEvent(event_name="user.login", user_id="u", source_ip="unknown", details_json="{}")
    record = LogRecord(level=LEVEL_AUDIT, audit=event, source="shop", time_unix_nano=1)
    for address in (target.socket, target.open_socket):
        with grpc.insecure_channel(address) as channel:
            LogServiceStub(channel).Emit(EmitRequest(record=record), timeout=10)
    lines = (target.folder / "a.log").read_text().splitlines()
    names = [json.loads(line).get("submitted_by") for line in lines if '"user.login"' in line]
    assert names == ["local", None]


def test_reflection_is_off_at_every_listener(target: Target) -> None:
    """Also for those who may call."""
    good = [("authorization", f"Bearer {target.token}")]
    pair = AUTHORITY.issue()
    secure = grpc.ssl_channel_credentials(AUTHORITY.pem, pair[1], pair[0])
    for channel in (
        *map(grpc.insecure_channel, (target.tokens, target.socket, target.open_socket, target.health)),
        grpc.secure_channel(target.certificates, secure),
    ):
        with channel:
            question = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                question, metadata=good, timeout=10
            )
            with pytest.raises(grpc.RpcError):
                next(call)
            assert call.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_file_of_tokens_behind_a_link_that_is_swapped(target: Target) -> None:
    """The new list counts, and nothing of the old one; a link to nothing, or to a device, leaves the list as it is."""
    file = target.folder / "tokens.yml"
    (target.folder / "old.yml").write_bytes(file.read_bytes())
    token, entry = new_token(target.folder / "new.yml", "shop", [], None)
    forged = f"- {{name: 'group:web', sha256: {Digest.of('mine').hex()}}}\n"
    (target.folder / "forged.yml").write_text(entry.line() + forged)

    def swap(to: str) -> None:
        (target.folder / "link").symlink_to(to)
        os.replace(target.folder / "link", file)

    swap("new.yml")
    target.wait_until(lambda: target.with_token(token) is OK)
    assert target.with_token(target.token) is UNKNOWN
    os.mkfifo(target.folder / "pipe")
    for bad in ("/dev/zero", "nowhere", ".", "forged.yml", "pipe"):
        before = target.server.stderr.count("stays in use")
        swap(bad)
        target.wait_until(lambda before=before: target.server.stderr.count("stays in use") > before)
        assert target.with_token(token) is OK
        assert target.with_token("mine") is UNKNOWN
    swap("old.yml")
    target.wait_until(lambda: target.with_token(target.token) is OK)
    assert target.with_token(token) is UNKNOWN


def test_a_hangup_is_an_orderly_end(tmp_path: Path) -> None:
    """SIGHUP stops the service in order, as every signal does; files are read again without one."""
    with ServerProcess.start(
        "server: {listen: '127.0.0.1:0'}\nhandlers: {d: {type: discard}}\n", tmp_path
    ) as server:
        os.kill(server.pid, signal.SIGHUP)
        code = server.wait()
    assert (code, server.stderr.splitlines()[-1]) == (0, "emitd stopped")


@pytest.mark.parametrize(
    "library", [None, *LIBRARIES], ids=lambda path: "python" if path is None else path.stem
)
def test_a_clock_that_is_set(tmp_path: Path, library: Path | None) -> None:
    """What ends by the clock ends when it is set ahead, streams too, and holds again when it is set back."""
    TlsFiles(tmp_path, client_ca=AUTHORITY.pem).write(AUTHORITY.issue())
    token, _ = new_token(tmp_path / "tokens.yml", "shop", [], datetime.now(UTC) + timedelta(hours=1))
    lasting, _ = new_token(tmp_path / "tokens.yml", "auditor", [], None)
    KeysFile(tmp_path / "keys.json", jwk("ES256", "k1"))
    (tmp_path / "emitd.yml").write_text(CONFIG.replace("to: [auditor]", "to: [shop, auditor]"))
    clock = SetClock(tmp_path, library=library)
    with ServerProcess.launch(tmp_path, "--config", "emitd.yml", environ=clock.environ()) as server:
        server.wait_until_up()
        target = Target(tmp_path, server, token)

        def tail(token: str) -> Any:
            metadata = [("authorization", f"Bearer {token}")]
            return AuditServiceStub(channel).TailAuditEvents(TailAuditEventsRequest(), metadata=metadata)

        # With the clock in Python alone, PyJWT goes by the machine's.
        jwt = None if library is None else sign(exp=int(time.time()) + 3600)
        with grpc.insecure_channel(target.tokens) as channel:
            ends, lasts = tail(token), tail(lasting)
            assert next(ends)
            assert next(lasts)
            assert jwt is None or target.with_token(jwt) is OK
            clock.set(7200)
            target.wait_until(lambda: target.with_token(token) is UNKNOWN)
            assert target.with_token(lasting, read=True) is OK
            # Another one: what was verified is kept for a minute at most.
            assert jwt is None or target.with_token(sign(exp=int(time.time()) + 3601)) is UNKNOWN
            with pytest.raises(grpc.RpcError):
                next(message for message in ends if not message)
            assert ends.code() is UNKNOWN
            assert lasts.is_active()
            clock.set(0)
            target.wait_until(lambda: target.with_token(token) is OK)
            lasts.cancel()
