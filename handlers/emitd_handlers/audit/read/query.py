"""The pages of a list of audit events: where one begins, and the tokens that lead to the next."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from pathlib import Path

import msgspec

from emitd_handlers.audit.format.line_index import Entry
from emitd_handlers.audit.read.committed_files import CommittedTrail
from emitd_handlers.audit.source import AuditQuery
from emitd_handlers.errors import AuditQueryInvalid

__all__ = ["bounds_of_page", "make_token", "read_token"]


class _Token(msgspec.Struct, frozen=True, array_like=True):
    #: A digest of the log and the query's filters.
    made_for: bytes
    #: The line to go on with; where the newest come first, that after it.
    index: int


_encode = msgspec.msgpack.Encoder().encode
_decode_token = msgspec.msgpack.Decoder(_Token).decode


def bounds_of_page(path: Path, end: Entry, query: AuditQuery, from_index: int | None) -> tuple[Entry, int]:
    """Return where a page begins to look, and the offset at which there is nothing more for the query.

    Blocks. Raises what CommittedTrail does.
    """
    with CommittedTrail(path, end) as trail:
        after, before = query.received_after_unix_nano, query.received_before_unix_nano
        first = trail.first_received(after) if after else 0
        last = trail.first_received(before) if before else end.offset
        start, stop = (last, first) if query.newest_first else (first, last)
        if first >= last:
            return Entry(0, stop), stop
        if from_index is None:
            return trail.position_at(start), stop
        position = trail.position_of(from_index)
        # A made-up token gets nothing that the query does not ask for.
        return (position, stop) if first <= position.offset <= last else (Entry(0, stop), stop)


def make_token(log_id: str, query: AuditQuery, index: int) -> str:
    """Return the token of the page that goes on with a line."""
    return urlsafe_b64encode(_encode(_Token(_digest(log_id, query), index))).decode()


def read_token(log_id: str, query: AuditQuery, line_count: int) -> int | None:
    """Return the line that a query's token goes on with; None: it has no token.

    Raises AuditQueryInvalid for a token that was not made for this query.
    """
    if not query.page_token:
        return None
    try:
        token = _decode_token(urlsafe_b64decode(query.page_token))
    except ValueError:
        raise AuditQueryInvalid("page_token", "is none that this server has made") from None
    if token.made_for != _digest(log_id, query):
        raise AuditQueryInvalid(
            "page_token", "was made for another log, other filters or the other direction"
        )
    if not 0 <= token.index <= line_count:
        raise AuditQueryInvalid("page_token", "is none that this server has made")
    return token.index


def _digest(log_id: str, query: AuditQuery) -> bytes:
    filters = (
        log_id,
        query.filter,
        query.received_after_unix_nano,
        query.received_before_unix_nano,
        query.newest_first,
    )
    return blake2b(_encode(filters), digest_size=8).digest()
