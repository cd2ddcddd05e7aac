"""A cheap reader of many gRPC streams, so that a benchmark measures the server and not its client.

Speaks just enough HTTP/2 (RFC 9113) and gRPC over it to open server streams on a few connections and to note when
each message came. Flow control windows are opened wide at the start.
"""

import re
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence

__all__ = ["StreamClient"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = 0x1
_END_STREAM = 0x1
_END_HEADERS = 0x4
_MAX_WINDOW = 2**31 - 1
_SETTING_INITIAL_WINDOW = 4
#: The texts that a message carries to say when a change was made, and when one of the status.
_CHANGE = re.compile(rb"@(\d{19})")
_TRANSITION = re.compile(rb"#(\d{19})")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes((kind, flags)) + struct.pack("!I", stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header field without indexing (RFC 7541, section 6.2.2); both texts shorter than 127 bytes."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


class _Connection:
    """One HTTP/2 connection with its streams."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._next_stream = 1
        settings = struct.pack("!HI", _SETTING_INITIAL_WINDOW, _MAX_WINDOW)
        wide = struct.pack("!I", _MAX_WINDOW - 65_535)
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, wide))

    def open_stream(self, path: str, request: bytes) -> None:
        """Send a request with one message."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        headers = b"".join(_literal(name, value) for name, value in fields.items())
        message = b"\0" + struct.pack("!I", len(request)) + request
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.socket.sendall(
            _frame(_HEADERS, _END_HEADERS, stream, headers) + _frame(_DATA, _END_STREAM, stream, message)
        )

    def receive(self, take: Callable[[bytes], None]) -> None:
        """Read what has come, and hand on the payload of each DATA frame. Raises RuntimeError at an end."""
        received = self.socket.recv(1 << 20)
        if not received:
            raise RuntimeError("the server closed a connection")
        data, place = self._buffer + received, 0
        while len(data) - place >= 9:
            size = int.from_bytes(data[place : place + 3], "big")
            end = place + 9 + size
            if len(data) < end:
                break
            kind, flags = data[place + 3], data[place + 4]
            if kind == _DATA:
                take(data[place + 9 : end])
            elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
                raise RuntimeError(f"the server ended a stream with a frame of type {kind}")
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                answer = data[place + 9 : end] if kind == _PING else b""
                self.socket.sendall(_frame(kind, _ACK, 0, answer))
            place = end
        self._buffer = data[place:]


class StreamClient:
    """Streams of one kind, spread over some connections; notes the delay of each message, in seconds."""

    def __init__(self, address: str, *, connections: int) -> None:
        self._connections = [_Connection(address) for _ in range(connections)]
        self._selector = selectors.DefaultSelector()
        for connection in self._connections:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        #: For each message that has the time of a change.
        self.delays: list[float] = []
        #: How many of them came, by that time.
        self.arrivals: Counter[int] = Counter()
        #: For each transition that a message tells; a message can tell several.
        self.transition_delays: list[float] = []

    def open_streams(self, path: str, requests: Sequence[bytes]) -> None:
        """Open a stream for each request."""
        for index, request in enumerate(requests):
            self._connections[index % len(self._connections)].open_stream(path, request)

    def read(self, *, until: Callable[[], bool], seconds: float) -> bool:
        """Read until `until()` holds, or `seconds` have passed; return whether it held."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                return False
            for key, _ in self._selector.select(timeout=0.02):
                key.data.receive(self._take)
        return True

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.socket.close()
        self._selector.close()

    def _take(self, payload: bytes) -> None:
        now = time.time_ns()
        for text in _CHANGE.findall(payload):
            stamp = int(text)
            self.arrivals[stamp] += 1
            self.delays.append((now - stamp) / 1e9)
        for text in set(_TRANSITION.findall(payload)):  # the job itself repeats the last one
            self.transition_delays.append((now - int(text)) / 1e9)
