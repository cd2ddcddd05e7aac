"""`Life`: all that ever became of a job, as the `JobModel` has it."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from emitd_handlers.record import JobState

__all__ = ["RANKS", "Entry", "Life", "State"]

RANKS = {JobState.QUEUED: 0, JobState.RUNNING: 1, JobState.COMPLETED: 2, JobState.FAILED: 2}


@dataclass(frozen=True, slots=True)
class State:
    """A job at one revision; the names are those of `Job`, and of the message where that has them."""

    job_id: str
    job_type: str
    create_time_unix_nano: int
    update_time_unix_nano: int
    status: JobState = JobState.QUEUED
    progress: int = 0
    message: str = ""
    details_json: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    attempt: int = 0
    revision: int = 0
    event_time_unix_nano: int = 0
    lease_seconds: int = 0
    lease_expire_time_unix_nano: int = 0
    failure_reason: str = ""
    failure_message: str = ""
    cancel_requested: bool = False
    cancel_reason: str = ""
    start_time_unix_nano: int = 0
    end_time_unix_nano: int = 0

    @property
    def ended(self) -> bool:
        return RANKS[self.status] == 2


class Entry(NamedTuple):
    """A line of a job's history; the names are those of `JobTransition`."""

    revision: int
    attempt: int
    status: JobState
    progress: int
    time_unix_nano: int
    failure_reason: str = ""
    failure_message: str = ""
    progress_only: bool = False


class Life:
    """A job from its first report to its removal, if ever. Another job under the same id is another life."""

    def __init__(self) -> None:
        #: By revision, from 1.
        self.states: list[State] = []
        #: With progress; `transitions` is without.
        self.history: list[Entry] = []
        self.transitions: list[Entry] = []
        #: The revision up to which the history was removed.
        self.kept_after = 0
        #: By the record that opened it: the revision that made, and the attempt; as far as the history goes.
        self.openings: dict[tuple[str, str], tuple[int, int]] = {}
        #: Where leases were put off: the ends that revisions had before.
        self.earlier_lease_ends: dict[int, set[int]] = {}

    @property
    def now(self) -> State:
        return self.states[-1]

    @property
    def revision(self) -> int:
        return len(self.states)

    def transitions_after(self, revision: int, last: int) -> list[Entry]:
        found: list[Entry] = []
        for entry in reversed(self.transitions):  # those asked for are mostly the last
            if entry.revision <= revision:
                break
            if entry.revision <= last:
                found.append(entry)
        return found[::-1]

    def copy(self) -> "Life":
        other = copy(self)
        other.states, other.history = list(self.states), list(self.history)
        other.transitions = list(self.transitions)
        other.openings = dict(self.openings)
        other.earlier_lease_ends = {key: set(value) for key, value in self.earlier_lease_ends.items()}
        return other

    def add(self, state: State, time_unix_nano: int, *, is_transition: bool, is_report: bool) -> None:
        assert state.revision == len(self.states) + 1
        self.states.append(state)
        entry = Entry(
            state.revision,
            state.attempt,
            state.status,
            state.progress,
            time_unix_nano if is_transition else state.event_time_unix_nano,
            state.failure_reason,
            state.failure_message,
            progress_only=not is_transition,
        )
        if is_transition:
            self.transitions.append(entry)
        if is_transition or is_report:
            self.history.append(entry)
