"""`RequestContext`: what every record made in a request says of it."""

import re
import secrets
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from emitd.web.settings import WebSettings
from emitd.web.trusted_proxies import TrustedProxies

__all__ = ["ContextReader", "RequestContext", "Scope"]

#: Of ASGI: what the server says of a connection.
Scope: TypeAlias = MutableMapping[str, Any]

_REQUEST_ID_BYTES = 16
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Where a request came from, and its id."""

    #: An address, or `unknown`.
    source_ip: str
    request_id: str

    @property
    def attributes(self) -> Mapping[str, str]:
        """What records carry of it."""
        return {"client_ip": self.source_ip, "request_id": self.request_id}


class ContextReader:
    """Reads the context of requests from their ASGI scopes."""

    def __init__(self, proxies: TrustedProxies, settings: WebSettings) -> None:
        self._proxies = proxies
        self._forwarded_header = settings.forwarded_header.lower().encode()
        self._request_id_header = settings.request_id_header.lower().encode()
        self._max_request_id_characters = settings.max_request_id_characters

    def read(self, scope: Scope) -> RequestContext:
        """Return the context of a request. Its id is a trusted proxy's if that is sane, else a new one."""
        client = scope.get("client")
        peer = client[0] if client else None
        return RequestContext(
            source_ip=self._proxies.source_address(peer, _values(scope, self._forwarded_header)),
            request_id=self._given_id(peer, scope) or secrets.token_hex(_REQUEST_ID_BYTES),
        )

    def _given_id(self, peer: str | None, scope: Scope) -> str:
        if not self._proxies.trusts(peer):
            return ""
        values = _values(scope, self._request_id_header)
        if len(values) != 1 or len(values[0]) > self._max_request_id_characters:
            return ""
        return values[0] if _PRINTABLE.fullmatch(values[0]) else ""


def _values(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == header]
