"""The names that jobs have in a PostgreSQL database."""

import msgspec
import pytest

from emitd_handlers.jobs.handler import DatabaseJobSettings
from emitd_handlers.jobs.postgres.schema import Tables
from emitd_handlers.jobs.postgres.store import PostgresJobStore
from emitd_handlers.jobs.store import SharedJobStore

#: PostgreSQL cuts what is longer.
MAX_IDENTIFIER_BYTES = 63
MAX_NAME_LENGTH = 40
DSN = "postgresql://emitd@/nowhere"


def test_the_default_table_has_the_documented_companions() -> None:
    """They bear no name of a table of their own."""
    tables = Tables.named("public", "job_logs")
    assert tables.jobs == '"public"."job_logs"'
    assert tables.transitions == '"public"."job_transitions"'
    assert tables.commits == '"public"."job_commits"'
    assert tables.lease_watch == '"public"."job_lease_watch"'
    assert tables.versions == '"public"."emitd_schema"'
    assert tables.component == "jobs"


def test_another_table_gives_its_name_to_its_companions() -> None:
    """So that several can stand in one schema, with one table of versions."""
    tables = Tables.named("public", "runs")
    assert tables.jobs == '"public"."runs"'
    assert tables.transitions == '"public"."runs_transitions"'
    assert tables.commits == '"public"."runs_commits"'
    assert tables.lease_watch == '"public"."runs_lease_watch"'
    assert tables.versions == '"public"."emitd_schema"'
    assert tables.component == "jobs:runs"


def test_names_are_quoted() -> None:
    """The connection's own schema has whatever name its owner liked."""
    assert Tables.named('a"b. c', "job_logs").jobs == '"a""b. c"."job_logs"'


def test_each_table_has_a_channel_of_its_own() -> None:
    """A channel is the whole database's, and its name is short enough whatever the others are."""
    pairs = [("a", "b"), ("a", "c"), ("b", "b"), ("s" * 63, "t" * MAX_NAME_LENGTH)]
    channels = [Tables.named(*pair).channel for pair in pairs]
    assert len(set(channels)) == len(channels)
    assert all(len(channel.encode()) <= MAX_IDENTIFIER_BYTES for channel in channels)
    assert Tables.named("a", "b").channel == channels[0]


def test_the_longest_name_leaves_room_for_what_is_appended() -> None:
    """Names that PostgreSQL cuts could become the same."""
    tables = Tables.named("public", "t" * MAX_NAME_LENGTH)
    names = [tables.transitions, tables.commits, tables.lease_watch, tables.cleaner]
    names += [
        tables.prefix + suffix for suffix in ("_by_end_with_history", "_transitions_pkey", "_commits_by_xid")
    ]
    assert all(len(name.removeprefix('"public".').strip('"')) <= MAX_IDENTIFIER_BYTES for name in names)


@pytest.mark.parametrize(
    "name", ["1a", "a-b", "a b", 'a"', "A", "ä", "a.b", "a\n", "a" * (MAX_NAME_LENGTH + 1)], ids=repr
)
@pytest.mark.parametrize("key", ["schema", "table"])
def test_a_name_that_could_be_anything_else_is_refused(key: str, name: str) -> None:
    """Names of indexes and triggers are not quoted."""
    with pytest.raises(msgspec.ValidationError, match=f"{key}`"):
        msgspec.convert({key: name}, DatabaseJobSettings)


def test_a_table_has_a_name() -> None:
    """Only a schema may be the connection's own."""
    with pytest.raises(msgspec.ValidationError, match="table`"):
        msgspec.convert({"table": ""}, DatabaseJobSettings)
    assert msgspec.convert({"schema": ""}, DatabaseJobSettings) == DatabaseJobSettings()


@pytest.mark.parametrize("name", ["a", "_", "job_logs", "a1_", "a" * MAX_NAME_LENGTH])
def test_an_ordinary_name_is_taken(name: str) -> None:
    """For a schema as for a table."""
    settings = msgspec.convert({"schema": name, "table": name}, DatabaseJobSettings)
    store = PostgresJobStore(DSN, schema=settings.schema, table=settings.table)
    assert isinstance(store, SharedJobStore)
