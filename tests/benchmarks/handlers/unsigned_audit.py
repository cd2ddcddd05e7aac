"""The audit handler without its tree: the same lines, no interior hashes, no checkpoints. For benchmarks alone.

Importing this takes the tree out of every log of the process.
"""

from collections.abc import Sequence

from emitd_handlers.audit.format.files import FIRST, Entry
from emitd_handlers.audit.handler import JsonAuditHandler
from emitd_handlers.audit.write import log as audit_log

__all__ = ["UnsignedAuditHandler"]


class _NoTree:
    """Proves nothing."""

    checkpoint = None
    note = b""
    problem = ""
    covered = uncovered = 0

    def __init__(self, *_: object) -> None:
        """Take what an AuditTree takes."""

    def open(self, *_: object) -> Entry:
        """Nothing is covered."""
        return FIRST

    def begin(self, *_: object) -> None:
        """Hash no line."""

    def add(self, first_index: int, offset: int, leaves: Sequence[bytes]) -> None:
        """Forget the leaves."""

    def write_checkpoint(self) -> None:
        """Sign nothing."""

    def close(self) -> None:
        """Nothing is open."""


audit_log.AuditTree = _NoTree  # type: ignore[assignment, misc]


class UnsignedAuditHandler(JsonAuditHandler):
    """`json_audit`, in a process without trees."""
