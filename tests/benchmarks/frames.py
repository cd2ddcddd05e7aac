"""Calls made of ready-made HTTP/2 frames, which cost the generator a tenth of what they cost a server.

A record's id is the only thing that changes from request to request. What offers more than a server can take is an
open loop: a call is due when its time comes, whether or not others have ended, and its latency counts from there.
"""

import re
import selectors
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count

from emitd.v1 import log_service_pb2

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_MAX_FRAME = 16384
_WINDOW_BYTES = 65535
#: What the template's ids are replaced by has as many characters.
ID_CHARACTERS = 36


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def headers(method: str, token: str = "", timeout: str = "30S") -> bytes:
    """Return a header block without compression."""

    def text(value: str) -> bytes:
        data = value.encode()
        return bytes((len(data),)) + data  # of less than 127 bytes

    block = b"\x83\x86\x04" + text(f"/emitd.v1.LogService/{method}") + b"\x01" + text("localhost")
    for name, value in {
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": timeout,
    }.items():
        block += b"\x00" + text(name) + text(value)
    return block + (b"\x00" + text("authorization") + text(f"Bearer {token}") if token else b"")


class Template:
    """A request of some records, each with a new id each time it is asked for."""

    def __init__(self, data: bytes, ids: Sequence[str], name: str) -> None:
        """`name` tells the ids of one generator from those of others."""
        self.records = len(ids)
        self._data = bytearray(data)
        self._places = [data.index(each.encode()) for each in ids]
        self._name = name
        self._numbers = count()

    def next(self) -> bytes:
        """Return a message as it stands in a DATA frame."""
        data = self._data
        for place in self._places:
            data[place : place + ID_CHARACTERS] = self._text()
        return b"\x00" + len(data).to_bytes(4) + data

    def _text(self) -> bytes:
        return f"{self._name}-{next(self._numbers)}".rjust(ID_CHARACTERS, "0").encode()


class Result:
    """What became of the calls."""

    def __init__(self) -> None:
        self.offered = 0
        self.accepted_records = 0
        #: Of calls that were accepted, from when they were due.
        self.latencies: list[float] = []
        #: By gRPC's code, or `reset`, or `unanswered` at the end.
        self.refused: Counter[str] = Counter()


class _Connection:
    def __init__(
        self, address: str, block: bytes, template: Template, result: Result, stop_at: float
    ) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        settings = struct.pack("!HIHI", 1, 0, 4, 1 << 24)  # no table of headers; a wide window for replies
        window = frame(_WINDOW, 0, 0, (1 << 30).to_bytes(4))
        self._out = bytearray(_PREFACE + frame(_SETTINGS, 0, 0, settings) + window)
        self._in = bytearray()
        self._window = _WINDOW_BYTES
        self._block, self._template, self._result, self._stop_at = block, template, result, stop_at
        self._next_stream = 1
        #: When each call was due that was not sent, and each that was not answered, by its stream.
        self.waiting: deque[float] = deque()
        self.open: dict[int, float] = {}
        #: What is left to send of messages, and what the server lets a stream send.
        self._unsent: dict[int, bytes] = {}
        self._stream_windows: dict[int, int] = {}
        self._ready: set[int] = set()
        self._replies: dict[int, bytes] = {}
        self.is_closed_loop = False

    def send(self) -> None:
        """Send what the connection takes of the calls that are due."""
        while self.waiting and self._window > 0 and len(self._out) < 1 << 18:
            message = self._template.next()
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            self._out += frame(_HEADERS, _END_HEADERS, stream, self._block)
            self.open[stream] = self.waiting.popleft()
            self._unsent[stream] = message
            self._stream_windows[stream] = _WINDOW_BYTES
            self._send_message(stream)
        for stream in self._ready & self._unsent.keys() if self._window > 0 else ():
            self._ready.discard(stream)
            self._send_message(stream)
        if self._out:
            with suppress(BlockingIOError):
                del self._out[: self.socket.send(self._out)]

    def _send_message(self, stream: int) -> None:
        """Send what the windows let of a message."""
        message = self._unsent.pop(stream)
        room = min(self._window, self._stream_windows[stream], len(message))
        for start in range(0, room, _MAX_FRAME):
            part = message[start : min(start + _MAX_FRAME, room)]
            is_last = start + len(part) == len(message)
            self._out += frame(_DATA, _END_STREAM if is_last else 0, stream, part)
        self._window -= max(room, 0)
        self._stream_windows[stream] -= max(room, 0)
        if room < len(message):
            self._unsent[stream] = message[max(room, 0) :]
            if self._stream_windows[stream] > 0:  # the connection's is used up
                self._ready.add(stream)

    def receive(self) -> None:
        """Take what has come."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        buffer = self._in
        buffer += data
        place = 0
        while len(buffer) >= place + 9:
            size = int.from_bytes(buffer[place : place + 3])
            end = place + 9 + size
            if len(buffer) < end:
                break
            stream = int.from_bytes(buffer[place + 5 : place + 9])
            self._take(buffer[place + 3], buffer[place + 4], stream, bytes(buffer[place + 9 : end]))
            place = end
        del buffer[:place]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._replies[stream] = self._replies.get(stream, b"") + payload
        elif kind == _HEADERS and flags & _END_STREAM:
            code = re.search(rb"grpc-status.(\d+)", payload)
            self._end(stream, code[1].decode() if code else "unknown")
        elif kind == _RESET:
            self._end(stream, "reset")
        elif kind == _WINDOW and not stream:
            self._window += int.from_bytes(payload)
        elif kind == _WINDOW and stream in self._stream_windows:
            self._stream_windows[stream] += int.from_bytes(payload)
            self._ready.add(stream)
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._out += frame(kind, _ACK, 0, payload if kind == _PING else b"")
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server said goodbye: {payload[8:]!r}")

    def _end(self, stream: int, code: str) -> None:
        due = self.open.pop(stream, None)
        if due is None:
            return
        self._ready.discard(stream)
        self._unsent.pop(stream, None)
        self._stream_windows.pop(stream, None)
        now, result = time.perf_counter(), self._result
        reply = self._replies.pop(stream, b"")
        if reply:
            records = self._template.records
            accepted = 1
            if records > 1:
                accepted = log_service_pb2.EmitBatchResponse.FromString(reply[5:]).accepted_count
            if accepted < records:
                result.refused["record"] += records - accepted
            if accepted and now < self._stop_at:
                result.accepted_records += accepted
                result.latencies.append(now - due)
        else:
            result.refused[code] += 1
        if self.is_closed_loop:
            self.waiting.append(now)


def run(
    address: str,
    template: Template,
    *,
    seconds: float,
    token: str = "",
    rate: float = 0.0,
    in_flight: int = 0,
    connections: int = 8,
    drain_seconds: float = 2.0,
) -> Result:
    """Offer `rate` calls a second, or keep `in_flight` under way, for a time; what is accepted later is left out."""
    block = headers("Emit" if template.records == 1 else "EmitBatch", token)
    result = Result()
    begin = time.perf_counter()
    stop_at = begin + seconds
    pool = [_Connection(address, block, template, result, stop_at) for _ in range(connections)]
    with selectors.DefaultSelector() as selector:
        for each in pool:
            selector.register(each.socket, selectors.EVENT_READ, each)
        for number in range(in_flight):
            pool[number % connections].waiting.append(begin)
            pool[number % connections].is_closed_loop = True
        while (now := time.perf_counter()) < stop_at + drain_seconds:
            if now < stop_at:
                for number in range(result.offered, int((now - begin) * rate)):
                    pool[number % connections].waiting.append(begin + number / rate)
                    result.offered += 1
            elif not any(each.open for each in pool):
                break
            else:
                for each in pool:
                    result.refused["unanswered"] += len(each.waiting)
                    each.waiting.clear()
                    each.is_closed_loop = False
            for each in pool:
                each.send()
            for key, _ in selector.select(0.001):
                key.data.receive()
    for each in pool:
        result.refused["unanswered"] += len(each.open) + len(each.waiting)
        each.socket.close()
    return result
