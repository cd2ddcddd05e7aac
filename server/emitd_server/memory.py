"""`MemoryAccount`: the one account of what the service holds for others: requests, queues, and data not yet taken.

Code that holds bytes charges them before it takes them and gives them back afterwards. The numbers are estimates of
memory, not of bytes on the wire; what the service needs for itself is not in them.
"""

import threading
from collections.abc import Sequence
from operator import add
from sys import getsizeof
from types import TracebackType
from typing import Self

from emitd_handlers.columns import columns_of
from emitd_handlers.record import JobStatus, LogRecord, Payload
from emitd_server.errors import MemoryExhausted

#: Log lines are refused above this share, so that audit events and job reports find room.
LINES_SHARE = 0.8


#: What a record takes besides its texts: the object, its small fields, its place in a queue.
RECORD_OVERHEAD_BYTES = 700


class MemoryAccount:
    """Bounds what is held to `limit_bytes`. Any thread may use it."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lines_limit = int(limit_bytes * LINES_SHARE)
        # Reentrant: a finalizer that logs may run in a thread that is in here already.
        self._lock = threading.RLock()
        #: Bytes charged now.
        self.held = 0

    @property
    def is_tight(self) -> bool:
        """Whether log lines are to be refused."""
        return self.held > self._lines_limit

    @property
    def is_full(self) -> bool:
        """Whether everything is to be refused."""
        return self.held > self.limit_bytes

    def charge(self, size: int) -> "Charge":
        """Return a charge of `size` bytes. Raises MemoryExhausted if there is no room and anything is held."""
        with self._lock:
            if self.held and self.held + size > self.limit_bytes:
                raise self.exhausted()
            self.held += size
        return Charge(self, size)

    def add(self, size: int) -> "Charge":
        """Return a charge of `size` bytes that are held already: it is never refused."""
        self.held_more(size)
        return Charge(self, size)

    def held_more(self, size: int) -> None:
        """Count bytes that are held already, or with a negative size no more. Never refuses."""
        with self._lock:
            self.held += size

    def exhausted(self) -> MemoryExhausted:
        """Return the error to refuse with."""
        return MemoryExhausted(
            f"the service holds {self.held} bytes; server.limits.memory_bytes is {self.limit_bytes}"
        )


class Charge:
    """Bytes in an account until `release`, or until the end of a `with` block."""

    __slots__ = ("_account", "size")

    def __init__(self, account: MemoryAccount, size: int) -> None:
        self._account = account
        self.size = size

    def release(self) -> None:
        """Give the bytes back. Idempotent."""
        self._account.held_more(-self.size)
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def records_bytes(records: Sequence[LogRecord]) -> Sequence[int]:
    """Return about how much memory each record takes. This runs for each queued record, hence the `map`s: 0.15 µs."""
    columns = columns_of(records)
    texts = map(add, map(str.__sizeof__, columns.message), map(str.__sizeof__, columns.attributes_json))
    sizes = list(map(RECORD_OVERHEAD_BYTES.__add__, texts))
    if columns.payload.count(None) < len(sizes):
        for place, payload in enumerate(columns.payload):
            sizes[place] += 0 if payload is None else _payload_bytes(payload)
    return sizes


def _payload_bytes(payload: Payload) -> int:
    size = getsizeof(payload.details_json)
    if isinstance(payload, JobStatus):
        size += getsizeof(payload.failure_message)
        size += sum([getsizeof(key) + getsizeof(value) for key, value in payload.labels.items()])
    return size
