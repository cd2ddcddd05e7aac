"""URLs of PostgreSQL on a real server: hosts and options do what libpq says, or the error names them."""

import re

import asyncpg
import pytest

from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.jobs.postgres.database import Database
from emitd_handlers.jobs.postgres.store import PostgresJobStore

#: What managed databases and other programs put into their URLs.
HARMLESS = (
    "connect_timeout=10&keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9"
    "&gssencmode=prefer&channel_binding=prefer&sslmode=prefer&client_encoding=utf8&fallback_application_name=mine"
)


async def shown(dsn: str, setting: str) -> str:
    database = Database(dsn, pool_size=1)
    await database.open()
    try:
        ((value,),) = await database.fetch(f"SELECT current_setting('{setting}')")
    finally:
        await database.close()
    return str(value)


async def test_options_that_change_nothing_are_taken(postgres_dsn: str) -> None:
    """Asyncpg would send them to the server, which refuses them."""
    assert await shown(f"{postgres_dsn}&{HARMLESS}", "application_name") == "mine"


async def test_the_second_host_is_used_if_the_first_is_away(postgres_dsn: str) -> None:
    """In the order of the URL, and only if the host is what `target_session_attrs` asks for."""
    several = postgres_dsn.replace("host=", "host=/nowhere,")
    assert await shown(f"{several}&target_session_attrs=read-write", "server_encoding") == "UTF8"
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await shown(f"{postgres_dsn}&target_session_attrs=standby", "server_encoding")


async def test_other_options_are_settings_of_the_server(postgres_dsn: str) -> None:
    """With all their characters."""
    assert await shown(f"{postgres_dsn}&work_mem=77kB", "work_mem") == "77kB"
    assert await shown(f"{postgres_dsn}&options=-c%20search_path%3Da%2Bb", "search_path") == "a+b"
    assert await shown(f"{postgres_dsn}&application_name=a+b", "application_name") == "a+b"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "sslcompression=1",
            'unrecognized configuration parameter "sslcompression"; remove the option from the URL',
        ),
        (
            "ssl_mode=require",
            'unrecognized configuration parameter "ssl_mode"; remove the option from the URL',
        ),
        (
            "sslmode=verify-full&sslrootcert=/no/ca.pem",
            "No such file or directory; check that the server runs",
        ),
    ],
)
async def test_what_nobody_knows_is_named(postgres_dsn: str, options: str, expected: str) -> None:
    """When the store is opened, with what to do."""
    store = PostgresJobStore(f"{postgres_dsn}&{options}")
    with pytest.raises(HandlerUnavailable, match=re.escape(expected)):
        await store.open()
