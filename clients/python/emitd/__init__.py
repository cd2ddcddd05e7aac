"""The Python client of emitd.

`LogClient` and `AsyncLogClient` send to a server; the interface that every client has, its errors, and the generated
stubs, in `emitd.v1`, are here too. Each is loaded when it is asked for, so that importing this package alone costs
nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emitd import v1
    from emitd.async_client import AsyncLogClient
    from emitd.client import LogClient
    from emitd.context import log_context
    from emitd.errors import (
        AuditNotFound,
        ClientNotOpen,
        EmitError,
        JobNotApplied,
        JobNotFound,
        LeaseLost,
        RecordRejected,
        RequestRejected,
        Unavailable,
        VerificationFailed,
    )
    from emitd.interface import AsyncJobReporter, AsyncLogger
    from emitd.jobs.reporter import JobReporter
    from emitd.receipt import Receipt, ReceiptState

__all__ = [
    "AsyncJobReporter",
    "AsyncLogClient",
    "AsyncLogger",
    "AuditNotFound",
    "ClientNotOpen",
    "EmitError",
    "JobNotApplied",
    "JobNotFound",
    "JobReporter",
    "LeaseLost",
    "LogClient",
    "Receipt",
    "ReceiptState",
    "RecordRejected",
    "RequestRejected",
    "Unavailable",
    "VerificationFailed",
    "log_context",
    "v1",
]

_MODULES = {
    "AsyncJobReporter": "emitd.interface",
    "AsyncLogClient": "emitd.async_client",
    "AsyncLogger": "emitd.interface",
    "JobReporter": "emitd.jobs.reporter",
    "LogClient": "emitd.client",
    "Receipt": "emitd.receipt",
    "ReceiptState": "emitd.receipt",
    "log_context": "emitd.context",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'emitd' has no attribute '{name}'")
    if name == "v1":
        return importlib.import_module("emitd.v1")
    return getattr(importlib.import_module(_MODULES.get(name, "emitd.errors")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
