"""JWT: what must be in them, which keys count, and for how long a verdict is remembered."""

import base64
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from emitd_handlers.principal import Principal
from emitd_server.access import jwt as access_jwt
from emitd_server.access.jwt import LEEWAY_SECONDS, MAX_CACHED, JwtVerifier
from emitd_server.access.jwt_keys import watched_keys
from emitd_server.errors import Unauthenticated
from emitd_server.settings import JwtSettings, KeysPlace
from support.access.jwt_issuer import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    KeysFile,
    claims,
    jwk,
    private_key,
    sign,
)

ALL_KEYS = [jwk(algorithm, algorithm) | {"alg": algorithm} for algorithm in ALGORITHMS]


class Verifier:
    """A verifier with the keys of a file."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.file = KeysFile(path, jwk("ES256", "k1"), *ALL_KEYS)
        settings = JwtSettings(issuer=ISSUER, audience=AUDIENCE, keys=KeysPlace(str(path)), **more)
        self.keys = watched_keys(settings, lambda _: None)
        self.keys.start()
        self.verifier = JwtVerifier(settings, self.keys)

    def identify(self, token: str) -> Principal:
        return self.verifier.identify(token, hashlib.sha256(token.encode()).digest())

    def why_not(self, token: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            self.identify(token)
        # What was sent is not in the error, nor in what led to it, which a traceback would show.
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return str(caught.value)


@pytest.fixture
def verifier(tmp_path: Path) -> Verifier:
    return Verifier(tmp_path / "jwks.json", groups_claim="groups")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_token_names_its_subject_and_groups(verifier: Verifier, algorithm: str) -> None:
    """Until a little after `exp`."""
    end = int(time.time()) + 100
    token = sign(algorithm, algorithm, exp=end, groups=["a", "b"], aud=["other", AUDIENCE])
    assert verifier.identify(token) == Principal("shop", "jwt", ("a", "b"))


def test_groups_are_read_only_from_the_claim_of_the_settings(verifier: Verifier, tmp_path: Path) -> None:
    """Without one, or without the setting, there are none."""
    assert verifier.identify(sign()).groups == ()
    plain = Verifier(tmp_path / "other.json")
    assert plain.identify(sign(groups=["a"])).groups == ()


NOW = int(time.time())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"exp": NOW - 60}, "the token cannot be accepted: it has expired"),
        ({"exp": None}, "the token lacks the claim 'exp'"),
        ({"iss": None}, "the token lacks the claim 'iss'"),
        ({"aud": None}, "the token lacks the claim 'aud'"),
        ({"sub": None}, "the token lacks the claim 'sub'"),
        ({"iss": "https://evil.example"}, "its claim 'iss' is not server.access.jwt.issuer"),
        ({"iss": ISSUER + "/"}, "its claim 'iss' is not"),
        ({"iss": [ISSUER]}, "its claim 'iss' is not"),
        ({"aud": "other"}, "its claim 'aud' is not server.access.jwt.audience"),
        ({"aud": []}, "claim 'aud'"),
        ({"aud": {"emitd": 1}}, "its claim 'aud' is not"),
        ({"nbf": NOW + 86_400}, "it is not valid yet"),
        ({"iat": NOW + 86_400}, "it is not valid yet"),
        ({"exp": "soon"}, "it is malformed"),
        ({"exp": float("inf")}, "it is malformed"),
        ({"exp": float("nan")}, "it is malformed"),
        ({"exp": [NOW]}, "it is malformed"),
        ({"sub": ""}, "the token cannot be accepted: the name is empty"),
        ({"sub": "a\nb"}, "the token cannot be accepted: the name has characters"),
        ({"sub": "x" * 257}, "the token cannot be accepted: the name is empty or has more"),
        ({"groups": "admins"}, "the token's claim 'groups' is not a list of texts"),
        ({"groups": [1]}, "the token's claim 'groups' is not a list of texts"),
        ({"groups": [""]}, "a group's name is empty"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_signed_token_is_said(
    verifier: Verifier, change: dict[str, Any], why: str
) -> None:
    """By the claim and the setting, without its value."""
    assert why in verifier.why_not(sign(**change))


def test_an_end_beyond_all_time_is_an_end(verifier: Verifier) -> None:
    """And no overflow."""
    assert verifier.identify(sign(exp=10**400)).name == "shop"


def test_clocks_may_differ_a_little(verifier: Verifier) -> None:
    """By less than the leeway."""
    near = LEEWAY_SECONDS - 3
    now = int(time.time())
    verifier.identify(sign(exp=now - near))
    verifier.identify(sign(nbf=now + near, iat=now + near))
    assert "expired" in verifier.why_not(sign(exp=now - LEEWAY_SECONDS - 1))


def forged(headers: dict[str, Any], signature: bytes = b"", **more: Any) -> str:
    """A token with these headers and this signature."""

    def part(value: object) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    return f"{part({'typ': 'JWT', **headers})}.{part(claims(**more))}.{part(signature)}"


def hmac_with_public_key() -> str:
    pem = (
        private_key("RS256")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    import hmac

    token = forged({"alg": "HS256", "kid": "RS256"})
    signed = token.rsplit(".", 1)[0]
    signature = hmac.digest(pem, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (forged({"alg": "none", "kid": "k1"}), "its algorithm is not that of its key"),
        (forged({"alg": "", "kid": "k1"}), "its algorithm is not that of its key"),
        (forged({"kid": "k1"}), "its algorithm is not that of its key"),
        (forged({"alg": ["ES256"], "kid": "k1"}), "its algorithm is not that of its key"),
        (forged({"alg": "RS256", "kid": "k1"}), "its algorithm is not that of its key"),
        (forged({"alg": "ES256", "kid": "RS256"}), "its algorithm is not that of its key"),
        (hmac_with_public_key(), "its algorithm is not that of its key"),
        (forged({"alg": "ES256", "kid": "k1"}), "its signature is wrong"),
        (forged({"alg": "ES256", "kid": "k1"}, bytes(64)), "its signature is wrong"),
        (forged({"alg": "RS256", "kid": "RS256"}, bytes(256)), "its signature is wrong"),
        (forged({"alg": "EdDSA", "kid": "EdDSA"}, bytes(64)), "its signature is wrong"),
        (sign("ES256", "k1", number=1), "its signature is wrong"),
        (forged({"alg": "ES256", "kid": "k1", "crit": ["x"], "x": 1}), "it is malformed"),
        (forged({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": False}), "it is malformed"),
        (forged({"alg": "ES256", "kid": 5}), "it is malformed"),
        (forged({"alg": "ES256", "kid": "other"}), "the token's 'kid' is that of no key"),
        (forged({"alg": "ES256"}), "the token's 'kid' is that of no key"),
        (forged({"alg": "ES256", "jwk": jwk("ES256", "k1", 1)}), "the token's 'kid' is that of no key"),
        (forged({"alg": "ES256", "kid": None}), "it is malformed"),
        ("..", "it is malformed"),
        ("a.b.c", "it is malformed"),
        ("!.!.!", "it is malformed"),
        (base64.urlsafe_b64encode(b"[" * 11_000).decode().rstrip("=") + ".e30.", "it is malformed"),
        (base64.urlsafe_b64encode(b"9" * 11_000).decode().rstrip("=") + ".e30.", "it is malformed"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_token_that_the_issuer_did_not_sign_is_refused(verifier: Verifier, token: str, why: str) -> None:
    """Whatever it says about itself."""
    assert why in verifier.why_not(token)


def test_a_claim_that_was_changed_breaks_the_signature(verifier: Verifier) -> None:
    """As does a signature of another token."""
    header, _, signature = sign().split(".")
    _, payload, _ = sign(sub="operator").split(".")
    assert "its signature is wrong" in verifier.why_not(f"{header}.{payload}.{signature}")


def count_verifications(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens that were verified from now on."""
    verified: list[str] = []
    decode = jwt.decode

    def counting(token: str, *arguments: Any, **more: Any) -> Any:
        verified.append(token)
        return decode(token, *arguments, **more)

    monkeypatch.setattr(jwt, "decode", counting)
    return verified


def test_a_token_is_verified_once_a_minute(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at all after its end."""
    verified = count_verifications(monkeypatch)
    token, brief = sign(), sign(exp=int(time.time()) + 5)
    for _ in range(3):
        verifier.identify(token)
        verifier.identify(brief)
    assert verified == [token, brief]
    now, steady = time.time(), time.monotonic()

    def pass_seconds(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: now + seconds)
        monkeypatch.setattr(time, "monotonic", lambda: steady + seconds)

    pass_seconds(5 + LEEWAY_SECONDS + 1)
    verifier.identify(token)
    assert verified == [token, brief]
    with pytest.raises(Unauthenticated):  # PyJWT has a clock of its own; the cache has forgotten it
        monkeypatch.setattr(access_jwt, "LEEWAY_SECONDS", -100)
        verifier.identify(brief)
    monkeypatch.undo()
    verified = count_verifications(monkeypatch)
    pass_seconds(61)
    verifier.identify(token)
    assert verified == [token]


def test_the_cache_is_bounded(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten; refused tokens take no room."""
    monkeypatch.setattr(access_jwt, "MAX_CACHED", 8)
    assert MAX_CACHED == 1024
    tokens = [sign(jti=str(number)) for number in range(9)]
    for token in tokens:
        verifier.identify(token)
        verifier.why_not(token + "A")
    verified = count_verifications(monkeypatch)
    for token in reversed(tokens):
        verifier.identify(token)
    assert verified == [tokens[0]]
    assert len(verifier.verifier._cache) == 8


def test_a_key_that_is_removed_counts_no_more_at_once(verifier: Verifier) -> None:
    """Also for tokens that were verified before; those of the new key are good."""
    old, new = sign(), sign("EdDSA", "k2")
    verifier.identify(old)
    assert "'kid'" in verifier.why_not(new)
    verifier.file.publish(jwk("EdDSA", "k2"))
    verifier.keys.look()
    assert "'kid'" in verifier.why_not(old)
    verifier.identify(new)


def test_a_key_that_is_replaced_under_its_kid_counts_no_more(verifier: Verifier) -> None:
    """The name alone is no key."""
    old = sign()
    verifier.identify(old)
    verifier.file.publish(jwk("ES256", "k1", 1))
    verifier.keys.look()
    assert "signature is wrong" in verifier.why_not(old)
    verifier.identify(sign(number=1))


def test_unknown_keys_are_never_asked_for(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of them reads nothing."""
    monkeypatch.setattr(verifier.keys, "_load", lambda: pytest.fail("it reads"))
    for number in range(100):
        assert "'kid'" in verifier.why_not(forged({"alg": "ES256", "kid": f"k{number}x"}))
