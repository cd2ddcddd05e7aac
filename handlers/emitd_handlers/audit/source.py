"""`AuditSource`, the protocol to read an audit log by, and the types that it returns."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from emitd_handlers.audit.format.line import AuditLine
from emitd_handlers.record import Level, usual_source_ip
from emitd_handlers.scope import EVERYTHING, Scope

__all__ = [
    "AuditBatch",
    "AuditEntry",
    "AuditFilter",
    "AuditPage",
    "AuditQuery",
    "AuditSource",
    "ConsistencyProof",
    "InclusionProof",
    "SignedCheckpoint",
]


class AuditEntry(msgspec.Struct, frozen=True, gc=False):
    """One line of a log."""

    leaf_index: int
    #: Its exact bytes, without the newline.
    line: bytes
    #: Of the line as it was read.
    leaf_hash: bytes
    #: Its members; None: the line is damaged.
    parsed: AuditLine | None
    #: When the server took it; 0 for a damaged line.
    received_unix_nano: int


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The events wanted: those that match every member that is not empty. A damaged line matches none."""

    event_id: str = ""
    #: None: any. Events without a source have an empty one.
    source: str | None = None
    event_name_prefix: str = ""
    user_id: str = ""
    #: An address in any spelling, or `unknown`.
    source_ip: str = ""
    #: What the caller may read.
    scope: Scope = EVERYTHING

    def matches(self, line: AuditLine | None) -> bool:
        """Return whether a line is wanted."""
        if line is None:
            return self == _UNFILTERED
        return (
            (self.scope is EVERYTHING or self.scope.has(Level.AUDIT, line.source, line.event_name))
            and (not self.event_id or line.event_id == self.event_id)
            and (self.source is None or line.source == self.source)
            and line.event_name.startswith(self.event_name_prefix)
            and (not self.user_id or line.user_id == self.user_id)
            and (not self.source_ip or usual_source_ip(line.source_ip) == usual_source_ip(self.source_ip))
        )


_UNFILTERED = AuditFilter()


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to list, and in which order. Times are nanoseconds since 1970-01-01T00:00:00Z."""

    filter: AuditFilter = _UNFILTERED
    #: Only events that the server took at this time or later.
    received_after_unix_nano: int = 0
    #: Only events that the server took before this time; 0: to the last.
    received_before_unix_nano: int = 0
    newest_first: bool = False
    page_size: int = 100
    #: `next_page_token` of the page before, or empty.
    page_token: str = ""
    #: A page ends when about this much of the log was scanned.
    max_scan_bytes: int = 64 * 1024 * 1024


class AuditPage(msgspec.Struct, frozen=True):
    """One page of events."""

    entries: Sequence[AuditEntry]
    #: Empty after the last page.
    next_page_token: str


class AuditBatch(msgspec.Struct, frozen=True):
    """Some new lines of a tail."""

    #: Empty: there was nothing new.
    entries: Sequence[AuditEntry]
    #: All wanted lines before this one were yielded.
    next_index: int


class SignedCheckpoint(msgspec.Struct, frozen=True):
    """A log's newest checkpoint."""

    #: The signed note.
    note: bytes
    size: int
    root: bytes
    #: The log's public keys, the newest last.
    vkeys: Sequence[str]


class InclusionProof(msgspec.Struct, frozen=True):
    """That a line is in the tree of `tree_size` leaves."""

    leaf_index: int
    line: bytes
    leaf_hash: bytes
    tree_size: int
    #: From the leaf's sibling up.
    hashes: Sequence[bytes]
    #: The newest checkpoint's note, if it is of this size; else empty.
    checkpoint: bytes


class ConsistencyProof(msgspec.Struct, frozen=True):
    """That the tree of `old_size` leaves is a beginning of that of `new_size`."""

    old_size: int
    new_size: int
    hashes: Sequence[bytes]
    #: The newest checkpoint's note, if it is of the new size; else empty.
    checkpoint: bytes


@runtime_checkable
class AuditSource(Protocol):
    """The methods by which a handler serves AuditService from its log. Several handlers of a service may have them.

    They are called from the service's event loop, any number at once, and must not block it. They show only lines that
    are on the medium. They may raise `HandlerUnavailable`, and `AuditDamaged` if the files are not what was signed.
    """

    @property
    def log_id(self) -> str:
        """The log's name; it may be empty until the handler is started."""

    async def checkpoint(self) -> SignedCheckpoint | None:
        """Return the newest checkpoint; None: nothing is signed yet."""

    async def inclusion_proof(self, leaf_index: int, tree_size: int | None = None) -> InclusionProof:
        """Prove that a line is in the tree of some size; None: that of the newest checkpoint.

        Raises AuditNotFound if there is no such line, HandlerUnavailable if no checkpoint covers it, or the size,
        yet, and AuditQueryInvalid if there can be no such proof.
        """

    async def consistency_proof(self, old_size: int, new_size: int | None = None) -> ConsistencyProof:
        """Prove that one tree is a beginning of another, by default that of the newest checkpoint.

        Raises HandlerUnavailable if no checkpoint covers the new size yet, and AuditQueryInvalid if there can be no
        such proof.
        """

    async def find(self, event_id: str, source: str | None = None) -> AuditEntry | None:
        """Return the newest line with this event id, or None. It scans from the end, which may take a while.

        Raises AuditQueryInvalid if no source is given and several have lines with this id.
        """

    async def list(self, query: AuditQuery) -> AuditPage:
        """Return a page of events. It may be short, even empty, without being the last.

        No event is repeated or left out between pages, however much is written between the calls. Raises
        `AuditQueryInvalid` for a token that was not made for this query and this log.
        """

    def tail(
        self,
        wanted: AuditFilter,
        *,
        from_index: int | None = None,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[AuditBatch, None]:
        """Yield the lines from one on (None: the next one to come) as they are committed: in order, each once.

        The first batch comes at once, without entries, and says where the tail begins. A batch without entries also
        comes after `idle_seconds` without a line (None: never), for a heartbeat. Raises AuditNotFound for a line
        beyond the next one. The iterator does not end by itself; closing it, or cancelling the task that waits for it,
        frees it.
        """
