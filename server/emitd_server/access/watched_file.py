"""`WatchedFiles`: a value made of files, such as a list of tokens, made again when one of them changes.

A timer asks each of them to `look`, in a thread. No call waits for a file.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from emitd_handlers.diagnostics import Report
from emitd_handlers.errors import EmitdError

LOOK_SECONDS = 1.0

T = TypeVar("T")
_State: TypeAlias = "tuple[tuple[int, ...] | None, ...]"


class WatchedFiles(Generic[T]):
    """The last good value. `load` makes it: it blocks, and raises EmitdError, OSError or ValueError without secrets.

    A bad new version leaves the value as it is, and is reported once under the name `what`. Files that can be put in
    another's place, as Kubernetes does by a symbolic link, are followed by their names.
    """

    def __init__(self, what: str, paths: Sequence[Path], load: Callable[[], T], report: Report) -> None:
        """Make the first value; raises what `load` raises."""
        self._what = what
        self._paths = paths
        self._load = load
        self._report = report
        self._reported = ""
        self._state: _State | None = self._look()
        self.value = load()

    def look(self) -> bool:
        """Return whether there is a new value. Blocks; one thread at a time."""
        state = self._look()
        if state == self._state:
            return False
        try:
            value = self._load()
        except (EmitdError, OSError, ValueError) as error:
            # That a file cannot be read may pass without a change of the file.
            self._state = None if isinstance(error, OSError) else state
            if str(error) != self._reported:
                self._reported = str(error)
                self._report(f"{self._what}: {error}; what was read before stays in use")
            return False
        self._state, self._reported, self.value = state, "", value
        return True

    def _look(self) -> _State:
        return tuple(map(_state, self._paths))


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


async def look_for_ever(look: Callable[[], object]) -> None:
    """Call `look` each second, in a thread."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        await asyncio.to_thread(look)
