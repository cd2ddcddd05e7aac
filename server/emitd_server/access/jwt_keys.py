"""The public keys of an issuer of JWT: a JWKS (RFC 7517) from a file or an https URL.

They are read by a timer and never because of a call: a flood of tokens with unknown keys makes no request.
"""

import json
import math
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.types import JWKDict

from emitd_handlers.diagnostics import Report
from emitd_server.access.watched import Watched
from emitd_server.errors import ConfigError, Problem
from emitd_server.settings import JwtSettings

MAX_KEYS_BYTES = 256 * 1024
MAX_KEYS = 100
#: How long a request may take in all.
FETCH_SECONDS = 5.0
REFRESH_SECONDS = 30.0
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MAX_RSA_EXPONENT = 2**32

#: By `kty` and `crv`.
_ALGORITHMS: Mapping[tuple[object, object], Sequence[str]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


class PublicKey(NamedTuple):
    """A key, and the algorithms by which it may sign."""

    key: Any
    algorithms: Sequence[str]


def watched_keys(settings: JwtSettings, changed: Report) -> Watched[Mapping[str, PublicKey]]:
    """Return the issuer's keys by their `kid`; there are none before the first look."""

    def load() -> Mapping[str, PublicKey]:
        if settings.keys.is_url:
            return read_keys(_fetch(settings))
        try:
            with open(settings.keys, "rb") as file:
                return read_keys(file.read(MAX_KEYS_BYTES + 1))
        except (OSError, ValueError) as error:
            found = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError([Problem(file=settings.keys, line=0, path="", found=found or "")]) from None

    return Watched(
        "server.access.jwt.keys",
        load,
        {},
        names_of=lambda keys: keys,
        paths=[] if settings.keys.is_url else [Path(settings.keys)],
        every_seconds=REFRESH_SECONDS if settings.keys.is_url else math.inf,
        changed=changed,
    )


def read_keys(data: bytes) -> Mapping[str, PublicKey]:
    """Return the keys of a JWKS that can verify: public, sane, with a `kid`; of two with the same the first.

    Raises ValueError, which shows nothing of the data, if there are none.
    """
    if len(data) > MAX_KEYS_BYTES:
        raise ValueError(f"the keys have more than {MAX_KEYS_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("the keys are not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    keys: dict[str, PublicKey] = {}
    for entry in entries[:MAX_KEYS] if isinstance(entries, list) else ():
        if isinstance(entry, dict) and (key := _public_key(entry)) is not None:
            keys.setdefault(entry["kid"], key)
    if not keys:
        raise ValueError("there is no key with a 'kid' that can verify signatures")
    return keys


def _public_key(entry: JWKDict) -> PublicKey | None:
    kid, operations = entry.get("kid"), entry.get("key_ops", ["verify"])
    is_for_signatures = (
        entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    )
    if not isinstance(kid, str) or not 0 < len(kid) <= 256 or not is_for_signatures or "d" in entry:
        return None
    kind = entry.get("kty"), entry.get("crv")
    known = _ALGORITHMS.get(kind, ()) if all(isinstance(part, str | None) for part in kind) else ()
    algorithms = [name for name in known if entry.get("alg", name) == name]
    if not algorithms:
        return None
    try:
        key = jwt.get_algorithm_by_name(algorithms[0]).from_jwk(entry)
    except Exception:  # from PyJWT and cryptography, for whatever stands there
        return None
    if isinstance(key, RSAPublicKey) and not (
        MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and key.public_numbers().e < MAX_RSA_EXPONENT
    ):
        return None
    return PublicKey(key, algorithms)


def _fetch(settings: JwtSettings) -> bytes:
    """Return what the URL answers; redirections and proxies are not followed. Raises OSError and ValueError."""
    url = urlsplit(settings.keys)
    headers = {"Accept": "application/jwk-set+json, application/json"}
    if settings.token_file is not None:
        token = settings.token_file.read_text().strip()
        if not token.isascii() or not token.isprintable():  # an error of `http` would show it
            raise ValueError("server.access.jwt.token_file is not one line of ASCII")
        headers["Authorization"] = f"Bearer {token}"
    authorities = None if settings.ca_file is None else settings.ca_file.read_text()
    context = ssl.create_default_context(cadata=authorities)
    connection = HTTPSConnection(url.hostname or "", url.port, timeout=FETCH_SECONDS, context=context)
    connection.connect()
    # Each read has a limit of its own, and there may be many.
    limit = threading.Timer(FETCH_SECONDS, _break_off, [connection.sock])
    limit.daemon = True
    limit.start()
    try:
        connection.request("GET", f"{url.path or '/'}{'?' if url.query else ''}{url.query}", headers=headers)
        reply = connection.getresponse()
        if reply.status != 200:
            raise ValueError(f"{url.hostname} answers with status {reply.status}")
        return reply.read(MAX_KEYS_BYTES + 1)
    except HTTPException as error:
        raise ValueError(f"{url.hostname} does not answer in HTTP: {type(error).__name__}") from None
    finally:
        limit.cancel()
        connection.close()


def _break_off(connected: socket) -> None:
    with suppress(OSError):  # it is over
        connected.shutdown(SHUT_RDWR)
