"""`Authenticator`: who calls, by the metadata or the certificate of a call. One for each listener.

What tokens are compared with is in `Credentials`, which all listeners share.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import grpc

from emitd_handlers.diagnostics import Report, report
from emitd_handlers.principal import Principal
from emitd_handlers.scope import ANYONE
from emitd_server.access.tokens import NOT_KNOWN, Digest, find_token, watched_tokens
from emitd_server.access.watched import Watched
from emitd_server.errors import ConfigError, Problem, Unauthenticated
from emitd_server.settings import AccessSettings, CertificateName

#: With the scheme. Longer ones are refused before anything else looks at them.
MAX_AUTHORIZATION_BYTES = 16 * 1024
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Authenticate: TypeAlias = Callable[[Context], Principal]


class Credentials:
    """Static tokens, JWT and the names of certificates. Its `watched` are looked at by a timer."""

    def __init__(self, settings: AccessSettings, changed: Report = report) -> None:
        """`changed` gets a line, in a thread, for each change of tokens and keys. Raises ConfigError."""
        self._certificate_name = settings.certificate_name
        self.watched: list[Watched[Any]] = []
        self._tokens = None if settings.tokens_file is None else watched_tokens(settings.tokens_file, changed)
        if self._tokens is not None:
            self.watched.append(self._tokens)
        self._jwt = None
        if settings.jwt is not None:
            try:
                from emitd_server.access.jwt import JwtVerifier
                from emitd_server.access.jwt_keys import watched_keys
            except ModuleNotFoundError as error:
                found = f"needs the package {error.name}: emitd[access]"
                raise ConfigError([Problem(file="", line=0, path="server.access.jwt", found=found)]) from None
            keys = watched_keys(settings.jwt, changed)
            self._jwt = JwtVerifier(settings.jwt, keys)
            self.watched.append(keys)

    def start(self) -> None:
        """Read the files, and the keys at a URL, which may fail. Blocks. Raises ConfigError for a bad file."""
        for watched in self.watched:
            watched.start()

    def by_token(self, call: Context) -> Principal:
        """Return whose token the call has. Raises Unauthenticated. Hot path."""
        token = _bearer(call)
        digest = Digest.of(token)
        if self._tokens is not None and (principal := find_token(self._tokens.value, digest)) is not None:
            return principal
        if self._jwt is None:
            raise Unauthenticated(NOT_KNOWN)
        return self._jwt.identify(token, digest)

    def by_certificate(self, call: Context) -> Principal:
        """Return whose certificate the peer has. Raises Unauthenticated."""
        return certificate_identity(call.auth_context(), self._certificate_name)


class Authenticator:
    """Says who calls at one listener."""

    def __init__(
        self,
        identity: Literal["none", "token", "certificate"],
        credentials: Credentials,
        principal: str | None = None,
    ) -> None:
        """`principal` is the name of all who call at a Unix socket."""
        everyone = ANYONE.principal if principal is None else Principal(principal, "socket")
        #: Return who makes a call, or raise Unauthenticated. Asked again for an open stream, it also notices that a
        #: token was revoked or has expired, or a key was removed.
        self.authenticate: Authenticate = {
            "none": lambda _: everyone,
            "token": credentials.by_token,
            "certificate": credentials.by_certificate,
        }[identity]


def certificate_identity(
    properties: Mapping[str, Iterable[bytes]], kind: CertificateName | None
) -> Principal:
    """Return whose certificate has these properties: its SPIFFE id, or else its one name of this kind, never the CN.

    Raises Unauthenticated.
    """
    is_spiffe = "peer_spiffe_id" in properties
    key = "peer_spiffe_id" if is_spiffe else "" if kind is None else f"peer_{kind.value}"
    names = list(properties.get(key, ()))
    if len(names) != 1:
        also = "" if kind is None else f" and not one name of the kind '{kind.value}' but {len(names)}"
        raise Unauthenticated(f"the client certificate has no SPIFFE id{also}")
    try:
        principal = Principal(names[0].decode(), "certificate")
    except ValueError as error:  # also of bytes that are not UTF-8, of which the library's text shows one
        why = "the name is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise Unauthenticated(f"the client certificate: {why}") from None
    if principal.name.lower().startswith("spiffe:") and not is_spiffe:
        raise Unauthenticated("the client certificate has a SPIFFE id that is not valid")
    return principal


def _bearer(call: Context) -> str:
    """Return the token of the call."""
    values = [value for key, value in call.invocation_metadata() or () if key == "authorization"]
    if not values:
        raise Unauthenticated("the metadata 'authorization' is missing; send 'Bearer TOKEN'")
    if len(values[0]) > MAX_AUTHORIZATION_BYTES:
        raise Unauthenticated(f"the metadata 'authorization' has more than {MAX_AUTHORIZATION_BYTES} bytes")
    value = values[0] if len(values) == 1 and isinstance(values[0], str) else ""
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token or " " in token or not token.isascii():
        raise Unauthenticated("the metadata 'authorization' is not one text 'Bearer TOKEN' in ASCII")
    return token
