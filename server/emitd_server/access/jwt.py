"""JWT (RFC 7519) as the tokens of callers: what must be in them, and the cache of those that were verified."""

import time
from collections.abc import Mapping
from typing import Any

import jwt

from emitd_handlers.principal import Principal
from emitd_server.access.jwt_keys import PublicKey
from emitd_server.access.tokens import NOT_KNOWN
from emitd_server.access.watched import Watched
from emitd_server.errors import Unauthenticated
from emitd_server.settings import JwtSettings

#: By how much the issuer's clock and this one may differ.
LEEWAY_SECONDS = 10
#: For how long a token is not verified again, unless the keys change, and how many such tokens are remembered.
CACHE_SECONDS = 60.0
MAX_CACHED = 1024

_WHY: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "its claim 'aud' is not server.access.jwt.audience",
    jwt.InvalidIssuerError: "its claim 'iss' is not server.access.jwt.issuer",
    jwt.InvalidAlgorithmError: "its algorithm is not that of its key",
    jwt.InvalidSignatureError: "its signature is wrong",
}


class JwtVerifier:
    """Says whose a JWT is. Used by one thread."""

    def __init__(self, settings: JwtSettings, keys: Watched[Mapping[str, PublicKey]]) -> None:
        self._settings = settings
        self._keys = keys
        #: By digest, the oldest first: until when by the steady clock.
        self._cache: dict[bytes, tuple[Principal, float]] = {}
        self._cached_for: Mapping[str, PublicKey] = {}

    def identify(self, token: str, digest: bytes) -> Principal:
        """Return whose a token is; `digest` is its SHA-256. Raises Unauthenticated."""
        keys, now = self._keys.value, time.monotonic()
        if keys is not self._cached_for:
            self._cache.clear()
            self._cached_for = keys
        principal, until = self._cache.get(digest, (None, 0.0))
        if principal is not None and now < until:
            return principal
        principal, seconds = self._verify(token, keys)
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = principal, now + seconds
        return principal

    def _verify(self, token: str, keys: Mapping[str, PublicKey]) -> tuple[Principal, float]:
        """Return whose a token is, and for how many seconds that is known."""
        if token.count(".") != 2:
            raise Unauthenticated(NOT_KNOWN)
        try:
            # Of the header alone: PyJWT takes a millisecond to decode 16 KiB.
            header = jwt.get_unverified_header(f"{token.partition('.')[0]}..")
            key = keys.get(header.get("kid", ""))
            if key is None:
                raise Unauthenticated("the token's 'kid' is that of no key in server.access.jwt.keys")
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token lacks the claim '{error.claim}'") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            why = _WHY.get(type(error), "it is malformed")
            raise Unauthenticated(f"the token cannot be accepted: {why}") from None
        try:
            principal = Principal(claims["sub"], "jwt", self._groups(claims))
        except ValueError as error:
            raise Unauthenticated(f"the token cannot be accepted: {error}") from None
        return principal, min(CACHE_SECONDS, int(claims["exp"]) + LEEWAY_SECONDS - int(time.time()))

    def _groups(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        name = self._settings.groups_claim
        groups = [] if name is None else claims.get(name, [])
        if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise Unauthenticated(f"the token's claim '{name}' is not a list of texts")
        return tuple(groups)
