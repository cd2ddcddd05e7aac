"""The public keys of an issuer of JWT: a JWKS (RFC 7517) from a file or an https URL.

They are read by a timer and never because of a call: a flood of tokens with unknown keys makes no request.
"""

import json
import math
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import NamedTuple
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
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


class PublicKey(NamedTuple):
    """A key, and the algorithm by which it signs."""

    key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
    algorithm: str


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

    A key without `alg` has the usual algorithm of its kind: RS256 for one of RSA.

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
    if not isinstance(kid, str) or not 0 < len(kid) <= 256:
        return None
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        found = jwt.PyJWK(entry)
    except Exception:  # from PyJWT and cryptography, for whatever stands there
        return None
    key = found.key
    if isinstance(key, RSAPublicKey):
        is_sane = MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and key.public_numbers().e < MAX_RSA_EXPONENT
    else:  # others are private, symmetric, or not for signatures
        is_sane = isinstance(key, EllipticCurvePublicKey | Ed25519PublicKey)
    return PublicKey(key, found.algorithm_name) if is_sane else None


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
