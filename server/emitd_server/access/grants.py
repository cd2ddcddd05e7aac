"""`Grants`: what each principal may do. Pure.

A principal may call a method if a grant gives it a role that has the method; what it may send or read by it is what
those grants have together. All else is denied.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TypeAlias

from emitd_handlers.columns import Columns, RecordColumns, columns_of
from emitd_handlers.errors import EmitdError, RecordForbidden, RecordInvalid
from emitd_handlers.principal import GROUP, Principal
from emitd_handlers.record import Level, LogRecord, name_of
from emitd_handlers.scope import EVERYTHING, Caller, Rule, Scope
from emitd_server.errors import PermissionDenied
from emitd_server.settings import GrantSettings, Role

_WRITERS = frozenset({Role.WRITER})
_WATCHERS = frozenset({Role.WATCHER, Role.OPERATOR})
_OPERATORS = frozenset({Role.OPERATOR})
_AUDITORS = frozenset({Role.AUDITOR})
#: The roles that have each method. Health and reflection are for every principal.
ROLES: Mapping[str, frozenset[Role]] = {
    "emitd.v1.LogService/Emit": _WRITERS,
    "emitd.v1.LogService/EmitBatch": _WRITERS,
    "emitd.v1.LogService/GetJob": _WATCHERS,
    "emitd.v1.LogService/ListJobs": _WATCHERS,
    "emitd.v1.LogService/ListJobTransitions": _WATCHERS,
    "emitd.v1.LogService/WatchJob": _WATCHERS,
    "emitd.v1.LogService/WatchJobs": _WATCHERS,
    "emitd.v1.LogService/ListLogs": _WATCHERS,
    "emitd.v1.LogService/TailLogs": _WATCHERS,
    "emitd.v1.LogService/RequestCancel": _OPERATORS,
    "emitd.v1.AuditService/GetCheckpoint": _AUDITORS,
    "emitd.v1.AuditService/GetInclusionProof": _AUDITORS,
    "emitd.v1.AuditService/GetConsistencyProof": _AUDITORS,
    "emitd.v1.AuditService/ListAuditEvents": _AUDITORS,
    "emitd.v1.AuditService/TailAuditEvents": _AUDITORS,
}
#: Names of events that begin so, and this source, are the service's own.
OWN_EVENTS = "emitd."
OWN_SOURCE = "emitd"
#: The level, source and name of a record, and whether it says who sent it first.
_Kind: TypeAlias = tuple[Level, str, str | None, bool]
#: Principals with a method that are remembered; scopes of senders; and of each, kinds of records, whose sources and
#: names the senders choose.
MAX_REMEMBERED = 4096
MAX_SCOPES = 32
MAX_KINDS = 1024


class Grants:
    """The grants of a configuration."""

    def __init__(self, grants: Sequence[GrantSettings]) -> None:
        self._grants = grants
        self.scope = lru_cache(MAX_REMEMBERED)(self._scope)

    def _scope(self, principal: Principal, method: str) -> Scope:
        """Return what a principal may send or read by a method, such as `emitd.v1.LogService/Emit`.

        Raises PermissionDenied.
        """
        found = self.deciding(principal, method)
        if not found:
            roles = sorted(role.value for role in ROLES.get(method, ()))
            raise PermissionDenied(principal.name, method, roles)
        rules = tuple(map(_rule, found))
        is_all = Rule() in rules and not any(rule.relay for rule in rules)
        return EVERYTHING if is_all else Scope(rules)

    def deciding(self, principal: Principal, method: str) -> Sequence[GrantSettings]:
        """Return the grants that let a principal call a method."""
        names = {principal.name, *(f"{GROUP}{group}" for group in principal.groups)}
        roles = ROLES.get(method, frozenset())
        return [grant for grant in self._grants if grant.role in roles and not names.isdisjoint(grant.to)]


def refused_records(
    records: Sequence[LogRecord], caller: Caller, submitted_by: Sequence[str] = ()
) -> Mapping[int, EmitdError]:
    """Return the errors of the records that are not for this caller to send, by their place."""
    columns = columns_of(records)
    relayed = list(map(bool, submitted_by)) if any(submitted_by) else [False] * len(columns)
    kinds: list[_Kind] = list(zip(columns.level, columns.source, _names(columns), relayed, strict=True))
    judge = _judge(caller.scope)
    # A record without a level is bad, and refused for that.
    problems = {kind: judge(*kind) for kind in set(kinds) if kind[0] is not None}
    bad = {kind: problem for kind, problem in problems.items() if problem[1]}
    if not bad:
        return {}
    return {place: _refusal(caller, *bad[kind]) for place, kind in enumerate(kinds) if kind in bad}


@lru_cache(MAX_SCOPES)
def _judge(scope: Scope) -> Callable[[Level, str, str | None, bool], tuple[str, str]]:
    return lru_cache(MAX_KINDS)(partial(problem_of, scope))


def _names(records: RecordColumns) -> Sequence[str | None]:
    payloads = records.payload
    return payloads.event_name if isinstance(payloads, Columns) else list(map(name_of, payloads))


def problem_of(
    scope: Scope, level: Level, source: str, name: str | None, relayed: bool = False, sent: bool = True
) -> tuple[str, str]:
    """Return which field keeps a record from being sent, or read, and what is wrong with it; empty texts: none."""
    is_event = level is Level.AUDIT
    covering = [rule for rule in scope.rules if rule.has(level, source, name)]
    if sent and not any(rule.relay for rule in covering):
        if source == OWN_SOURCE:
            return "source", f"'{OWN_SOURCE}' is the service's own"
        if is_event and name is not None and name.startswith(OWN_EVENTS):
            return "audit.event_name", f"names that begin with '{OWN_EVENTS}' are the service's own"
        if covering and relayed:
            return "submitted_by", "needs a grant with `relay: true`"
    of_level = [rule for rule in scope.rules if level in rule.levels]
    if not of_level:
        return "level", f"no grant covers {level.name}"
    if not any(rule.has(level, source, None) for rule in of_level):
        return "source", f"no grant covers {level.name} from '{source}'"
    if not covering:
        field = "audit.event_name" if is_event else "job.job_type"
        return field, f"no grant covers '{name}' from '{source}'"
    return "", ""


def _refusal(caller: Caller, field: str, problem: str) -> EmitdError:
    """Return the error for a record that is not for its caller to send."""
    if caller.is_anonymous:  # no grant could allow it
        return RecordInvalid(field, problem)
    return RecordForbidden(field, f"{problem}, for '{caller.principal.name}'")


def _rule(grant: GrantSettings) -> Rule:
    return Rule(
        frozenset(Level if grant.levels is None else grant.levels),
        grant.sources,
        grant.event_names,
        grant.job_types,
        grant.relay,
    )
