"""Names that a test makes known, moves and forgets, without the DNS of the machine."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_A = 1
_ANSWER = 0x8180
_NO_SUCH_NAME = 0x8183


class Names(dict[str, list[str]]):
    """What each name stands for. `asked`: the names that were looked up."""

    def __init__(self, *known: dict[str, list[str]], **others: list[str]) -> None:
        super().__init__(*known, **others)
        self.asked: list[str] = []

    def use_for_getaddrinfo(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Answer `socket.getaddrinfo` until the end of the test."""
        numeric = socket.getaddrinfo

        def look_up(host: str, port: int, **options: Any) -> list[Any]:
            try:
                return numeric(host, port, flags=socket.AI_NUMERICHOST, **options)
            except socket.gaierror:
                self.asked.append(host)
            if host not in self:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [answer for ip in self[host] for answer in numeric(ip, port, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve them as a name server does; give its address. A name has one IPv4 address."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=self._serve, args=(server,))
            thread.start()
            try:
                yield f"127.0.0.1:{server.getsockname()[1]}"
            finally:
                server.sendto(b"", server.getsockname())
                thread.join(10)

    def _serve(self, server: socket.socket) -> None:
        while True:
            query, sender = server.recvfrom(512)
            if not query:
                return
            labels, at = [], 12
            while size := query[at]:
                labels.append(query[at + 1 : at + 1 + size].decode())
                at += 1 + size
            name, question = ".".join(labels), query[12 : at + 5]
            (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
            self.asked.append(name)
            ips = self.get(name, []) if kind == _A else []
            answers = [b"\xc0\x0c" + struct.pack("!HHIH", _A, 1, 0, 4) + socket.inet_aton(ip) for ip in ips]
            code = _ANSWER if name in self else _NO_SUCH_NAME
            reply = (
                query[:2] + struct.pack("!HHHHH", code, 1, len(answers), 0, 0) + question + b"".join(answers)
            )
            server.sendto(reply, sender)
