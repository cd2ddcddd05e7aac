"""A module as one other sees it, with functions of a test in it: other threads go on with the real ones."""

from types import ModuleType, SimpleNamespace
from typing import Any


def with_own(module: ModuleType | SimpleNamespace, **own: Any) -> SimpleNamespace:
    """Return what a test puts into the module that it tests, in the place of `module`."""
    return SimpleNamespace(**{**vars(module), **own})
