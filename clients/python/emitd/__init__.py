"""The Python client of emitd.

For now these are the generated stubs, in `emitd.v1`. They are loaded when they are asked for, so that
importing this package alone costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emitd import v1

__all__ = ["v1"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"emitd.{name}")
    raise AttributeError(f"module 'emitd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
