"""`UnixSocket`: the path of a server that listens on `unix:PATH`, which belongs to one server at a time.

grpc itself takes the path from a server that listens on it, and deletes the path when it stops, even another's.
So grpc binds a name of its own, which is then moved to the path.
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from emitd_handlers.durable.file_identity import FileIdentity

SCHEME = "unix:"


class UnixSocket:
    """One path."""

    def __init__(self, listen: str) -> None:
        self.path = Path(listen.removeprefix(SCHEME))
        #: The name that grpc binds.
        self.own = self.path.with_name(f".{secrets.token_hex(4)}")
        self._identity: FileIdentity | None = None

    def bind(self, bind: Callable[[str], object]) -> None:
        """Call `bind` with an address to listen on, and give its socket the path. A stale socket is replaced.

        Raises OSError if a server listens on the path.
        """
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed: two servers may start at once
            self._refuse_if_used()
            try:
                bind(f"{SCHEME}{self.own}")
                os.rename(self.own, self.path)
            finally:
                with suppress(FileNotFoundError):
                    self.own.unlink()
            self._identity = FileIdentity.of(self.path)
        finally:
            os.close(folder)

    def problem(self) -> str:
        """Return why no client can connect by the path; empty: clients can."""
        displacement = None if self._identity is None else self._identity.displacement()
        if displacement is None:
            return ""
        return f"no client can connect to socket '{self.path}': {displacement.value}. Restart the service"

    def remove(self) -> None:
        """Delete the path, unless it leads to something else by now."""
        if self._identity is not None and self._identity.displacement() is None:
            with suppress(FileNotFoundError):
                self.path.unlink()
        self._identity = None

    def _refuse_if_used(self) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self.path))
            except (FileNotFoundError, ConnectionRefusedError):
                return  # there is none, or its server is gone
            except BlockingIOError:
                pass  # its queue is full
        raise OSError("another server listens on it; stop that one first")
