"""The Python client of emitd.

Here are the interface that every client has, its errors, and the generated stubs, in `emitd.v1`. Each is loaded
when it is asked for, so that importing this package alone costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emitd import v1
    from emitd.errors import (
        ClientNotOpen,
        EmitError,
        JobNotApplied,
        JobNotFound,
        RecordRejected,
        RequestRejected,
        Unavailable,
    )
    from emitd.interface import AsyncJobReporter, AsyncLogger

__all__ = [
    "AsyncJobReporter",
    "AsyncLogger",
    "ClientNotOpen",
    "EmitError",
    "JobNotApplied",
    "JobNotFound",
    "RecordRejected",
    "RequestRejected",
    "Unavailable",
    "v1",
]

_INTERFACE = {"AsyncJobReporter", "AsyncLogger"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'emitd' has no attribute '{name}'")
    if name == "v1":
        return importlib.import_module("emitd.v1")
    module = importlib.import_module("emitd.interface" if name in _INTERFACE else "emitd.errors")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
