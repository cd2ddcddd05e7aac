"""The keys of an issuer: which are kept, from a file and from a URL."""

import base64
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from emitd_server.access import jwt_keys
from emitd_server.access.jwt_keys import MAX_KEYS, MAX_KEYS_BYTES, PublicKey, read_keys, watched_keys
from emitd_server.access.watched import Watched
from emitd_server.errors import ConfigError
from emitd_server.settings import JwtSettings, KeysPlace
from support.access.jwt_issuer import ALGORITHMS, AUDIENCE, ISSUER, KeysFile, jwk, jwks, private_key
from support.access.keys_server import KeysServer, serving_keys

GOOD = jwk("ES256", "good")


def ends(number: int) -> str:
    """An integer as a JWK has it."""
    return (
        base64.urlsafe_b64encode(number.to_bytes(max(1, (number.bit_length() + 7) // 8))).decode().rstrip("=")
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_public_keys_are_kept_by_their_kid(algorithm: str) -> None:
    """Each with the algorithm that it is for, or the usual one of its kind."""
    entry = jwk(algorithm, "k")
    entry.pop("key_ops", None)
    key = read_keys(jwks(entry | {"use": "sig"}))["k"]
    assert key.key == private_key(algorithm).public_key()
    assert key.algorithm == ("RS256" if algorithm == "PS256" else algorithm)
    assert read_keys(jwks({**entry, "alg": algorithm}))["k"].algorithm == algorithm


SMALL = jwt.get_algorithm_by_name("RS256").to_jwk(
    rsa.generate_private_key(65537, 1024).public_key(), as_dict=True
)
RSA = jwk("RS256", "bad")


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "bad"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "bad", "alg": "HS256"},
        json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(private_key("ES256"))) | {"kid": "bad"},
        json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(private_key("RS256"))) | {"kid": "bad"},
        SMALL | {"kid": "bad"},
        RSA | {"n": "AQ"},
        RSA | {"n": ends(2**20000 + 1)},
        RSA | {"n": ends(2**16383 + 1)},
        RSA | {"n": "A" * 200_000},
        RSA | {"e": ends(2**33 + 1)},
        RSA | {"e": ends(1)},
        RSA | {"e": ends(2)},
        RSA | {"e": ends(2**2047 + 1)},
        RSA | {"n": None},
        RSA | {"n": 5},
        RSA | {"n": "%%%"},
        RSA | {"alg": "HS256"},
        RSA | {"alg": "none"},
        RSA | {"alg": "RSA-OAEP"},
        RSA | {"alg": "ES256"},
        RSA | {"alg": ["RS256"]},
        RSA | {"use": "enc"},
        RSA | {"use": None},
        RSA | {"key_ops": ["sign"]},
        RSA | {"key_ops": "verify"},
        RSA | {"kid": None},
        RSA | {"kid": 5},
        RSA | {"kid": ""},
        RSA | {"kid": "x" * 257},
        RSA | {"kty": ["RSA"]},
        GOOD | {"kid": "bad", "crv": "secp256k1"},
        GOOD | {"kid": "bad", "crv": "P-384"},
        GOOD | {"kid": "bad", "x": "AAAA"},
        GOOD | {"kid": "bad", "y": GOOD["x"]},
        {"kty": "OKP", "crv": "X25519", "x": jwk("EdDSA", "k")["x"], "kid": "bad"},
        {"kid": "bad"},
        {},
        [],
        "bad",
        None,
    ],
    ids=lambda entry: str(entry)[:70],
)
def test_others_are_left_out(entry: Any) -> None:
    """Symmetric, private, weak, huge, of another purpose, or nonsense; at once, and without harm to the good one."""
    started = time.monotonic()
    assert list(read_keys(jwks(entry, GOOD))) == ["good"]
    assert time.monotonic() - started < 1


def test_of_two_with_one_kid_the_first_counts() -> None:
    """If it is good."""
    keys = read_keys(jwks(RSA | {"kid": "good", "use": "enc"}, GOOD, jwk("EdDSA", "good")))
    assert keys["good"].algorithm == "ES256"


def test_a_set_has_its_bounds() -> None:
    """The number of keys that are looked at has a limit, and so have their bytes."""
    many = [GOOD | {"kid": f"k{number}"} for number in range(MAX_KEYS + 1)]
    assert len(read_keys(jwks(*many))) == MAX_KEYS
    with pytest.raises(ValueError, match=f"more than {MAX_KEYS_BYTES} bytes"):
        read_keys(jwks(GOOD) + b" " * MAX_KEYS_BYTES)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff", b"null", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": 5}'),
        *(jwks(RSA | {"n": "AQ"}), b"[" * 200_000, b'{"keys": ' + b"9" * 10_000 + b"}"),
    ],
    ids=lambda data: data[:20].decode("latin-1"),
)
def test_a_set_without_a_good_key_is_refused(data: bytes) -> None:
    """Its content is not shown."""
    with pytest.raises(ValueError, match=r"the keys are not JSON|there is no key") as caught:
        read_keys(data)
    assert "AQ" not in str(caught.value)


Keys = Watched[Mapping[str, PublicKey]]


def watch(keys: str, **more: Any) -> Keys:
    return watched_keys(
        JwtSettings(issuer=ISSUER, audience=AUDIENCE, keys=KeysPlace(keys), **more), lambda _: None
    )


def test_a_file_is_read_again(tmp_path: Path) -> None:
    """A bad or an empty one leaves the keys as they are."""
    file = KeysFile(tmp_path / "jwks.json", GOOD)
    keys = watch(str(file.path))
    keys.start()
    file.publish()
    keys.look()
    assert list(keys.value) == ["good"]
    file.publish(jwk("EdDSA", "next"))
    keys.look()
    assert list(keys.value) == ["next"]


@pytest.mark.parametrize(
    ("text", "problem"), [("{", "the keys are not JSON"), (None, "No such file or directory")]
)
def test_a_bad_file_at_start_is_a_configuration_error(tmp_path: Path, text: str | None, problem: str) -> None:
    """Which names the file."""
    file = tmp_path / "jwks.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=f"^{file}: {problem}$"):
        watch(str(file)).start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KeysServer]:
    with serving_keys(tmp_path) as server:
        server.body = jwks(GOOD)
        yield server


@pytest.fixture
def keys(server: KeysServer, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Keys that are asked for at each look."""
    monkeypatch.setattr(jwt_keys, "REFRESH_SECONDS", 0.0)
    return watch(server.url, ca_file=server.ca_file)


def test_a_url_is_asked(server: KeysServer, keys: Keys) -> None:
    """With its whole path, and no token unless there is one to send."""
    keys.start()
    assert list(keys.value) == ["good"]
    server.body = jwks(jwk("EdDSA", "next"))
    keys.look()
    assert list(keys.value) == ["next"]
    assert server.requests == [("/keys?a=b", None)] * 2


def test_a_url_is_asked_every_half_minute(server: KeysServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is looked at."""
    keys = watch(server.url, ca_file=server.ca_file)
    keys.start()
    for _ in range(50):
        keys.look()
    assert len(server.requests) == 1
    later = time.monotonic() + 31
    monkeypatch.setattr(time, "monotonic", lambda: later)
    keys.look()
    assert len(server.requests) == 2


def test_the_token_of_a_file_is_sent(server: KeysServer, keys: Keys, tmp_path: Path) -> None:
    """Read each time, as Kubernetes replaces it."""
    token = tmp_path / "token"
    keys = watch(server.url, ca_file=server.ca_file, token_file=token)
    for text in ("one", "two\n"):
        token.write_text(text)
        keys.look()
    assert [sent for _, sent in server.requests] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("text", ["one\ntwo", "sécret", "a\x00b"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    server: KeysServer, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library would."""
    token = tmp_path / "token"
    token.write_text(text)
    watch(server.url, ca_file=server.ca_file, token_file=token).start()
    assert "server.access.jwt.token_file is not one line of ASCII;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (302, {"Location": "/elsewhere"}, b"", "127.0.0.1 answers with status 302"),
        (500, {}, b"", "127.0.0.1 answers with status 500"),
        (200, {}, b"", "the keys are not JSON"),
        (200, {}, b"<html>", "the keys are not JSON"),
        (200, {}, jwks(), "there is no key"),
        (200, {}, jwks(GOOD) + b" " * MAX_KEYS_BYTES, "more than 262144 bytes"),
        (200, {"Content-Length": "1000000"}, jwks(GOOD)[:-1], "the keys are not JSON"),
        (200, {"Transfer-Encoding": "chunked"}, b"zz\r\n", "does not answer in HTTP: "),
        (200, {"A": "b" * 70_000}, jwks(GOOD), "does not answer in HTTP: LineTooLong"),
    ],
)
def test_a_bad_answer_leaves_the_last_good_keys(
    server: KeysServer,
    keys: Keys,
    capsys: pytest.CaptureFixture[str],
    status: int,
    headers: dict[str, str],
    body: bytes,
    said: str,
) -> None:
    """And is reported once."""
    keys.start()
    server.status, server.headers, server.body = status, headers, body
    keys.look()
    keys.look()
    assert list(keys.value) == ["good"]
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not any(path == "/elsewhere" for path, _ in server.requests)


def test_a_server_with_another_authority_is_not_asked(
    server: KeysServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the setting the system's authorities count."""
    watch(server.url).start()
    assert "certificate verify failed" in capsys.readouterr().err
    assert server.requests == []


def test_a_slow_answer_is_broken_off(
    server: KeysServer, keys: Keys, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each byte comes in time, and the whole does not."""
    monkeypatch.setattr(jwt_keys, "FETCH_SECONDS", 0.3)
    server.pause = 0.05
    started = time.monotonic()
    keys.start()
    assert time.monotonic() - started < 3
    assert keys.value == {}
    assert "server.access.jwt.keys: " in capsys.readouterr().err


def test_a_server_that_is_down_at_start_is_asked_again(server: KeysServer, keys: Keys) -> None:
    """The service starts, and knows the keys later."""
    server.status = 503
    keys.start()
    assert keys.value == {}
    server.status = 200
    keys.look()
    assert list(keys.value) == ["good"]
