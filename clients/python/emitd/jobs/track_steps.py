"""`TrackSteps`: how far a loop that is a job has come. Shared by both kinds of track."""

import os
import secrets
import threading
from typing import Protocol

from emitd.errors import ClientNotOpen
from emitd.records.exceptions import Incomplete

__all__ = ["StepReporter", "TrackSteps"]


class StepReporter(Protocol):
    """What counting needs of a job's reporter."""

    def advance(self, steps: int = 1, /) -> None:
        """Note so many more steps done."""

    def refuse_if_lost(self) -> None:
        """Raise LeaseLost if the job is lost."""


class TrackSteps:
    """Counts the steps, and sees to it that the end of the job is reported once. `take_end` is for any thread."""

    def __init__(self, items: object, job_id: str | None, total: int | None) -> None:
        self.job_id = job_id or secrets.token_hex(16)
        count = _length(items) if total is None else total
        self.total = count or None  # there is no percentage of no items
        self.done = 0
        #: Whether the job was begun; its end is to be reported then, once.
        self.begun = False
        self.ended = False
        #: Whether an item was handed out.
        self.has_item = False
        #: Whether a `with` block decides on the end.
        self.in_block = False
        self._process_id = 0
        # Reentrant: the finalizer may run in a thread that is in here already.
        self._lock = threading.RLock()

    def finish_item(self, reporter: StepReporter) -> None:
        """Note that the last item is done. Raises LeaseLost."""
        reporter.refuse_if_lost()
        if not self.has_item:
            return
        self.done += 1
        if self.total is not None:
            reporter.advance()

    def note_begun(self) -> bool:
        """Note that there is an end to report from now on; return False where `take_end` came first."""
        with self._lock:
            self.begun = True
            self._process_id = os.getpid()
            return not self.ended

    def take_end(self) -> bool:
        """Return whether the end is to be reported now, by the caller; true only once.

        Never in a forked child, which may unwind a copy of its parent's loop: the job is the parent's.
        """
        with self._lock:
            is_due = self.begun and not self.ended
            self.ended = True
            return is_due and self._process_id == os.getpid()

    def refuse_if_ended(self) -> None:
        """Raise ClientNotOpen for who wants another item of a track that was closed under the loop."""
        if self.ended:
            raise ClientNotOpen(f"job '{self.job_id}' was {self.incomplete()}: its track is closed")

    def incomplete(self) -> Incomplete:
        """Return what stands for the exception of a loop that was left early."""
        of_total = "" if self.total is None else f" of {self.total}"
        return Incomplete(f"left after {self.done}{of_total} items")


def _length(items: object) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]  # most things have one, and the rest say so
    except TypeError:
        return None
