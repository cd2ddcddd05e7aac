"""`Intake`: receives the requests of all calls, a few at a time, and charges each to the account of memory.

    admission ─> read ─> FieldWalk ─> charge for what it will take ─> the method, which parses it

grpc receives and decompresses the request of a unary method before it calls the method. So every method is registered
with grpc as one that takes a stream, which a unary call does not notice, and its request is read here.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from emitd_server.access.limits import LEAST_RECORD_BYTES
from emitd_server.errors import MemoryExhausted, RequestInvalid, RequestLate
from emitd_server.memory import Charge, MemoryAccount
from emitd_server.rpc.field_walk import SMALL_REQUEST_BYTES, FieldWalk, Malformed, shape_of
from emitd_server.settings import LimitSettings

#: In quotes, because grpc's classes take parameters only in their stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Receiver: TypeAlias = Callable[..., Awaitable[tuple[bytes, Charge, int]]]

#: How many requests with records, and how many others, are received at once; other calls wait.
MAX_READS = 4
#: How many calls of one principal wait for that.
MAX_WAITING = 1000
#: How long a call may take to send its request, and how long if other calls wait.
READ_SECONDS = 10.0
CONTENDED_READ_SECONDS = 1.0
#: A request takes this much memory for each byte and for each record or other field; measured with small records.
BYTES_FOR_BYTE = 4
BYTES_FOR_FIELD = 800
#: The largest request of an RPC that takes no records.
MAX_QUESTION_BYTES = 256 * 1024
_BATCH = "emitd.v1.EmitBatchRequest"
_EMITS = ("emitd.v1.EmitRequest", _BATCH)


class Intake:
    """One for all methods of all services: it bounds what they receive together."""

    def __init__(self, limits: LimitSettings, memory: MemoryAccount) -> None:
        self._limits = limits
        self._memory = memory
        # Together a quarter of the account at most, which leaves room for what was received.
        max_reads = max(1, min(MAX_READS, memory.limit_bytes // 8 // limits.max_request_bytes))
        # Two, so that a question does not wait behind a hundred batches.
        self._records = _Lane(max_reads)
        self._questions = _Lane(max_reads)

    def receiver(self, message_type: type[Message]) -> Receiver:
        """Return what receives the requests of a method.

        Given a call and its principal's name, it returns a request, checked; the charge for it, which the caller
        releases; and its cost in bytes, which is at least LEAST_RECORD_BYTES for each record. It raises RequestInvalid,
        RequestLate, and MemoryExhausted.
        """
        name = message_type.DESCRIPTOR.full_name
        lane = self._records if name in _EMITS else self._questions
        descriptor: Any = message_type.DESCRIPTOR  # its stub names two types
        shape = shape_of(descriptor, {f"{_BATCH}.records": self._limits.max_batch_records})
        walk = FieldWalk.walk_batch if name == _BATCH else FieldWalk.walk
        limit, key = self._limits.max_request_bytes, ", the limit of server.limits.max_request_bytes"
        if name not in _EMITS and limit > MAX_QUESTION_BYTES:
            limit, key = MAX_QUESTION_BYTES, ""

        def check(data: bytes) -> int:
            """Return how many records and other fields a request has."""
            if len(data) > limit:
                raise RequestInvalid("", f"the request has {len(data)} bytes, more than {limit}{key}")
            fields = FieldWalk(data)
            try:
                walk(fields, shape)
            except Malformed:
                raise malformed(message_type) from None
            return fields.count

        def verdict(data: bytes) -> int | RequestInvalid:
            """Do what `check` does, but return its error: raised out of a thread, it would keep the request alive."""
            try:
                return check(data)
            except RequestInvalid as error:
                return error.with_traceback(None)

        async def receive(context: Context, principal: str = "") -> tuple[bytes, Charge, int]:
            try:
                async with asyncio.timeout(READ_SECONDS) as timeout:
                    await lane.admit(principal)
                    try:
                        with self._memory.charge(self._limits.max_request_bytes):
                            data = await lane.read(context, timeout)
                            # A large one in a thread: it may take 100 ms, in which the loop must answer others.
                            is_large = len(data) > SMALL_REQUEST_BYTES
                            count = await asyncio.to_thread(verdict, data) if is_large else check(data)
                            if isinstance(count, RequestInvalid):
                                data = b""  # the error's traceback would keep it
                                raise count
                    finally:
                        lane.leave()
                charge = self._memory.charge(BYTES_FOR_BYTE * len(data) + BYTES_FOR_FIELD * count)
                return data, charge, max(len(data), LEAST_RECORD_BYTES * count)
            except TimeoutError:
                raise RequestLate(READ_SECONDS) from None

        return receive


class _Lane:
    """Some calls whose requests are received a few at a time; the principals take turns, each's in their order."""

    def __init__(self, max_reads: int) -> None:
        self._free = max_reads
        #: Of each read under way, the timeout and when it began.
        self._reads: dict[asyncio.Timeout, float] = {}
        #: By principal, so that none waits behind all the calls of another.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def leave(self) -> None:
        """Free a slot."""
        self._free += 1
        while self._free and self._waiting:
            principal = next(iter(self._waiting))
            calls = self._waiting.pop(principal)
            call = calls.popleft()
            if calls:
                self._waiting[principal] = calls  # the last in turn
            if not call.done():  # not gone
                self._free -= 1
                call.set_result(None)

    async def admit(self, principal: str) -> None:
        """Wait for a slot; until it comes, the calls that have one must be quick. Raises MemoryExhausted."""
        if self._free:
            self._free -= 1
            return
        calls = self._waiting.setdefault(principal, deque())
        if len(calls) >= MAX_WAITING:
            raise MemoryExhausted(f"{MAX_WAITING} calls of this principal wait for their requests to be read")
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        calls.append(call)
        for timeout, began in self._reads.items():
            self._hurry(timeout, began)
        try:
            await call
        except asyncio.CancelledError:
            if not call.cancelled():
                self.leave()
            raise

    def _hurry(self, timeout: asyncio.Timeout, began: float) -> None:
        end = timeout.when()
        if not timeout.expired() and end is not None:
            timeout.reschedule(min(end, began + CONTENDED_READ_SECONDS))

    async def read(self, context: Context, timeout: asyncio.Timeout) -> bytes:
        """Return the request of a call that has a slot."""
        self._reads[timeout] = began = asyncio.get_running_loop().time()
        if self._waiting:
            self._hurry(timeout, began)
        try:
            end: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # its stub lacks it
            data = await context.read()
            if data is end or await context.read() is not end:
                raise RequestInvalid("", "the call must have exactly one request")
            return data
        finally:
            del self._reads[timeout]


def malformed(message_type: type[Message]) -> RequestInvalid:
    """Return the error for bytes that are no such message."""
    name = message_type.DESCRIPTOR.full_name
    return RequestInvalid("", f"the request does not parse as {name}; every string must be UTF-8")
