"""Listening: opens every address that `server.listen` stands for, or none, and says why when it cannot.

grpc is content with one address of a name that has several, and gives no reason for a failure. So each address is
tried with a socket of our own first. grpc also takes the path of a socket from a server that listens on it, and deletes
the path when it stops, even another's. So it binds a name of its own, which is then moved to the path.
"""

import asyncio
import errno
import fcntl
import os
import secrets
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from emitd_handlers.diagnostics import report
from emitd_handlers.durable.file_identity import FileIdentity
from emitd_handlers.text.address import MAX_PATH_BYTES, UNIX, read_server_address
from emitd_server.access.certificates import Certificates
from emitd_server.config.listeners import GUARDED_EXPECTED, exposure
from emitd_server.errors import ConfigError, Problem, StartError
from emitd_server.settings import ListenEntry

Options: TypeAlias = Sequence[tuple[str, int]]
#: With TLS a connection ends after this time, so that the next one takes the new certificate and is checked against the
#: new authorities. Its calls have the grace to finish; streams are opened again by the clients.
AGE_OPTIONS: Options = (
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
)
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


class UnixSocket:
    """The path of a server that listens on `unix:PATH`, which belongs to one server at a time."""

    def __init__(self, listen: str) -> None:
        self.path = Path(listen.removeprefix(UNIX))
        #: The name that grpc binds.
        self.own = self.path.with_name(f".{secrets.token_hex(4)}")
        self._identity: FileIdentity | None = None

    def bind(self, bind: Callable[[str], object]) -> None:
        """Call `bind` with an address to listen on, and give its socket the path. A stale socket is replaced.

        Raises OSError if a server listens on the path.
        """
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed: two servers may start at once
            self._refuse_if_used()
            try:
                bind(f"{UNIX}{self.own}")
                os.rename(self.own, self.path)
            finally:
                with suppress(FileNotFoundError):
                    self.own.unlink()
            self._identity = FileIdentity.of(self.path)
        finally:
            os.close(folder)

    def problem(self) -> str:
        """Return why no client can connect by the path; empty: clients can."""
        displacement = None if self._identity is None else self._identity.displacement()
        if displacement is None:
            return ""
        return f"no client can connect to socket '{self.path}': {displacement.value}. Restart the service"

    def remove(self) -> None:
        """Delete the path, unless it leads to something else by now."""
        if self._identity is not None and self._identity.displacement() is None:
            with suppress(FileNotFoundError):
                self.path.unlink()
        self._identity = None

    def _refuse_if_used(self) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self.path))
            except (FileNotFoundError, ConnectionRefusedError):
                return  # there is none, or its server is gone
            except BlockingIOError:
                pass  # its queue is full
        raise OSError("another server listens on it; stop that one first")


class Listener:
    """One entry of `server.listen`, with a grpc server of its own: a call does not say by which port it came.

    `key` is the setting or flag with the address, for errors; `options` are those of the server.
    """

    def __init__(self, key: str, entry: ListenEntry, socket_mode: str, options: Options) -> None:
        self.key = key
        self.entry = entry
        self.socket = UnixSocket(entry.address) if entry.is_unix else None
        self._socket_mode = int(socket_mode, 8)
        self.certificates = Certificates(entry.tls, f"{entry.address} ({key})") if entry.tls else None
        self._options = [*options, *([] if entry.tls is None else AGE_OPTIONS)]
        self.server: grpc.aio.Server | None = None
        self._is_serving = False

    async def open(self) -> str:
        """Make the server and let it listen, at every address or at none; return its address.

        Port 0 becomes the one that was picked. Raises StartError, and ConfigError if it would be too open.
        """
        address = self.entry.address
        self.server = grpc.aio.server(options=self._options)
        try:
            asked = read_server_address(address, lowest_port=0)
            if self.socket is not None:
                _open_socket(self.server, self.socket, self._socket_mode)
                return address
            places = await _addresses(asked.host)
            self._guard([place[0] for place in places])
            if self.certificates is not None:
                await asyncio.to_thread(self.certificates.start)
            return str(asked._replace(port=_open_ports(self._add_port, places, asked.port)))
        except (OSError, ValueError, RuntimeError) as error:
            raise StartError(
                f"cannot listen on {address} ({self.key}): {str(error).removeprefix(f'{address}: ')}"
            ) from error

    async def start(self) -> None:
        """Serve what was added to the server since `open`."""
        assert self.server is not None
        self._is_serving = True
        await self.server.start()

    async def stop(self, grace: float) -> None:
        """End the calls, those under way within `grace` seconds. Idempotent, and safe without `open`."""
        server = self.server
        if server is None:
            return
        if not self._is_serving:
            await self.start()  # grpc closes the ports only of a server that was started
        self.server = None
        await server.stop(grace)
        if self.socket is not None:
            self.socket.remove()

    def _guard(self, hosts: Sequence[str]) -> None:
        address, why = self.entry.address, exposure(self.entry, hosts)
        if why and not self.entry.insecure:
            problem = Problem(
                file="", line=0, path=self.key, found=f"'{address}' {why}", expected=GUARDED_EXPECTED
            )
            raise ConfigError([problem])
        if why:
            report(f"{address} ({self.key}) {why}: insecure, open to everyone who can reach it")

    def _add_port(self, address: str) -> int:
        assert self.server is not None
        if self.certificates is None:
            return self.server.add_insecure_port(address)
        return self.server.add_secure_port(address, self.certificates.credentials())


def _open_ports(
    add_port: Callable[[str], int], addresses: Mapping[tuple[Any, ...], socket.AddressFamily], port: int
) -> int:
    """Listen at every address of a host; return the port."""
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
            port = add_port(f"{ip}:{port}")
        except RuntimeError as error:
            raise RuntimeError(f"grpc could not open {ip}:{port}") from error
    return port


async def _addresses(host: str) -> dict[tuple[Any, ...], socket.AddressFamily]:
    """Return everything that a host stands for, each as `socket.bind` takes it, and its family."""
    names = _LOCALHOST if host.lower() == "localhost" else [host]
    found: dict[tuple[Any, ...], socket.AddressFamily] = {}
    for name in names:
        try:
            results = await asyncio.get_running_loop().getaddrinfo(name, 0, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(f"the name '{name}' cannot be resolved: {error.strerror}") from error
        found.update((place, family) for family, _, _, _, place in results)
    return dict(_WILDCARDS) if found.keys() & _WILDCARDS.keys() else found


def _shown(place: tuple[Any, ...]) -> str:
    ip, _ = socket.getnameinfo(place, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return f"[{ip}]" if ":" in ip else ip


def _open_socket(server: grpc.aio.Server, unix_socket: UnixSocket, mode: int) -> None:
    path, folder = str(unix_socket.path), str(unix_socket.path.parent)
    size = len(os.fsencode(unix_socket.own))  # it can be longer than the path
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
