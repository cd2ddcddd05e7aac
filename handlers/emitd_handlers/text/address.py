"""Addresses as texts, read in one place for client, command line, configuration and audit trail. Pure.

203.0.113.7   2001:db8::7   fe80::1%eth0      of a machine
HOST:PORT     [IPV6]:PORT   unix:PATH         of a server: where it listens, and where clients connect
"""

import os
import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

#: The longest IPv6 address, `%` and the longest zone.
MAX_IP_CHARACTERS = 45 + 1 + 15
#: The system's limit for the path of a socket, in bytes: 108 with the zero at its end.
MAX_PATH_BYTES = 107
UNIX = "unix:"

#: RFC 4007 leaves zones to the system: Linux gives an interface's name 15 bytes. RFC 6874: these need no escape.
_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,15}")
_SERVER = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:\[\]]*))?")
_PORT = re.compile(r"[0-9]{1,5}")
#: One part of a name. The last is no number: `127.1` and `0x7f000001` mean an IPv4 address to some programs only.
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


def ip_of(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a machine that a text is, or None. An IPv4 address in IPv6's form is that IPv4 address."""
    try:
        ip = ip_address(text) if len(text) <= MAX_IP_CHARACTERS else None
    except ValueError:
        return None
    if not isinstance(ip, IPv6Address):
        return ip
    if ip.scope_id is None:
        return ip.ipv4_mapped or ip
    return ip if _ZONE.fullmatch(ip.scope_id) else None


class ServerAddress(NamedTuple):
    """A host, which is a name or the address of a machine, and its port; or only the path of a socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        """Return it as it is written."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{UNIX}{self.path}" if self.path else f"{host}:{self.port}"


def read_server_address(text: str, lowest_port: int = 1) -> ServerAddress:
    """Return what the address of a server says; a server itself may also listen on port 0.

    Raises ValueError with a predicate of the text, such as "has no port".
    """
    address = _read_path(text) if text.startswith(UNIX) else _read(text, lowest_port)
    if isinstance(address, str):
        raise ValueError(address)
    return address


def shown(text: str) -> str:
    """Return a text that should be an address, for an error: quoted, cut, and without a user's name and password."""
    text = text if text.startswith(UNIX) else re.sub(r".*@", "…@", text, flags=re.DOTALL)
    return repr(text if len(text) <= 64 else text[:64] + "…")


def _read(text: str, lowest_port: int) -> ServerAddress | str:
    """Return the address, or what is wrong with it."""
    if "://" in text:
        return "is a URL"
    if "@" in text:
        return "has a user's name"
    match = _SERVER.fullmatch(text)
    if match is None:
        is_ipv6 = ip_of(text) or ip_of(text.rpartition(":")[0])
        return "has an IPv6 address without brackets" if is_ipv6 else "is no such address"
    host, port = match.groups()
    if not port:
        return "has no port"
    if not _PORT.fullmatch(port) or not lowest_port <= int(port) <= 65_535:
        return f"has the port {shown(port)}, which is no number from {lowest_port} to 65535"
    if not _is_host(host):
        return f"has {shown(host)}, which is not the ASCII name of a host" if host else "has no host"
    return ServerAddress(host.strip("[]"), int(port))


def _is_host(host: str) -> bool:
    if host.startswith("["):
        return ":" in host and ip_of(host[1:-1]) is not None
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return ip_of(host) is not None
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels))


def _read_path(text: str) -> ServerAddress | str:
    path = re.sub("^//(?=/)", "", text.removeprefix(UNIX))  # unix:///run/emitd.sock is a URI
    size = len(os.fsencode(path))
    if not path.strip("/") or path.startswith("//"):
        return "has no path" if not path.strip("/") else "has a host before its path"
    if set(path) & set("%?#\0"):
        return "has a path with one of # % ? or a zero, which gRPC's clients cannot reach"
    if size > MAX_PATH_BYTES:
        return f"has a path of {size} bytes; a socket's path has at most {MAX_PATH_BYTES}"
    return ServerAddress("", 0, path)
