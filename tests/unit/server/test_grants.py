"""What each principal may call, send and read."""

import pytest

from emitd_handlers.errors import RecordForbidden, RecordInvalid
from emitd_handlers.principal import Principal
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord
from emitd_handlers.scope import ANYONE, EVERYTHING, Caller
from emitd_server.access import grants
from emitd_server.access.grants import ROLES, Grants, refused_records
from emitd_server.errors import PermissionDenied
from emitd_server.settings import GrantSettings, Role

EMIT = "emitd.v1.LogService/Emit"
SHOP = Principal("shop", "token", ("web", "eu"))
ALL_ROLES = {role: f"p-{role.value}" for role in Role}


def line(level: Level = Level.INFO, source: str = "shop") -> LogRecord:
    return LogRecord(level, source=source)


def event(name: str, source: str = "shop") -> LogRecord:
    return LogRecord(Level.AUDIT, source=source, payload=AuditEvent("e", name, "u", "unknown", "{}"))


def report(job_type: str, source: str = "shop") -> LogRecord:
    return LogRecord(Level.JOB_STATUS, source=source, payload=JobStatus("j", job_type, JobState.RUNNING))


def caller(*grants: GrantSettings, principal: Principal = SHOP, method: str = EMIT) -> Caller:
    return Caller(principal, Grants(grants).scope(principal, method))


def refusals(who: Caller, *records: LogRecord) -> dict[int, str]:
    return {place: error.field for place, error in refused_records(records, who).items()}


@pytest.mark.parametrize("method", ROLES)
@pytest.mark.parametrize("role", Role)
def test_a_role_has_its_methods_and_no_others(role: Role, method: str) -> None:
    """Each of the methods, for each of the roles."""
    expected = {
        Role.WRITER: {"Emit", "EmitBatch"},
        Role.WATCHER: {
            *("GetJob", "ListJobs", "ListJobTransitions", "WatchJob", "WatchJobs", "ListLogs", "TailLogs")
        },
        Role.AUDITOR: {name.split("/")[1] for name in ROLES if "AuditService" in name},
    }
    expected[Role.OPERATOR] = expected[Role.WATCHER] | {"RequestCancel"}
    grants = Grants([GrantSettings(to=("shop",), role=role)])
    if method.split("/")[1] in expected[role]:
        grants.scope(SHOP, method)
    else:
        with pytest.raises(PermissionDenied, match="'shop' may not call"):
            grants.scope(SHOP, method)


@pytest.mark.parametrize(
    ("to", "is_let"),
    [
        ("shop", True),
        ("group:web", True),
        ("group:eu", True),
        ("web", False),
        ("group:shop", False),
        ("sho", False),
    ],
)
def test_grants_are_to_names_and_to_groups(to: str, is_let: bool) -> None:
    """A group never passes for a name, nor a name for a group."""
    grant = GrantSettings(to=(to,), role=Role.WRITER)
    if is_let:
        caller(grant)
    else:
        with pytest.raises(PermissionDenied, match="no grant gives it the role writer"):
            caller(grant)


def test_without_a_grant_everything_is_denied() -> None:
    """Also a method that nobody knows."""
    for method in (*ROLES, "emitd.v1.LogService/Other", ""):
        with pytest.raises(PermissionDenied):
            Grants([]).scope(SHOP, method)
        if method not in ROLES:
            grants = [GrantSettings(to=("shop",), role=role) for role in Role]
            with pytest.raises(PermissionDenied):
                Grants(grants).scope(SHOP, method)


def test_records_that_no_grant_covers_are_refused_each_by_itself() -> None:
    """The field that keeps a record out is named; others of the batch are taken."""
    who = caller(
        GrantSettings(
            to=("shop",), role=Role.WRITER, levels=(Level.INFO, Level.AUDIT, Level.JOB_STATUS),
            sources=("shop*",), event_names=("user.*",), job_types=("import",),
        )
    )  # fmt: skip
    records = [
        line(), line(Level.DEBUG), line(source="bank"), event("user.login"), event("admin.login"),
        report("import"), report("export"), report(""), event("user.login", "bank"),
    ]  # fmt: skip
    assert refusals(who, *records) == {
        1: "level", 2: "source", 4: "audit.event_name", 6: "job.job_type", 8: "source",
    }  # fmt: skip
    (error,) = refused_records([line(source="bank")], who).values()
    assert isinstance(error, RecordForbidden)
    assert str(error) == "source: no grant covers INFO from 'bank', for 'shop'"
    assert error.retry_after_seconds == 60


def test_grants_add_up_and_each_stands_for_itself() -> None:
    """A record is taken if one grant covers it whole, not if two cover half of it each."""
    who = caller(
        GrantSettings(to=("shop",), role=Role.WRITER, levels=(Level.INFO,), sources=("a",)),
        GrantSettings(to=("group:web",), role=Role.WRITER, levels=(Level.AUDIT,), sources=("b",)),
    )
    records = [line(source="a"), line(source="b"), event("x", "a"), event("x", "b")]
    assert refusals(who, *records) == {1: "source", 2: "source"}


@pytest.mark.parametrize("is_named", [True, False])
def test_the_services_own_names_are_refused(is_named: bool) -> None:
    """`emitd` and `emitd.…` are its own, also where nobody is asked for a name; then no grant could help."""
    who = caller(GrantSettings(to=("shop",), role=Role.WRITER)) if is_named else ANYONE
    records = [event("emitd.audit.key_rotated"), line(source="emitd"), event("emitd"), line(source="emitd.x")]
    errors = refused_records(records, who)
    assert {place: error.field for place, error in errors.items()} == {0: "audit.event_name", 1: "source"}
    kind = RecordForbidden if is_named else RecordInvalid
    assert all(type(error) is kind for error in errors.values())


def test_a_relay_passes_on_what_another_emitd_says() -> None:
    """With `relay: true`, which only a writer can have."""
    who = caller(GrantSettings(to=("shop",), role=Role.WRITER, relay=True))
    assert refusals(who, event("emitd.clock.step", "emitd")) == {}
    with pytest.raises(ValueError, match="relay is for the role writer"):
        GrantSettings(to=("shop",), role=Role.AUDITOR, relay=True)


def test_a_reader_of_everything_reads_without_a_filter() -> None:
    """Others have a scope with their rules, by which all that they read is filtered."""
    method = "emitd.v1.LogService/ListLogs"
    assert caller(GrantSettings(to=("shop",), role=Role.WATCHER), method=method).scope is EVERYTHING
    some = caller(GrantSettings(to=("shop",), role=Role.WATCHER, sources=("a",)), method=method).scope
    assert some.has(Level.INFO, "a", None)
    assert not some.has(Level.INFO, "b", None)


def test_what_is_remembered_is_bounded() -> None:
    """Senders choose sources and names."""
    who = caller(GrantSettings(to=("shop",), role=Role.WRITER))
    for number in range(grants.MAX_KINDS + 10):
        refused_records([line(source=f"s{number}")], who)
    assert grants._judge(who.scope).cache_info().currsize == grants.MAX_KINDS  # type: ignore[attr-defined]
