"""Listening: opens every address that `server.listen` stands for, or none, and says why when it cannot.

grpc is content with one address of a name that has several, and gives no reason for a failure. So each address is
tried with a socket of our own first.
"""

import asyncio
import errno
import os
import socket
import stat
from contextlib import ExitStack
from typing import Any

import grpc

from emitd_server.errors import StartError
from emitd_server.rpc.unix_socket import SCHEME, UnixSocket

#: The system's limit for the path of a socket, in bytes: 108 with the zero at its end.
MAX_PATH_BYTES = 107

#: They have a meaning in the address that a gRPC client is given.
_NOT_IN_A_PATH = set("%?#")
#: grpc takes either for both.
_WILDCARDS: dict[tuple[Any, ...], socket.AddressFamily] = {
    ("0.0.0.0", 0): socket.AF_INET,
    ("::", 0, 0, 0): socket.AF_INET6,
}
#: grpc's clients know both, whatever the machine's list of hosts says.
_LOCALHOST = ["127.0.0.1", "::1"]
#: The machine does not have this address, or not its family.
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_REASONS = {
    errno.EADDRINUSE: "the address is in use; stop the other server, or choose another address",
    errno.EADDRNOTAVAIL: "it is not an address of this machine",
    errno.EAFNOSUPPORT: "this machine has no addresses of this kind",
    errno.EACCES: "no permission; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
}


async def listen(
    server: grpc.aio.Server,
    address: str,
    *,
    key: str,
    socket_mode: int,
    unix_socket: UnixSocket | None = None,
) -> str:
    """Make `server` listen at `address`; return it, with the port that was picked if 0 was asked for.

    Raises StartError with the reason, naming `key`, the setting or flag with the address. The server is then of no
    use.
    """
    try:
        if address.startswith(SCHEME):
            _open_socket(server, unix_socket or UnixSocket(address), socket_mode)
            return address
        host, _, port = address.rpartition(":")
        picked = await _open_ports(server, host, int(port))
        return f"{host}:{picked}"
    except (OSError, ValueError, RuntimeError) as error:
        raise StartError(
            f"cannot listen on {address} ({key}): {str(error).removeprefix(f'{address}: ')}"
        ) from error


async def _open_ports(server: grpc.aio.Server, host: str, port: int) -> int:
    """Listen at every address of a host; return the port."""
    addresses = await _addresses(host)
    found: list[str] = []
    with ExitStack() as trials:
        for place, family in addresses.items():
            ip = _shown(place)
            try:
                trial = trials.enter_context(socket.socket(family))
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if ip == "[::]":
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind((place[0], port, *place[2:]))
            except OSError as error:
                if error.errno in _NOT_HERE and (found or place != [*addresses][-1]):
                    continue  # such as ::1 of localhost, on a machine without IPv6
                raise OSError(f"{ip}:{port}: {_REASONS.get(error.errno or 0, error.strerror)}") from error
            found.append(ip)
            if len(addresses) > 1:
                port = trial.getsockname()[1]
    for ip in found[:1] if addresses.keys() & _WILDCARDS.keys() else found:
        try:
            port = server.add_insecure_port(f"{ip}:{port}")
        except RuntimeError as error:
            raise RuntimeError(f"grpc could not open {ip}:{port}") from error
    return port


async def _addresses(host: str) -> dict[tuple[Any, ...], socket.AddressFamily]:
    """Return everything that a host stands for, each as `socket.bind` takes it, and its family."""
    names = _LOCALHOST if host.lower() == "localhost" else [host.strip("[]")]
    found: dict[tuple[Any, ...], socket.AddressFamily] = {}
    for name in names:
        try:
            results = await asyncio.get_running_loop().getaddrinfo(name, 0, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(f"the name '{name}' cannot be resolved: {error.strerror}") from error
        except UnicodeError as error:
            raise ValueError(f"'{name}' is not the name of a host") from error
        found.update((place, family) for family, _, _, _, place in results)
    return dict(_WILDCARDS) if found.keys() & _WILDCARDS.keys() else found


def _shown(place: tuple[Any, ...]) -> str:
    ip, _ = socket.getnameinfo(place, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return f"[{ip}]" if ":" in ip else ip


def _open_socket(server: grpc.aio.Server, unix_socket: UnixSocket, mode: int) -> None:
    path, folder = str(unix_socket.path), str(unix_socket.path.parent)
    size = max(len(os.fsencode(name)) for name in (unix_socket.path, unix_socket.own))
    if set(path) & _NOT_IN_A_PATH:
        raise ValueError(f"gRPC's clients cannot reach a path with one of {' '.join(sorted(_NOT_IN_A_PATH))}")
    if size > MAX_PATH_BYTES:
        raise ValueError(f"the path has {size} bytes; a socket's path has at most {MAX_PATH_BYTES}")
    if not os.path.isdir(folder):
        is_missing = not os.path.lexists(folder)
        raise ValueError(f"there is no folder {folder}" if is_missing else f"{folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"no permission to make a socket in the folder {folder}")
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ValueError(f"{path} exists and is not a socket")
    umask = os.umask(0o177)  # until its mode is set, only the owner can connect
    try:
        unix_socket.bind(server.add_insecure_port)
    except RuntimeError as error:
        raise RuntimeError("grpc could not open the socket") from error
    finally:
        os.umask(umask)
    os.chmod(path, mode)
