"""Who calls, as grpc's own server tells it: metadata, client certificates, and keys that change under load."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from emitd_server.access import watched
from emitd_server.access.authenticator import Authenticator, Credentials
from emitd_server.access.tokens import new_token, revoke_tokens
from emitd_server.access.watched import look_for_ever
from emitd_server.errors import Unauthenticated
from emitd_server.settings import AccessSettings, CertificateName, JwtSettings, KeysPlace
from support.access.jwt_issuer import AUDIENCE, ISSUER, KeysFile, jwk, sign

Call = Callable[..., Any]


class Authority:
    """Signs certificates with any names."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.pem = self._pem(self._sign(self._name, self._key, []))

    def issue(self, *names: x509.GeneralName, common_name: str = "operator") -> tuple[bytes, bytes]:
        """A private key and the certificate for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private, self._pem(self._sign(subject, key, list(names)))

    def _sign(self, subject: x509.Name, key: Any, names: list[x509.GeneralName]) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=key is self._key, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    @staticmethod
    def _pem(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)


@asynccontextmanager
async def serving(authenticator: Authenticator, credentials: Any = None) -> AsyncIterator[str]:
    """A server whose one method answers with the caller's name, kind and groups."""

    async def who(_: bytes, context: Any) -> bytes:
        try:
            principal = authenticator.authenticate(context)
        except Unauthenticated as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        return " ".join((principal.name, principal.kind, *principal.groups)).encode()

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Who": method}),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def ask(channel: Any, *metadata: tuple[str, str | bytes]) -> str:
    """The answer, or why there is none."""
    try:
        answer = await channel.unary_unary("/test/Who")(b"", metadata=metadata, timeout=20)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, error
        return f"refused: {error.details()}"
    return bytes(answer).decode()


URI, DNS, EMAIL = x509.UniformResourceIdentifier, x509.DNSName, x509.RFC822Name
SVID = "spiffe://prod.example/ns/shop"


@pytest.mark.parametrize(
    ("names", "kind", "answer"),
    [
        ([URI(SVID)], None, f"{SVID} certificate"),
        ([URI(SVID), DNS("a.example")], "dns", f"{SVID} certificate"),
        (
            [URI(SVID), URI("spiffe://prod.example/other")],
            "uri",
            "refused: the client certificate has no SPIFFE id",
        ),
        ([URI(SVID), URI("spiffe://prod.example/other"), DNS("a")], "dns", "a certificate"),
        ([URI("urn:shop")], "uri", "urn:shop certificate"),
        (
            [URI("spiffe://prod.example")],
            "uri",
            "refused: the client certificate has a SPIFFE id that is not valid",
        ),
        ([DNS("a.example")], "dns", "a.example certificate"),
        (
            [DNS("a.example"), DNS("b.example")],
            "dns",
            "refused: the client certificate has no SPIFFE id and not one",
        ),
        ([EMAIL("a@b.example")], "email", "a@b.example certificate"),
        ([DNS("a.example")], None, "refused: the client certificate has no SPIFFE id"),
        ([], None, "refused: the client certificate has no SPIFFE id"),
        (
            [],
            "dns",
            "refused: the client certificate has no SPIFFE id and not one name of the kind 'dns' but 0",
        ),
    ],
)
async def test_a_client_certificate_names_its_principal(
    names: list[x509.GeneralName], kind: str | None, answer: str
) -> None:
    """By its SPIFFE id or the configured kind of name, as grpc reads them from a real certificate."""
    authority = Authority()
    pair = authority.issue(DNS("localhost"))
    server = grpc.ssl_server_credentials([pair], authority.pem, require_client_auth=True)
    settings = AccessSettings(certificate_name=None if kind is None else CertificateName(kind))
    key, certificate = authority.issue(*names)
    client = grpc.ssl_channel_credentials(authority.pem, key, certificate)
    options = [("grpc.ssl_target_name_override", "localhost")]
    async with (
        serving(Authenticator("certificate", Credentials(settings)), server) as address,
        grpc.aio.secure_channel(address, client, options=options) as channel,
    ):
        assert (await ask(channel)).startswith(answer)


class Issued:
    """A file of tokens and an issuer, read again every few milliseconds."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.yml"
        self.token, _ = new_token(self.file, "shop", ["writers"], None)
        self.keys = KeysFile(folder / "jwks.json", jwk("ES256", "k0"))
        settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, keys=KeysPlace(str(self.keys.path)))
        self.credentials = Credentials(AccessSettings(tokens_file=self.file, jwt=settings), lambda _: None)
        self.credentials.start()


@pytest.fixture
async def issued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issued]:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0.005)
    issued = Issued(tmp_path)
    timers = [asyncio.create_task(look_for_ever(each.look)) for each in issued.credentials.watched]
    yield issued
    for timer in timers:
        timer.cancel()
    await asyncio.wait(timers)


async def test_metadata_as_it_arrives(issued: Issued) -> None:
    """A repeated key, binary values and another case of the scheme, over a real channel."""
    authenticator = Authenticator("token", issued.credentials)
    good = f"Bearer {issued.token}"
    async with serving(authenticator) as address, grpc.aio.insecure_channel(address) as channel:
        assert await ask(channel, ("authorization", good)) == "shop token writers"
        assert await ask(channel, ("authorization", f"BEARER {sign(sub='till', kid='k0')}")) == "till jwt"
        assert "is missing" in await ask(channel)
        assert "is missing" in await ask(channel, ("authorization-bin", good.encode()))
        assert "is not one text" in await ask(channel, ("authorization", good), ("authorization", good))
        assert "not known here" in await ask(channel, ("authorization", f"{good}x"))


async def test_keys_are_rotated_under_load(issued: Issued) -> None:
    """No call with a token of a published key is refused, and none with one of a key that is gone is taken."""
    authenticator = Authenticator("token", issued.credentials)
    published = {"k0"}
    taken = 0

    async def load(channel: Any, stop: asyncio.Event) -> None:
        nonlocal taken
        while not stop.is_set():
            kid = max(published)
            token = sign(kid=kid, number=int(kid[1:]), jti=str(time.perf_counter_ns()))
            answer = await ask(channel, ("authorization", f"Bearer {token}"))
            assert answer == "shop jwt" or kid not in published, answer
            taken += 1

    async def settle(channel: Any, number: int, answer: str) -> None:
        token = sign(kid=f"k{number}", number=number)
        async with asyncio.timeout(20):
            while not (await ask(channel, ("authorization", f"Bearer {token}"))).startswith(answer):
                await asyncio.sleep(0.005)

    async with serving(authenticator) as address, grpc.aio.insecure_channel(address) as channel:
        stop = asyncio.Event()
        senders = [asyncio.create_task(load(channel, stop)) for _ in range(4)]
        for number in range(1, 6):
            issued.keys.publish(
                jwk("ES256", f"k{number - 1}", number - 1), jwk("ES256", f"k{number}", number)
            )
            await settle(channel, number, "shop jwt")
            published.add(f"k{number}")
            await asyncio.sleep(0.05)
            published.discard(f"k{number - 1}")
            issued.keys.publish(jwk("ES256", f"k{number}", number))
            await settle(channel, number - 1, "refused: the token's 'kid' is that of no key")
        stop.set()
        await asyncio.gather(*senders)
    assert taken > 50


async def test_a_revoked_token_is_refused_soon(issued: Issued) -> None:
    """Also on a connection that is open."""
    authenticator = Authenticator("token", issued.credentials)
    async with serving(authenticator) as address, grpc.aio.insecure_channel(address) as channel:
        header = ("authorization", f"Bearer {issued.token}")
        assert await ask(channel, header) == "shop token writers"
        revoke_tokens(issued.file, "shop")
        async with asyncio.timeout(20):
            while not (await ask(channel, header)).startswith("refused: the token is not known"):
                await asyncio.sleep(0.005)
