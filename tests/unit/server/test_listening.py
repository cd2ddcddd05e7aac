"""Listening at an address opens everything that it stands for, or nothing, and says why it cannot."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emitd_server.errors import StartError
from emitd_server.rpc import listening
from emitd_server.rpc.listening import Listener
from emitd_server.settings import ListenEntry
from support.processes.own_calls import with_own

#: A busy port is refused, as the service does.
OPTIONS = [("grpc.so_reuseport", 0)]
HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def occupy(sockets: ExitStack, ip: str) -> int:
    """Listen at an address as another program would; return the port."""
    other = sockets.enter_context(socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET))
    if ":" in ip:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    other.bind((ip, 0))
    other.listen()
    port: int = other.getsockname()[1]
    return port


def listener(address: str, mode: str = "0600", **entry: bool) -> Listener:
    """A listener on all addresses, those beyond loopback too."""
    is_open = not address.startswith("unix:")
    return Listener("--listen", ListenEntry(address=address, insecure=is_open, **entry), mode, OPTIONS)


async def opened(address: str) -> str:
    """Listen and stop again; return the address."""
    server = listener(address)
    try:
        return await server.open()
    finally:
        await server.stop(0)


async def reason(address: str) -> str:
    """Why an address cannot be used."""
    with pytest.raises(StartError) as caught:
        await opened(address)
    prefix = f"cannot listen on {address} (--listen): "
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix)


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("taken", "host", "named"),
    [
        ("127.0.0.1", "localhost", "127.0.0.1"),
        ("::1", "localhost", "[::1]"),
        ("0.0.0.0", "localhost", "127.0.0.1"),
        ("::", "LocalHost", "[::1]"),
        ("127.0.0.1", "[::]", "0.0.0.0"),
        ("127.0.0.1", "0.0.0.0", "0.0.0.0"),
        ("::1", "0.0.0.0", "[::]"),
    ],
)
async def test_one_taken_address_refuses_all(sockets: ExitStack, taken: str, host: str, named: str) -> None:
    """Otherwise a part of the clients would reach another server."""
    port = occupy(sockets, taken)
    which = "" if host == named else f"{named}:{port}: "
    assert (await reason(f"{host}:{port}")).startswith(f"{which}the address is in use")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"])
async def test_port_0_picks_one(host: str) -> None:
    """The same for every address of a name."""
    address = await opened(f"{host}:0")
    assert address.startswith(f"{host}:")
    assert int(address.rpartition(":")[2]) > 0


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
async def test_a_machine_without_ipv6_has_a_localhost(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """An address that the machine does not have is left out, as long as there is another."""

    class Socket(socket.socket):
        def bind(self, address: object) -> None:
            if self.family is socket.AF_INET6:
                raise OSError(code, "not here")
            super().bind(address)  # type: ignore[arg-type]

    monkeypatch.setattr(listening, "socket", with_own(socket, socket=Socket))
    for host in ("localhost", "0.0.0.0"):
        await opened(f"{host}:0")
    assert await reason("[::1]:0") in (
        "it is not an address of this machine",
        "this machine has no addresses of this kind",
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1:5000", "it is not an address of this machine"),
        ("nosuch.invalid:5", "the name 'nosuch.invalid' cannot be resolved: "),
        ("999.1.1.1:5", "has '999.1.1.1', which is not the ASCII name of a host"),
        ("127.1:5", "has '127.1', which is not the ASCII name of a host"),
        ("a..b:5", "has 'a..b', which is not the ASCII name of a host"),
        ("a" * 70 + ":5", "has 'aaaa"),
        ("unix:no/such", "there is no folder no"),
        ("unix:file", "file exists and is not a socket"),
        ("unix:folder", "folder exists and is not a socket"),
        ("unix:link", "link exists and is not a socket"),
        ("unix:file/s", "file is not a folder"),
        ("unix:" + "a" * 108, "has a path of 108 bytes; a socket's path has at most 107"),
        ("unix:" + "ä" * 54, "has a path of 108 bytes; a socket's path has at most 107"),
        ("unix:" + "a" * 107 + "/s", "has a path of 109 bytes"),
        ("unix:a%20b", "has a path with one of # % ? or a zero, which gRPC's clients cannot reach"),
        ("unix:a\0b", "has a path with one of # % ? or a zero"),
    ],
)
async def test_each_failure_has_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, expected: str
) -> None:
    """So that the operator need not guess."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    assert (await reason(address)).startswith(expected)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:81", "no permission; ports below 1024 need root"),
        ("unix:/emitd-test.sock", "no permission to make a socket in the folder /"),
    ],
)
def test_no_permission(address: str, expected: str) -> None:
    """A user other than root learns what is missing."""
    script = (
        "import asyncio, concurrent.futures.thread, grpc, os, sys\n"  # another user may not read modules
        "from emitd_server.errors import StartError\n"
        "from emitd_server.rpc.listening import Listener\n"
        "from emitd_server.settings import ListenEntry\n"
        "'x'.encode('idna')\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "async def main():\n"
        "    try: await Listener('k', ListenEntry(address=sys.argv[1]), '0600', []).open()\n"
        "    except StartError as error: print(error)\n"
        "asyncio.run(main())\n"
    )
    if ":81" in address and int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("everyone may use port 81 here")
    done = subprocess.run(
        [sys.executable, "-c", script, address], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.startswith(f"cannot listen on {address} (k): {expected}")


@pytest.mark.parametrize("mode", ["0600", "0660", "0666"])
async def test_a_socket_has_its_mode(tmp_path: Path, mode: str) -> None:
    """Whatever the umask is, which stays as it was."""
    path = tmp_path / "a b.sock"
    before = os.umask(0o022)
    try:
        server = listener(f"unix:{path}", mode)
        assert await server.open() == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == int(mode, 8)
        await server.stop(0)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
