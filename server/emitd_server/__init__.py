"""The service: configuration, dispatch to handlers, and the gRPC edge.

`LoggingService` is the heart, `InProcessClient` its use without gRPC; `emitd_server.process.run` is a server process
around it. They are loaded when they are asked for: configuration alone needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emitd_server.config.loader import load_config
    from emitd_server.errors import ConfigError
    from emitd_server.in_process.client import InProcessClient
    from emitd_server.service import LoggingService

__all__ = ["ConfigError", "InProcessClient", "LoggingService", "load_config"]

_MODULES = {
    "ConfigError": "errors",
    "InProcessClient": "in_process.client",
    "LoggingService": "service",
    "load_config": "config.loader",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"emitd_server.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'emitd_server' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
