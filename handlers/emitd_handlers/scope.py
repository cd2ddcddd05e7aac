"""`Level` of records; `Scope`, which of them a caller may send or read; and `Caller`, who calls, with its scope."""

from collections.abc import Sequence
from enum import IntEnum

import msgspec

from emitd_handlers.principal import GROUP, Principal
from emitd_handlers.text.patterns import matches_any

#: Matches any text.
ANY = ("*",)


class Level(IntEnum):
    """How important a record is; the common five have the numbers of Python's `logging`."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50
    AUDIT = 60
    JOB_STATUS = 70

    # Enum's own hash is a Python function; levels are looked up for each record.
    __hash__ = int.__hash__


class Rule(msgspec.Struct, frozen=True):
    """One grant's records: those that match it in every respect. In patterns, `*` stands for any text."""

    levels: frozenset[Level] = frozenset(Level)
    sources: tuple[str, ...] = ANY
    #: Of audit events.
    event_names: tuple[str, ...] = ANY
    #: Of jobs.
    job_types: tuple[str, ...] = ANY
    #: The sender may pass on what others sent: their `submitted_by`, and the service's own events and source.
    relay: bool = False

    def has(self, level: Level, source: str, name: str | None) -> bool:
        """Return whether a record is one of these; `name`: its event's name, or its job's type; None: not known."""
        patterns = {Level.AUDIT: self.event_names, Level.JOB_STATUS: self.job_types}.get(level, ANY)
        return (
            level in self.levels
            and (self.sources == ANY or matches_any(self.sources, source))
            and (patterns == ANY or name is None or matches_any(patterns, name))
        )


class Scope(msgspec.Struct, frozen=True):
    """The records that one of some rules has."""

    rules: tuple[Rule, ...]

    def has(self, level: Level, source: str, name: str | None) -> bool:
        """Return whether a record is one of these, as `Rule.has`."""
        return any(rule.has(level, source, name) for rule in self.rules)


EVERYTHING = Scope((Rule(),))
NOTHING = Scope(())


class Caller(msgspec.Struct, frozen=True):
    """Who makes a call, and what it may send or read by it."""

    principal: Principal
    scope: Scope = EVERYTHING
    #: That of the other end of the connection; empty for the process itself, and where nobody is asked for a name.
    address: str = ""
    #: Whether records keep it.
    keeps_address: bool = False

    @property
    def kept_address(self) -> str:
        """The address, if records keep it."""
        return self.address if self.keeps_address else ""

    @property
    def submitted_by(self) -> str:
        """The principal's name; empty: nobody was asked for it."""
        return "" if self.is_anonymous else self.principal.name

    @property
    def is_anonymous(self) -> bool:
        """Whether the listener asks for no name, so that everything is allowed."""
        return self.principal.kind == "anonymous"


#: The caller of a listener that asks for no name, and of the process itself.
ANYONE = Caller(Principal("anonymous", "anonymous"))


def owners(principal: Principal) -> Sequence[str]:
    """Return the names by which a principal owns jobs; the first is given to those that it begins."""
    if principal.kind == "anonymous":
        return [""]
    return [*(f"{GROUP}{group}" for group in principal.groups), principal.name]
