"""What a handler of log records is made of.

    from emitd_handlers import BaseLogHandler, LogRecord

    class PrintHandler(BaseLogHandler):
        def emit(self, record: LogRecord) -> None:
            print(self.format(record))

This package has the records, the outcomes and errors to answer them with, the settings, and the base class. Each
built-in handler is in a module of its own (`emitd_handlers.console`, ...), so that none loads the drivers of another.
`emitd_handlers.testing` has helpers for tests of handlers. Names are loaded when they are asked for: a client only
needs some pure modules of this package.
"""

# ruff: noqa: F403, F405  # each module lists its names in `__all__`, and this one those that are exported

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emitd_handlers.audit.source import *
    from emitd_handlers.base import *
    from emitd_handlers.errors import *
    from emitd_handlers.jobs.source import *
    from emitd_handlers.outcome import *
    from emitd_handlers.record import *
    from emitd_handlers.settings import *

__all__ = [
    "COMMON_LEVELS",
    "AuditBatch",
    "AuditDamaged",
    "AuditEntry",
    "AuditEvent",
    "AuditFilter",
    "AuditNotFound",
    "AuditPage",
    "AuditQuery",
    "AuditQueryInvalid",
    "AuditReceipt",
    "AuditSource",
    "BaseLogHandler",
    "Committed",
    "CommittedSettings",
    "ConsistencyProof",
    "Delivery",
    "EmitResult",
    "EmitdError",
    "HandlerBusy",
    "HandlerError",
    "HandlerSettings",
    "HandlerTimeout",
    "HandlerUnavailable",
    "InclusionProof",
    "Job",
    "JobChange",
    "JobFilter",
    "JobPage",
    "JobQuery",
    "JobQueryInvalid",
    "JobReceipt",
    "JobSource",
    "JobState",
    "JobStatus",
    "JobTransition",
    "JobUpdate",
    "Level",
    "LogRecord",
    "ManagedJobSource",
    "Outcome",
    "OverflowPolicy",
    "Payload",
    "QueuedSettings",
    "Receipt",
    "RecentCommit",
    "RecordConflict",
    "RecordInvalid",
    "Refused",
    "RetryableError",
    "SignedCheckpoint",
    "TransitionPage",
    "TransitionQuery",
]

_MODULES = ("audit.source", "base", "errors", "jobs.source", "outcome", "record", "settings")


def __getattr__(name: str) -> Any:
    for module in _MODULES if name in __all__ else ():
        home = importlib.import_module(f"emitd_handlers.{module}")
        if name in home.__dict__:
            return home.__dict__[name]
    raise AttributeError(f"module 'emitd_handlers' has no attribute '{name}'")
