"""`SharedClient`: a client that handlers make for themselves: one for all of them that have the same settings.

`dictConfig` closes all handlers while it holds the lock of `logging`, and then makes others. So a handler leaves its
client without waiting. A client that nobody has come back to a while later is closed, in the background; a handler that
is used even then, as those are whose loggers `dictConfig` leaves alone, gets another.

Nothing here takes a lock: whoever holds one may log, and then wait for that of `logging`. Where threads meet, they end
up with a client too many, or with a closed one, and both are noticed.
"""

import threading
import time
from contextlib import suppress

import msgspec

from emitd.client import LogClient
from emitd.runtime import process_hooks
from emitd.settings import ClientSettings

__all__ = ["SharedClient"]

#: How long a client is kept that has no user: for the next configuration, and for records on their way to it.
IDLE_SECONDS = 1.0

_shared: dict[ClientSettings, "SharedClient"] = {}


class SharedClient:
    """For any thread, and for forked children."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.client = LogClient(**msgspec.structs.asdict(settings))
        self._users: set[int] = set()
        self._left = threading.Event()
        self._closer: threading.Thread | None = None

    @classmethod
    def join(cls, settings: ClientSettings, user: object) -> "SharedClient":
        """Return the open client of these settings, for this user too."""
        shared = _shared.get(settings)
        if shared is None or shared.client.state == "closed":
            shared = _shared[settings] = cls(settings)
        shared._users.add(id(user))
        return shared

    def leave(self, user: object) -> None:
        """Note that a user needs it no more. Waits for nothing."""
        self._users.discard(id(user))
        if not self._users and not process_hooks.is_ending():  # where it is, all clients are flushed
            self._see_to_closing()

    def _see_to_closing(self) -> None:
        if self._closer is None or not self._closer.is_alive():  # as in a forked child
            self._left = threading.Event()
            self._closer = threading.Thread(
                target=self._close_once_left, args=(self._left,), name="emitd-closing", daemon=True
            )
            with suppress(RuntimeError):  # too many threads: then the end of the program closes it
                self._closer.start()
        self._left.set()

    def _close_once_left(self, left: threading.Event) -> None:
        while True:
            left.wait()
            left.clear()
            time.sleep(IDLE_SECONDS)
            if process_hooks.is_ending():
                return
            if not self._users:
                break
        if _shared.get(self._settings) is self:
            del _shared[self._settings]
        self.client.close()
