"""`Authenticator`: who calls, by metadata, by certificate, or by the listener alone."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from emitd_handlers.principal import Principal
from emitd_server.access.authenticator import MAX_AUTHORIZATION_BYTES, Authenticator, Credentials
from emitd_server.access.tokens import new_token, revoke_tokens
from emitd_server.errors import ConfigError, Unauthenticated
from emitd_server.settings import AccessSettings, CertificateName, JwtSettings, KeysPlace
from support.access.calls import call, with_token
from support.access.jwt_issuer import AUDIENCE, ISSUER, KeysFile, jwk, sign

Kind = Literal["none", "token", "certificate"]


class Access:
    """A file of tokens, an issuer, and an authenticator for a listener."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.yml"
        self.token, self.entry = new_token(self.file, "shop", ["writers"], None)
        self.keys = KeysFile(folder / "jwks.json", jwk("ES256", "k1"))
        self.settings = AccessSettings(
            tokens_file=self.file,
            jwt=JwtSettings(issuer=ISSUER, audience=AUDIENCE, keys=KeysPlace(str(self.keys.path))),
        )
        self.credentials = Credentials(self.settings)
        self.credentials.start()

    def ask(self, context: Any, kind: Kind = "token") -> Principal:
        return Authenticator(kind, self.credentials).authenticate(context)

    def why_not(self, context: Any, kind: Kind = "token") -> str:
        with pytest.raises(Unauthenticated) as caught:
            self.ask(context, kind)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return str(caught.value)

    def look(self) -> None:
        for watched in self.credentials.watched:
            watched.look()


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(tmp_path)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_a_token_names_its_principal(access: Access, scheme: str) -> None:
    """The scheme is written in any case."""
    for token, principal in (
        (access.token, Principal("shop", "token", ("writers",))),
        (sign(sub="till"), Principal("till", "jwt")),
    ):
        assert access.ask(call(("a", "b"), ("authorization", f"{scheme} {token}"))) == principal


MISSING = "the metadata 'authorization' is missing; send 'Bearer TOKEN'"
NO_BEARER = "the metadata 'authorization' is not one text 'Bearer TOKEN' in ASCII"


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ([], MISSING),
        ([("user-agent", "x")], MISSING),
        ([("authorization-bin", b"Bearer secret")], MISSING),
        ([("Authorization", "Bearer secret")], MISSING),
        ([("authorization", "Bearer secret")] * 2, NO_BEARER),
        ([("authorization", "Bearer secret"), ("authorization", "")], NO_BEARER),
        ([("authorization", b"Bearer secret")], NO_BEARER),
        ([("authorization", "Bearer sécret")], NO_BEARER),
        ([("authorization", "Bearer \ud800")], NO_BEARER),
        ([("authorization", "")], NO_BEARER),
        ([("authorization", "Bearer")], NO_BEARER),
        ([("authorization", "Bearer ")], NO_BEARER),
        ([("authorization", "Bearer  secret")], NO_BEARER),
        ([("authorization", "Bearer secret ")], NO_BEARER),
        ([("authorization", "Bearer secret secret")], NO_BEARER),
        ([("authorization", "Bearer secret\n")], "the token is not known here"),
        ([("authorization", "Bearer\tsecret")], NO_BEARER),
        ([("authorization", " Bearer secret")], NO_BEARER),
        ([("authorization", "Basic c2VjcmV0")], NO_BEARER),
        ([("authorization", "secret")], NO_BEARER),
        ([("authorization", "Bearer secret")], "the token is not known here"),
        ([("authorization", "Bearer a.b.c.d")], "the token is not known here"),
        ([("authorization", "Bearer s" + "x" * MAX_AUTHORIZATION_BYTES)], "has more than 16384 bytes"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_and_not_what_was_sent(
    access: Access, metadata: list[tuple[str, object]], why: str
) -> None:
    """Each in words of its own."""
    said = access.why_not(call(*metadata))
    assert why in said
    assert "secret" not in said


def test_an_expired_token_is_refused(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """From that second on."""
    token, _ = new_token(access.file, "till", [], datetime(2030, 1, 1, tzinfo=UTC))
    access.look()
    end = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    monkeypatch.setattr(time, "time", lambda: end - 0.1)
    assert access.ask(with_token(token)).name == "till"
    monkeypatch.setattr(time, "time", lambda: end)
    assert access.why_not(with_token(token)) == "the token has expired"


def test_a_revoked_token_is_refused_at_the_next_look(access: Access) -> None:
    """And only that one of the principal."""
    other, _ = new_token(access.file, "shop", [], None)
    access.look()
    revoke_tokens(access.file, access.entry.short_digest)
    access.look()
    assert access.why_not(with_token(access.token)) == "the token is not known here"
    assert access.ask(with_token(other)) == Principal("shop", "token")


def test_without_an_issuer_a_jwt_is_an_unknown_token(access: Access) -> None:
    """And without a file all others are; both refuse what the other would take."""
    tokens_only = Credentials(AccessSettings(tokens_file=access.file))
    tokens_only.start()
    jwt_only = Credentials(AccessSettings(jwt=access.settings.jwt))
    jwt_only.start()
    with pytest.raises(Unauthenticated, match="not known here"):
        tokens_only.by_token(with_token(sign()))
    with pytest.raises(Unauthenticated, match="not known here"):
        jwt_only.by_token(with_token(access.token))
    assert jwt_only.by_token(with_token(sign())).name == "shop"


def test_without_tokens_none_is_known(access: Access) -> None:
    """The configuration refuses a listener that asks for them."""
    access.credentials = Credentials(AccessSettings())
    assert access.why_not(with_token(access.token)) == "the token is not known here"


def test_without_pyjwt_the_extra_is_named(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the configuration has an issuer; tokens do without."""
    for module in ("emitd_server.access.jwt", "emitd_server.access.jwt_keys"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigError, match=r"^server.access.jwt: needs the package jwt: emitd\[access\]$"):
        Credentials(access.settings)
    Credentials(AccessSettings(tokens_file=access.file)).start()


def test_a_bad_file_at_start_is_a_configuration_error(access: Access) -> None:
    """With its line."""
    access.file.write_text("- name: x")
    with pytest.raises(ConfigError, match=rf"{access.file}:1: \[0\].sha256: is missing"):
        Credentials(access.settings).start()


def test_without_identity_all_are_anonymous_or_have_the_name_of_the_socket(access: Access) -> None:
    """Whatever they send."""
    context = with_token(access.token)
    assert access.ask(context, "none") == Principal("anonymous", "anonymous")
    socket = Authenticator("none", access.credentials, "relay").authenticate(context)
    assert socket == Principal("relay", "socket")


SVID = "spiffe://prod.example/shop"


def peer(**more: list[bytes]) -> Any:
    """A call with a client certificate; its CN and all of its names are there as well."""
    every = {"x509_common_name": [b"operator"], "x509_subject_alternative_name": [b"operator"], **more}
    return call(("authorization", "Bearer x"), peer=every)


def test_a_spiffe_id_comes_first(access: Access) -> None:
    """Before any kind that is configured."""
    context = peer(peer_spiffe_id=[SVID.encode()], peer_uri=[SVID.encode()], peer_dns=[b"a.example"])
    for kind in (None, *CertificateName):
        credentials = Credentials(AccessSettings(certificate_name=kind))
        assert Authenticator("certificate", credentials).authenticate(context) == Principal(
            SVID, "certificate"
        )


@pytest.mark.parametrize("kind", list(CertificateName))
def test_the_kind_of_the_settings_names_the_caller(kind: CertificateName) -> None:
    """If the certificate has exactly one of it."""
    names = {"peer_uri": [b"urn:a"], "peer_dns": [b"a.example"], "peer_email": [b"a@example"]}
    authenticator = Authenticator("certificate", Credentials(AccessSettings(certificate_name=kind)))
    (wanted,) = names[f"peer_{kind.value}"]
    assert authenticator.authenticate(peer(**names)).name == wanted.decode()
    for number in (0, 2):
        with pytest.raises(Unauthenticated, match=f"not one name of the kind '{kind.value}' but {number}"):
            authenticator.authenticate(peer(**{**names, f"peer_{kind.value}": [b"a", b"b"][:number]}))


@pytest.mark.parametrize(
    ("properties", "kind", "why"),
    [
        ({}, None, "the client certificate has no SPIFFE id"),
        ({"peer_dns": [b"a.example"]}, None, "the client certificate has no SPIFFE id"),
        ({"peer_spiffe_id": []}, None, "has no SPIFFE id"),
        ({"peer_spiffe_id": [b"spiffe://a/b", b"spiffe://a/c"]}, None, "has no SPIFFE id"),
        ({"peer_spiffe_id": [], "peer_uri": [b"urn:a"]}, "uri", "has no SPIFFE id"),
        ({"peer_uri": [b"spiffe://a/b?c"]}, "uri", "has a SPIFFE id that is not valid"),
        ({"peer_uri": [b"SPIFFE://a/b"]}, "uri", "has a SPIFFE id that is not valid"),
        ({"peer_dns": [b"\xff"]}, "dns", "the name is not UTF-8"),
        ({"peer_dns": [b""]}, "dns", "the name is empty"),
        ({"peer_dns": [b"a\nb"]}, "dns", "the name has characters that cannot be printed"),
        ({"peer_spiffe_id": [b"spiffe://a/" + b"x" * 256]}, None, "has more than 256 bytes"),
    ],
)
def test_other_certificates_are_refused(
    access: Access, properties: dict[str, list[bytes]], kind: str | None, why: str
) -> None:
    """The CN never counts."""
    name = None if kind is None else CertificateName(kind)
    access.credentials = Credentials(AccessSettings(certificate_name=name))
    assert why in access.why_not(peer(**properties), "certificate")


def test_what_is_settled_is_not_read_from_files(access: Access) -> None:
    """A call waits for no file."""
    token = sign()
    access.ask(with_token(token))
    access.file.unlink()
    access.keys.path.unlink()
    assert access.ask(with_token(access.token)).name == "shop"
    assert access.ask(with_token(token)).name == "shop"
