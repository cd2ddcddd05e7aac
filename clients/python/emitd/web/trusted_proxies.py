"""`TrustedProxies`: the address that a request came from, by the word of trusted proxies only.

Each proxy appends the address of its caller to a header. So the header is read from the right, as long as the addresses
are those of trusted proxies. The first other address is the source; the source may have made up what is left of it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import islice
from typing import TypeAlias

from emitd_handlers.text.address import ip_of

#: Stands among the trusted proxies for all clients of a Unix socket.
UNIX = "unix"
#: The `source_ip` where there is no address.
UNKNOWN = "unknown"

_Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

_WITH_PORT = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
)
#: A parameter of RFC 7239. Values that should be quoted, such as one with a port, often are not.
_PARAMETER = re.compile(r'(?P<name>[A-Za-z-]+)=(?:"(?P<quoted>[^"\\]*)"|(?P<plain>[^"\\\s]+))')


class TrustedProxies:
    """The proxies in front of an application. Pure: the same question has the same answer."""

    def __init__(
        self,
        proxies: Iterable[str] | str = (),
        *,
        header: str = "X-Forwarded-For",
        max_proxies: int = 32,
    ) -> None:
        """Trust these addresses and networks (`10.0.0.0/8`); `unix` means all who come by a Unix socket.

        Raises ValueError for what is neither.
        """
        names = [proxies] if isinstance(proxies, str) else list(proxies)
        self._trusts_unix = UNIX in names
        self._networks = [_network(name) for name in names if name != UNIX]
        self._is_rfc_7239 = header.lower() == "forwarded"
        self._max_proxies = max_proxies

    def trusts(self, peer: str | None) -> bool:
        """Return whether a connection from `peer` is a trusted proxy's; empty or None: a Unix socket."""
        if not peer:
            return self._trusts_unix
        address = _address(peer)
        return address is not None and self._has(address)

    def source_address(self, peer: str | None, values: Sequence[str]) -> str:
        """Return the address that a request came from, or `unknown`.

        `peer` is who connected, `values` are those of the header, one for each time it stands in the request. Where it
        is malformed or ends, the answer is the last address that is certain.
        """
        address = _address(peer or "")
        if self.trusts(peer):
            for hop in islice(self._hops(values), self._max_proxies):
                if hop is None:
                    break
                address = hop
                if not self._has(hop):
                    break
        return UNKNOWN if address is None else str(address)

    def _has(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def _hops(self, values: Sequence[str]) -> Iterator[_Address | None]:
        """Yield the addresses, the nearest first; None for what is none."""
        for value in reversed(values):
            # Also at a comma between quotes: what is torn by it is malformed, and ends the way.
            for entry in reversed(value.split(",")):
                if entry := entry.strip(" \t"):
                    yield _hop(_for(entry) if self._is_rfc_7239 else entry)


def _network(name: str) -> _Network:
    try:
        network = ip_network(name)
    except ValueError as error:
        raise ValueError(f"trusted_proxies: {error}") from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ValueError(f"trusted_proxies: write '{name}' as IPv4")
    return network


def _address(text: str) -> _Address | None:
    """Return an address without its zone."""
    address = ip_of(text)
    return IPv6Address(int(address)) if isinstance(address, IPv6Address) else address


def _hop(text: str) -> _Address | None:
    """Read `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`."""
    if match := _WITH_PORT.fullmatch(text):
        text = match["six"] or match["four"]
    return None if "%" in text else _address(text)  # a zone is of one machine only


def _for(element: str) -> str:
    """Return the parameter `for` of an element of RFC 7239; empty where there is none, or the element is malformed."""
    found = ""
    for parameter in element.split(";"):
        match = _PARAMETER.fullmatch(parameter.strip(" \t"))
        if match is None:
            return ""
        if match["name"].lower() == "for":
            if found:
                return ""
            found = match["quoted"] or match["plain"] or ""
    return found
