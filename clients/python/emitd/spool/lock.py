"""The lock file beside a spool: whoever has its lock may use the spool, and nobody else.

It is flock's, which ends with the process however that ends, and which two clients in one process do not share. A
forked child shares it, until it closes its copy of the descriptor.

The file is taken away by whoever has the lock. Somebody else may have opened it before, and get the lock of a file
without a name: so a lock counts only if the name still leads to its file.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["SpoolLock"]

_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE = 0o600


class SpoolLock:
    """One lock, free at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def take(self) -> bool:
        """Take the lock, and make its file where there is none; False if somebody else has it. Raises OSError."""
        descriptor = os.open(self.path, _OPEN_FLAGS, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(self.path, follow_symlinks=False)):
                os.fchmod(descriptor, _FILE_MODE)  # the umask can have taken bits away
                self._descriptor, descriptor = descriptor, -1
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self._descriptor >= 0

    def release(self) -> None:
        """Give up the lock, and take its file away. Idempotent, and safe without the lock."""
        if self._descriptor >= 0:
            with suppress(OSError):  # the lock is free without it, and the file is taken again by the next
                os.unlink(self.path)
            self._close()

    def leave_to_parent(self) -> None:
        """Close what a forked child has of its parent's lock, which the parent keeps."""
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
