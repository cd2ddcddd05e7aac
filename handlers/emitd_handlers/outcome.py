"""What a handler answers for a record: `Committed` with a receipt, or `Refused` with an error."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias, overload

import msgspec

from emitd_handlers.errors import HandlerError

__all__ = [
    "AuditReceipt",
    "Committed",
    "JobReceipt",
    "Outcome",
    "Outcomes",
    "Receipt",
    "RecentCommit",
    "Refused",
]


class AuditReceipt(msgspec.Struct, frozen=True, gc=False):
    """The place of an audit event in its log."""

    log_id: str
    event_id: str
    #: The line's number in the log, from 0.
    leaf_index: int
    #: SHA-256 of a zero byte and the line without its newline (RFC 6962, section 2.1).
    leaf_hash: bytes


class JobReceipt(msgspec.Struct, frozen=True, gc=False):
    """What a report did to its job."""

    job_id: str
    #: The job's revision and newest attempt after the report.
    revision: int
    attempt: int
    applied: bool
    #: Why the report was not applied: `SUPERSEDED`, `ATTEMPT_ENDED` or `OUT_OF_ORDER`; empty if it was.
    stale_reason: str = ""
    cancel_requested: bool = False

    @property
    def is_notable(self) -> bool:
        """Whether the sender should see the receipt even if it asks for none."""
        return bool(self.stale_reason) or self.cancel_requested


Receipt: TypeAlias = AuditReceipt | JobReceipt


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The handler has the record for good."""

    receipt: Receipt | None = None
    #: The handler had it already and has done nothing now; the receipt is the first one.
    duplicate: bool = False


class Refused(msgspec.Struct, frozen=True):
    """The handler does not have the record; `error` says why, and whether a retry can help."""

    error: HandlerError


Outcome: TypeAlias = Committed | Refused


class Outcomes(Sequence[Outcome]):
    """The outcomes of a batch: the exceptional ones by index, and the receipts of all others.

    A receipt is made when it is asked for: most senders want none.
    """

    __slots__ = ("_count", "exceptional", "receipt")

    def __init__(
        self,
        count: int,
        receipt: Callable[[int], Receipt | None],
        exceptional: Mapping[int, Outcome] = MappingProxyType({}),
    ) -> None:
        """`receipt(index)` gives the receipt of one committed record; the same each time."""
        self._count = count
        self.receipt = receipt
        #: Refusals, duplicates, and commits whose receipt the sender should see even if it asks for none.
        self.exceptional = exceptional

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Outcomes":
        """Return a sequence of outcomes in this form."""
        if type(outcomes) is Outcomes:
            return outcomes
        exceptional = {
            index: outcome
            for index, outcome in enumerate(outcomes)
            if type(outcome) is not Committed
            or outcome.duplicate
            or (type(outcome.receipt) is JobReceipt and outcome.receipt.is_notable)
        }
        return cls(len(outcomes), lambda index: outcomes[index].receipt, exceptional)  # type: ignore[union-attr]

    def part(self, start: int, end: int) -> "Outcomes":
        """Return the outcomes of the records from `start` to before `end`."""
        known = self.exceptional
        own = (
            {place - start: known[place] for place in range(start, end) if place in known} if known else known
        )
        return Outcomes(end - start, lambda place: self.receipt(start + place), own)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        return self.exceptional.get(index) or Committed(self.receipt(index))


class RecentCommit(msgspec.Struct, frozen=True, gc=False):
    """A record that a handler committed before it was started, so that a retry of it is recognised."""

    record_id: str
    #: The event's id for an audit event, else empty.
    event_id: str
    #: As `LogRecord.fingerprint`; without a source also one of `earlier_fingerprints`.
    fingerprint: int
    receipt: Receipt | None
    #: The record's source, to which its ids belong. None: not known; then its ids alone are no conflict.
    source: str | None = None
