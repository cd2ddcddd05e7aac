"""`Watched`: a value that comes from files or from the network, such as a list of tokens, and is read again.

A timer asks each of them to `look`, in a thread. No call waits for a file or for another server.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from emitd_handlers.diagnostics import Report, report
from emitd_handlers.errors import EmitdError
from emitd_server.errors import ConfigError, Problem

LOOK_SECONDS = 1.0
#: When reading is tried again after it failed, also if no file has changed.
RETRY_SECONDS = 10.0

T = TypeVar("T")


class Watched(Generic[T]):
    """The last good value, called `what` in reports; at first it is `empty`.

    `load` reads it: it blocks, and raises EmitdError, OSError or ValueError without secrets. It is called again when
    one of `paths` has changed, and after `every_seconds`. A bad new version leaves the value as it is, and is reported
    once. `names_of` names the parts of a value; `changed` gets one line that names those that came and went.
    """

    def __init__(
        self,
        what: str,
        load: Callable[[], T],
        empty: T,
        *,
        names_of: Callable[[T], Iterable[str]],
        paths: Sequence[Path] = (),
        every_seconds: float = math.inf,
        changed: Report = report,
    ) -> None:
        self.value = empty
        self._what = what
        self._load = load
        self._names_of = names_of
        self._paths = paths
        self._every_seconds = every_seconds
        self._changed = changed
        self._state: object = None
        self._due_at = -math.inf
        self._reported = ""

    def start(self) -> None:
        """Read the first value; raises what `load` raises. Without `paths` it may fail, and is tried again."""
        if self._paths:
            self._read()
        else:
            self.look()

    def look(self) -> None:
        """Read the value again if that is due. Blocks; one thread at a time."""
        if self._look() == self._state and time.monotonic() < self._due_at:
            return
        before = self.value
        try:
            self._read()
        except (EmitdError, OSError, ValueError) as error:
            self._due_at = time.monotonic() + min(RETRY_SECONDS, self._every_seconds)
            problem = str(error).replace("\n", "; ")
            if problem != self._reported:
                self._reported = problem
                report(f"{self._what}: {problem}; what was read before stays in use")
            return
        self._reported = ""
        if self.value is not before:
            old, new = set(self._names_of(before)), set(self._names_of(self.value))
            parts = {"added": sorted(new - old), "removed": sorted(old - new)}
            lists = [f"{verb} {', '.join(names)}" for verb, names in parts.items() if names]
            self._changed(f"{self._what}: {'; '.join(lists) or 'changed'}")

    def _read(self) -> None:
        # Before the file is read: a change in between is seen by the next look.
        self._state = self._look()
        for path in self._paths:
            if path.exists() and not path.is_file():  # to read a pipe takes for ever
                raise ConfigError([Problem(file=str(path), line=0, path="", found="is not a file")])
        value = self._load()
        # Who has made something of the value compares by identity.
        if value != self.value:
            self.value = value
        self._due_at = time.monotonic() + self._every_seconds

    def _look(self) -> object:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        # Of the file that a link leads to: Kubernetes puts another in its place by a link.
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


async def look_for_ever(look: Callable[[], None]) -> None:
    """Call `look` each second, in a thread."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        await asyncio.to_thread(look)
