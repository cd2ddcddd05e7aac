"""An issuer of JWT: its keys by `kid`, the JWKS of those that it publishes, and tokens."""

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://issuer.example", "emitd"
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")


def private_key(algorithm: str, number: int = 0) -> Any:
    """A key of the kind that the algorithm needs; `number` tells several apart."""
    return _private_key(algorithm, number)


@cache
def _private_key(algorithm: str, number: int) -> Any:
    if algorithm.startswith("ES"):
        return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def jwk(algorithm: str, kid: str, number: int = 0, **more: object) -> dict[str, Any]:
    """The public key as a JWKS has it."""
    entry = jwt.get_algorithm_by_name(algorithm).to_jwk(
        private_key(algorithm, number).public_key(), as_dict=True
    )
    return {**entry, "kid": kid, **more}


def jwks(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def claims(**more: object) -> dict[str, Any]:
    """Good claims, but for those that are given; None: without it."""
    now = int(time.time())
    every = {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "iat": now, "exp": now + 300, **more}
    return {name: value for name, value in every.items() if value is not None}


def sign(
    algorithm: str = "ES256",
    kid: str | None = "k1",
    number: int = 0,
    headers: dict[str, Any] | None = None,
    **more: object,
) -> str:
    """A signed token."""
    every = ({} if kid is None else {"kid": kid}) | (headers or {})
    payload = json.dumps(claims(**more)).encode()  # `jwt.encode` would refuse bad claims
    return jwt.PyJWS().encode(payload, private_key(algorithm, number), algorithm=algorithm, headers=every)


class KeysFile:
    """A JWKS in a file, put in its place as a whole."""

    def __init__(self, path: Path, *entries: dict[str, Any]) -> None:
        self.path = path
        self.publish(*entries)

    def publish(self, *entries: dict[str, Any]) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_bytes(jwks(*entries))
        temporary.rename(self.path)
