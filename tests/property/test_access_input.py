"""What strangers and operators can put before the code that says who calls: never anything but an answer or a refusal.

Each test says how many inputs it tries.
"""

import hashlib
import json
from base64 import urlsafe_b64encode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from emitd_handlers.principal import Principal
from emitd_server.access.authenticator import Authenticator, Credentials, certificate_identity
from emitd_server.access.jwt import JwtVerifier
from emitd_server.access.jwt_keys import read_keys, watched_keys
from emitd_server.access.tokens import Digest, TokenEntry, new_token, read_tokens, revoke_tokens
from emitd_server.errors import ConfigError, Unauthenticated
from emitd_server.settings import AccessSettings, CertificateName, JwtSettings, KeysPlace
from support.access.calls import call
from support.access.jwt_issuer import AUDIENCE, ISSUER, KeysFile, jwk, jwks, sign

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=4,
)


class Issued:
    """One token in a file, and one issuer, for all inputs."""

    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name)
        self.token, _ = new_token(path / "tokens.yml", "shop", ["writers"], None)
        keys = KeysFile(path / "jwks.json", jwk("ES256", "k1"), jwk("RS256", "k2"), jwk("EdDSA", "k3"))
        self.jwt = JwtSettings(
            issuer=ISSUER, audience=AUDIENCE, keys=KeysPlace(str(keys.path)), groups_claim="groups"
        )
        credentials = Credentials(AccessSettings(tokens_file=path / "tokens.yml", jwt=self.jwt))
        credentials.start()
        self.authenticator = Authenticator("token", credentials)
        watched = watched_keys(self.jwt, lambda _: None)
        watched.start()
        self.verifier = JwtVerifier(self.jwt, watched)

    def identify(self, token: str) -> Principal | str:
        """Whose it is, or why not; any other exception fails the test."""
        try:
            return self.verifier.identify(token, hashlib.sha256(token.encode()).digest())
        except Unauthenticated as error:
            return str(error)


@pytest.fixture(scope="module")
def issued() -> Any:
    issued = Issued()
    yield issued
    issued.folder.cleanup()


def part(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


#: Bytes, JSON, and JSON that looks like a header or claims.
PARTS: SearchStrategy[bytes] = (
    st.binary(max_size=60)
    | JSON.map(dump)
    | st.fixed_dictionaries(
        {},
        optional={
            "alg": st.sampled_from(["ES256", "RS256", "HS256", "none", "EdDSA", "PS256", ""]) | JSON,
            "kid": st.sampled_from(["k1", "k2", "k3", "k4"]) | JSON,
            "typ": JSON,
            "crit": st.just(["b64"]) | JSON,
            "b64": JSON,
            "jwk": st.just(jwk("ES256", "k1", 1)),
            "zip": JSON,
            "sub": st.just("operator"),
            "iss": st.just(ISSUER),
            "aud": st.just(AUDIENCE),
            "exp": st.just(2**40),
        },
    ).map(dump)
)


@given(parts=st.lists(PARTS.map(part) | st.text(alphabet="=-_.aA0!", max_size=6), max_size=5))
@settings(max_examples=1000, deadline=None)
def test_a_token_that_the_issuer_did_not_sign_names_nobody(issued: Issued, parts: list[str]) -> None:
    """1,000 inputs: texts in the form of a JWT or nearly so."""
    assert isinstance(issued.identify(".".join(parts)), str)


@given(data=st.data(), algorithm=st.sampled_from([("ES256", "k1"), ("RS256", "k2"), ("EdDSA", "k3")]))
@settings(max_examples=500, deadline=None)
def test_a_changed_token_names_nobody(
    issued: Issued, data: st.DataObject, algorithm: tuple[str, str]
) -> None:
    """500 inputs: a good token with one character replaced, removed or added."""
    token = sign(*algorithm)
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.text(alphabet="abcXYZ019-_.=", max_size=2))
    changed = token[:at] + new + token[at + 1 :]
    if changed != token:
        assert isinstance(issued.identify(changed), str)


@given(
    change=st.dictionaries(
        st.sampled_from(["sub", "iss", "aud", "exp", "nbf", "iat", "jti", "groups"]),
        JSON | st.integers(0, 2**70) | st.lists(st.text(max_size=5), max_size=3),
        max_size=3,
    )
)
@example(change={"exp": 10**400})
@example(change={"exp": float("inf")})
@example(change={"nbf": float("-inf")})
@example(change={"sub": "x" * 300})
@settings(max_examples=500, deadline=None)
def test_signed_claims_of_any_kind_are_taken_or_refused(issued: Issued, change: dict[str, Any]) -> None:
    """500 inputs: good signatures over claims of any type; what is taken has all that it must have."""
    found = issued.identify(sign(**change))
    if isinstance(found, str):
        assert change
        texts = [value for value in change.values() if isinstance(value, str) and len(value) > 12]
        assert not any(text in found for text in texts)
        return
    assert found == Principal(change.get("sub", "shop"), "jwt", tuple(change.get("groups") or ()))
    assert change.get("iss", ISSUER) == ISSUER
    assert AUDIENCE in change.get("aud", AUDIENCE)


KEY = st.fixed_dictionaries(
    {},
    optional={
        "kty": st.sampled_from(["RSA", "EC", "OKP", "oct"]) | JSON,
        "crv": st.sampled_from(["P-256", "P-384", "Ed25519", "X25519"]) | JSON,
        "kid": st.text(max_size=4) | JSON,
        "alg": st.sampled_from(["RS256", "ES256", "HS256", "none"]) | JSON,
        "use": st.sampled_from(["sig", "enc"]) | JSON,
        "key_ops": JSON,
        **{name: st.text(alphabet="AQab-_019", max_size=400) | JSON for name in ("n", "e", "x", "y", "k")},
        "d": JSON,
    },
)
CHANGED_KEYS = st.tuples(st.sampled_from([jwk("RS256", "k"), jwk("ES256", "k"), jwk("EdDSA", "k")]), KEY).map(
    lambda pair: pair[0] | dict(list(pair[1].items())[:2])
)


@given(entries=st.lists(KEY | CHANGED_KEYS | JSON, max_size=4), is_list=st.booleans())
@settings(max_examples=500, deadline=None)
def test_a_set_of_keys_of_any_kind_gives_public_keys_or_none(entries: list[Any], is_list: bool) -> None:
    """500 inputs: sets of keys of any form, and good keys with two members changed."""
    data = dump({"keys": entries} if is_list else entries)
    try:
        keys = read_keys(data)
    except ValueError as error:
        assert str(error).startswith(("the keys are not JSON", "there is no key"))
        return
    for kid, key in keys.items():
        kinds = [entry.get("kty") for entry in entries if isinstance(entry, dict) and entry.get("kid") == kid]
        assert {"RSA", "EC", "OKP"} & {kind for kind in kinds if isinstance(kind, str)}
        assert key.algorithm[:2] in ("RS", "PS", "ES", "Ed")
        assert not isinstance(key.key, RSAPublicKey) or key.key.key_size >= 2048


@given(data=st.binary(max_size=200) | st.just(jwks(jwk("ES256", "k"))).map(lambda good: good[:-5]))
@settings(max_examples=500, deadline=None)
def test_bytes_of_any_kind_are_no_keys(data: bytes) -> None:
    """500 inputs."""
    with pytest.raises(ValueError, match=r"^(the keys are not JSON|there is no key)"):
        read_keys(data)


HEX = Digest.of("a").hex()
SECRET = "emitd_this-is-the-token-itself"
SCALARS = st.sampled_from(
    [
        "shop",
        "''",
        "[a, b]",
        "null",
        "{}",
        Digest.of("x").hex(),
        "2027-03-01T00:00:00Z",
        "2027-03-01",
        "*a",
        "&a b",
    ]
) | st.text(max_size=12).map(json.dumps)
ENTRIES = st.lists(
    st.tuples(st.sampled_from(["name", "sha256", "groups", "expires", "token", "<<"]), SCALARS).map(
        ": ".join
    ),
    max_size=5,
).map(lambda lines: "- " + "\n  ".join(lines) + "\n")


@given(text=st.lists(ENTRIES | st.text(max_size=30), max_size=4).map("".join))
@example(text=f"- name: a\n  sha256: {SECRET}\n")
@example(text=f"- {SECRET}: a\n"[:10])
@example(text='- name: "\\ud800"')
@example(text="- \n0\r")
@settings(max_examples=500, deadline=None)
def test_a_file_of_tokens_is_read_or_its_problems_have_lines(issued: Issued, text: str) -> None:
    """500 inputs: texts, and lists with the right keys and any values."""
    file = Path(issued.folder.name) / "any.yml"
    file.write_bytes(text.encode("utf-8", "replace"))
    try:
        entries = read_tokens(file)
    except ConfigError as error:
        assert all(str(problem).startswith(f"{file}:") for problem in error.problems)
        assert SECRET not in str(error)
    else:
        assert len({entry.sha256 for entry in entries}) == len(entries)
        assert all(entry.name.isprintable() and len(entry.sha256) == 32 for entry in entries)


NAMES = st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable() and text == text.strip())


@given(
    steps=st.lists(st.tuples(st.booleans(), NAMES, st.lists(NAMES, max_size=2)), max_size=8),
    start=st.sampled_from(
        ["", "# ours\n", "[]", "# ours\n[]\n# end", "---\n", f"- {{name: a, sha256: {HEX}}}"]
    ),
)
@settings(max_examples=100, deadline=None)
def test_edits_do_what_they_say_to_the_list(
    issued: Issued, steps: list[tuple[bool, str, list[str]]], start: str
) -> None:
    """100 inputs: up to eight tokens added and names revoked, with names of any kind, against a list in memory."""
    file = Path(issued.folder.name) / "edited.yml"
    file.write_text(start)
    model = list(read_tokens(file))
    for is_new, name, groups in steps:
        if is_new:
            token, entry = new_token(file, name, groups, None)
            assert entry == TokenEntry(name=name, sha256=Digest.of(token), groups=tuple(groups))
            model.append(entry)
        else:
            gone = revoke_tokens(file, name)
            assert [entry for entry in model if entry.name == name] == list(gone)
            model = [entry for entry in model if entry.name != name]
        assert list(read_tokens(file)) == model


VALUES = (
    st.text(max_size=20)
    | st.binary(max_size=20)
    | st.tuples(st.sampled_from(["Bearer", "bearer", "Basic", "BEARER "]), st.text(max_size=10)).map(" ".join)
)


@given(
    metadata=st.lists(
        st.tuples(st.sampled_from(["authorization", "authorization-bin", "x"]), VALUES), max_size=4
    ),
    good_at=st.none() | st.integers(0, 4),
)
@settings(max_examples=500, deadline=None)
def test_metadata_of_any_kind_is_a_token_or_refused(
    issued: Issued, metadata: list[tuple[str, Any]], good_at: int | None
) -> None:
    """500 inputs: with and without the good token among them, which counts only if it stands alone."""
    if good_at is not None:
        metadata = [*metadata[:good_at], ("authorization", f"Bearer {issued.token}"), *metadata[good_at:]]
    is_good = good_at is not None and [key for key, _ in metadata].count("authorization") == 1
    try:
        principal = issued.authenticator.authenticate(call(*metadata))
    except Unauthenticated as error:
        assert not is_good
        assert issued.token not in str(error)
    else:
        assert is_good
        assert principal == Principal("shop", "token", ("writers",))


@given(
    properties=st.dictionaries(
        st.sampled_from(["peer_spiffe_id", "peer_uri", "peer_dns", "peer_email", "x509_common_name"]),
        st.lists(st.binary(max_size=12) | st.text(max_size=300).map(str.encode), max_size=3),
    ),
    kind=st.none() | st.sampled_from(CertificateName),
)
@settings(max_examples=500, deadline=None)
def test_names_of_certificates_are_one_name_or_refused(
    properties: dict[str, list[bytes]], kind: CertificateName | None
) -> None:
    """500 inputs: lists of names of every kind; the one that counts is alone in its kind."""
    wanted = properties.get("peer_spiffe_id", properties.get(f"peer_{kind.value}", []) if kind else [])
    try:
        principal = certificate_identity(properties, kind)
    except Unauthenticated:
        return
    assert [principal.name.encode()] == wanted
    assert principal.name.isprintable()
