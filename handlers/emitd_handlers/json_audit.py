"""`JsonAuditHandler`: audit events, in an append-only file with one JSON object a line.

    {"timestamp":"2026-11-23T03:39:00.000000000Z","event_id":"...","event_name":"user.login.success",...}

An event is acknowledged once its line is on the medium. Whatever arrives while one sync is under way shares the
next: one write and one sync for all of it. `audit_line` makes the lines, `audit_file` keeps them.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec

from emitd_handlers.audit_file import AuditFile, AuditStats
from emitd_handlers.audit_line import (
    MAX_JSON_DEPTH,
    MAX_LINE_BYTES,
    decode_line,
    encode_line,
    leaf_hash,
    recent_commit,
)
from emitd_handlers.audit_recovery import MAX_GROUP_BYTES, damaged_beyond_repair
from emitd_handlers.base import BaseLogHandler, EmitResult
from emitd_handlers.disk import Disk, RealDisk
from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.group_commit import GroupCommit
from emitd_handlers.json_text import check_json_object
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, RecentCommit, Refused
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.uuid7 import uuid7

__all__ = ["JsonAuditHandler", "JsonAuditSettings"]


class JsonAuditSettings(HandlerSettings, frozen=True, kw_only=True):
    """What an entry of type `json_audit` takes beside the common keys."""

    #: The log. Folders that are missing are made, with mode 0700.
    path: Path = Path("logs/audit.json.log")
    #: The name that receipts give the log; empty: one is made at the first start, and kept in `<path>.log_id`.
    log_id: str = ""
    #: The longest line, without its newline; a record that would make a longer one is refused.
    max_line_bytes: Annotated[int, msgspec.Meta(ge=1024, le=MAX_LINE_BYTES)] = MAX_LINE_BYTES
    #: The most that is written with one sync.
    max_group_bytes: Annotated[int, msgspec.Meta(ge=MAX_LINE_BYTES + 1, le=MAX_GROUP_BYTES)] = MAX_GROUP_BYTES


class _Chunk(msgspec.Struct):
    """The lines of one batch, or as many of them as go into one group."""

    #: Each with its newline.
    lines: list[bytes]
    #: For each line: its record's place in the batch, its event's id, its leaf.
    leaves: list[tuple[int, str, bytes]]
    size: int = 0


class JsonAuditHandler(BaseLogHandler):
    """Appends audit events to a log. Its receipts say at which index."""

    Settings: ClassVar[type[HandlerSettings]] = JsonAuditSettings
    settings: JsonAuditSettings
    default_levels = frozenset({Level.AUDIT})
    default_delivery = Delivery.COMMITTED

    def __init__(
        self,
        settings: JsonAuditSettings | None = None,
        *,
        name: str = "",
        disk: Disk | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Use `disk` in place of the real one, and tell the operator by `report` rather than standard error."""
        super().__init__(settings, name=name)
        self._disk = disk or RealDisk()
        self._report = report or _report
        self._file: AuditFile | None = None
        #: None: records are refused.
        self._commits: GroupCommit[_Chunk, int] | None = None
        self._last_received = 0
