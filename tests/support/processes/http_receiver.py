"""A real HTTP server on loopback that accepts what is posted to it, or fails in the way that the test sets."""

import asyncio
import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

#: How long tests wait for something to arrive before they fail.
WAIT_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """What a request gets: a status with headers and body, and then perhaps no end."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: The body is announced as longer than it is, and its rest never comes.
    never_ends: bool = False


#: The request is read and never answered, until `release`.
HANG = "hang"
#: The connection is closed without an answer.
CLOSE = "close"

Behaviour = Answer | str
Plan = Callable[["Received"], Behaviour]


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    method: str
    target: str
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records in the body."""
        records: list[dict[str, Any]] = json.loads(self.body)["records"]
        return records

    @property
    def messages(self) -> list[str]:
        """The messages of the records in the body."""
        return [record["message"] for record in self.records]


class HttpReceiver:
    """Runs in a thread of its own, so that it also serves tests that make their own event loop.

    Answers 200 unless `will` or `plan` says otherwise. `with HttpReceiver() as receiver: ...`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        #: Every request, in order, accepted or not.
        self.requests: list[Received] = []
        #: Those that were answered with 200.
        self.taken: list[Received] = []
        #: How many connections were made.
        self.connection_count = 0
        self._tls = tls
        self._behaviours: deque[Behaviour] = deque()
        self._plan: Plan | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-receiver")
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._released = asyncio.Event()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/ingest"

    @property
    def taken_messages(self) -> list[str]:
        """The messages of all records that were taken, in order."""
        return [message for request in self.taken for message in request.messages]

    def will(self, *behaviours: Behaviour) -> None:
        """Treat the next requests like this, one after the other."""
        self._behaviours.extend(behaviours)

    def plan(self, plan: Plan | None) -> None:
        """Let `plan` decide about each request from now on; None: 200."""
        self._plan = plan

    def release(self) -> None:
        """Answer with 200 the requests that hang, and all after them."""
        self._behaviours.clear()
        self._plan = None
        self._loop.call_soon_threadsafe(self._released.set)

    def go_away(self) -> None:
        """Close the port and every connection."""
        self._run(self._close())

    def come_back(self) -> None:
        """Listen on the same port again."""
        self._run(self._open())

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something about the receiver, or fail."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"did not happen; {len(self.requests)} requests came"
            await asyncio.sleep(0.005)

    def _run(self, call: Any) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result(WAIT_SECONDS)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls, limit=2**20
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.connection_count += 1
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sender has gone
        except asyncio.CancelledError:
            pass  # we are going: asyncio's own callback would complain of a cancelled task
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request; return whether the connection stays."""
        request = await _read(reader)
        behaviour = self._next_behaviour(request)
        if behaviour == CLOSE:
            self.requests.append(request)
            return False
        if behaviour == HANG:
            self.requests.append(request)
            gone = asyncio.ensure_future(reader.read(1))
            released = asyncio.ensure_future(self._released.wait())
            try:
                await asyncio.wait([gone, released], return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                released.cancel()
            if gone.done() and not gone.cancelled():
                return False
            behaviour = Answer()
        else:
            self.requests.append(request)
        assert isinstance(behaviour, Answer)
        if behaviour.status == 200:
            self.taken.append(request)
        writer.write(_encode(behaviour))
        await writer.drain()
        if behaviour.never_ends:
            await reader.read(1)
            return False
        return True

    def _next_behaviour(self, request: Received) -> Behaviour:
        if self._behaviours:
            return self._behaviours.popleft()
        return self._plan(request) if self._plan else Answer()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, target, headers, body)


def _encode(answer: Answer) -> bytes:
    length = len(answer.body) + (1 if answer.never_ends else 0)
    lines = [f"HTTP/1.1 {answer.status} Whatever", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + answer.body
