"""DatabaseUrl: what an entry's `database` may say."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from asyncpg import connect_utils
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.jobs.database_url import DatabaseUrl, postgres_options
from emitd_handlers.jobs.postgres.database import _connect_arguments
from emitd_handlers.paths import SettingInvalid


def test_three_slashes_are_relative_and_four_absolute() -> None:
    """A relative path is taken from the configuration file's folder; an absolute one stands for itself."""
    assert DatabaseUrl.resolve("sqlite:///logs/jobs.db", Path("/etc/emitd")).path == Path(
        "/etc/emitd/logs/jobs.db"
    )
    assert DatabaseUrl.resolve("sqlite:////var/jobs.db", Path("/etc/emitd")).path == Path("/var/jobs.db")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mysql://db/jobs", "'mysql' databases are not supported; expected sqlite:///PATH or postgresql://"),
        ("jobs.db", "'jobs.db' names no database; expected sqlite:///PATH"),
        ("", "'' names no database; expected sqlite:///PATH"),
        ("sqlite://jobs.db", "'sqlite://jobs.db' names no database; expected sqlite:///PATH"),
        ("sqlite:///", "'sqlite:///' names no database; expected sqlite:///PATH"),
        ("sqlite:////", "'sqlite:////' names no database; expected sqlite:///PATH"),
        ("sqlite:///:memory:", "a database in memory keeps nothing; expected the path of a file"),
        (
            "sqlite:///a.db?mode=ro",
            "'sqlite:///a.db?mode=ro' has options or characters that are not supported",
        ),
    ],
)
def test_what_names_no_file_is_refused(text: str, expected: str) -> None:
    """Another scheme, no path, memory and options are a ValueError that says what is expected."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        DatabaseUrl.resolve(text, Path("/"))


def test_it_is_a_value() -> None:
    """Two of one path are equal, its text is a URL that resolves to it, and it does not change."""
    url = DatabaseUrl.resolve("sqlite:///jobs.db", Path("/srv"))
    assert str(url) == "sqlite:////srv/jobs.db"
    assert DatabaseUrl.resolve(str(url), Path("/elsewhere")) == url
    assert hash(url) == hash(DatabaseUrl(Path("/srv/jobs.db")))
    assert url != DatabaseUrl(Path("/srv/other.db"))
    assert repr(url) == "DatabaseUrl('sqlite:////srv/jobs.db')"
    with pytest.raises(AttributeError):
        url.path = Path("/")  # type: ignore[misc]


def test_a_postgresql_database_is_named_as_its_tools_name_it() -> None:
    """Both schemes, a service on a socket, options: all is passed on."""
    for text in (
        "postgresql://db/jobs",
        "postgres://me@[::1]:5433/jobs?sslmode=require",
        "postgresql:///jobs?host=/run",
    ):
        url = DatabaseUrl.resolve(text, Path("/"))
        assert (url.dsn, url.path) == (text, None)
    assert DatabaseUrl.resolve("postgresql://db/a", Path("/")) != DatabaseUrl.resolve(
        "postgresql://db/b", Path("/")
    )


@pytest.mark.parametrize(
    "text", ["postgresql://me:s3cret@db:5432/jobs", "postgresql://db/jobs?user=me&password=s3cret"]
)
def test_a_password_is_never_shown(text: str) -> None:
    """Not by the URL's own text, wherever the password stands in it."""
    url = DatabaseUrl.resolve(text, Path("/"))
    assert "s3cret" in url.dsn
    assert "s3cret" not in f"{url} {url!r}"
    assert "db" in str(url)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql:me:s3cret@db/jobs",
        "postgresql://me:s3cret@db:port/jobs",
        "postgresql://me:s3cret@[db/jobs",
    ],
)
def test_what_is_no_url_is_refused_without_its_password(text: str) -> None:
    """The error says what is expected."""
    with pytest.raises(ValueError, match="expected sqlite:///PATH or postgresql://") as caught:
        DatabaseUrl.resolve(text, Path("/"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///~/x.db", "/home/me/x.db"),
        ("sqlite:////var/~x.db", "/var/~x.db"),
        ("sqlite:///a b#c.db", "/etc/emitd/a b#c.db"),
        ("sqlite:///50%.db", "/etc/emitd/50%.db"),
        ("sqlite:///../x.db", "/etc/emitd/../x.db"),
    ],
)
def test_an_sqlite_path_is_taken_as_it_is(text: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the home folder at its beginning."""
    monkeypatch.setenv("HOME", "/home/me")
    assert DatabaseUrl.resolve(text, Path("/etc/emitd")).path == Path(path)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///my%20jobs.db",
        "sqlite:///file:jobs.db",
        "sqlite:///C:\\jobs.db",
        "sqlite:///jobs/",
        "sqlite:////var/jobs/",
        "sqlite:///a.db?",
    ],
)
def test_what_would_be_another_file_is_refused(text: str) -> None:
    """Percent-encoding, URIs of SQLite, paths of Windows and folders are not what they seem."""
    with pytest.raises(ValueError, match="has options or characters that are not supported in the path"):
        DatabaseUrl.resolve(text, Path("/"))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://h1:5432,h2:5433/db?target_session_attrs=read-write",
        "postgresql://u:p%40%2F%3A@h1,[::1]:5433,%2Frun%2Fpostgresql/db",
        "postgresql://[fe80::1%25eth0]:5432/db",
        "postgresql://",
        "postgresql:///?host=/run/a,h2&port=5432,5433&dbname=x",
        "postgresql://h/d?sslmode=verify-full&sslpassword=x&options=-c%20a%3Db&statement_timeout=5s",
        "postgresql://h/d?connect_timeout=10&keepalives=1&keepalives_idle=30&channel_binding=prefer&gssencmode=disable",
    ],
)
def test_what_libpq_takes_is_taken(text: str) -> None:
    """Several hosts, sockets, zones, escapes and options."""
    assert DatabaseUrl.resolve(text, Path("/")).dsn == text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            "channel_binding=require",
            "channel_binding is not supported with its value; remove it, and use sslmode=",
        ),
        (
            "gssencmode=require",
            "gssencmode is not supported with its value; remove it, and use sslmode=verify-full",
        ),
        ("require_auth=scram-sha-256", "require_auth is not supported with its value; remove it, and demand"),
        ("requirepeer=s3cret", "requirepeer is not supported with its value"),
        (
            "service=s3cret",
            "service is not supported with its value; write what the service says into the URL",
        ),
        ("hostaddr=10.0.0.1", "hostaddr is not supported with its value; write the address as the host"),
        (
            "client_encoding=LATIN1",
            "client_encoding is not supported with its value; remove it: emitd writes UTF-8",
        ),
        ("sslmode=s3cret", "sslmode is not one of disable allow prefer require verify-ca verify-full"),
        ("sslmode=parse", "sslmode is not one of"),
        (
            "target_session_attrs=s3cret",
            "target_session_attrs is not one of any read-write read-only primary standby prefer-standby",
        ),
        ("connect_timeout=s3cret", "connect_timeout is not a whole number"),
        ("connect_timeout=-1", "connect_timeout is not a whole number"),
        ("statement_cache_size=1e3", "statement_cache_size is not a whole number"),
        ("sslmode=REQUIRE", "sslmode is not one of"),
        ("sslmode=verify-full&sslmode=disable", "the URL gives 'sslmode' twice; remove one"),
        ("host=s3cret", "the URL gives 'host' twice"),
        ("user=s3cret", "the URL gives 'user' twice"),
        ("password=s3cret", "the URL gives 'password' twice"),
        ("dbname=s3cret", "the URL gives 'dbname' twice"),
        ("port=5433", "the URL gives 'port' twice"),
        ("sslmode", "an option of the URL has no value; expected NAME=VALUE"),
        ("=s3cret", "an option of the URL has no value"),
        ("sslmode=", "an option of the URL has no value"),
        ("sslrootcert=~nobody-of-this-name/s3cret", "whose home folder is not known"),
    ],
)
def test_an_option_that_would_not_work_is_named(options: str, problem: str) -> None:
    """With what to do, and without its value: a secret can stand in the wrong place."""
    with pytest.raises(SettingInvalid) as caught:
        DatabaseUrl.resolve(f"postgresql://me:s3cret@h:5432/db?{options}", Path("/"))
    assert problem in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"), [("PGCHANNELBINDING", "require"), ("PGGSSENCMODE", "require"), ("PGSERVICE", "x")]
)
def test_what_libpq_would_take_from_the_environment_is_not_passed_over(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may ask for more security than asyncpg has."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingInvalid, match=f"^{variable} is not supported with its value; "):
        DatabaseUrl.resolve("postgresql://h/db", Path("/"))


@pytest.mark.parametrize("variable", ["PGSSLMODE", "PGTARGETSESSIONATTRS"])
def test_a_value_of_the_environment_that_would_not_work_is_named(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the URL does not say otherwise."""
    monkeypatch.setenv(variable, "s3cret")
    with pytest.raises(SettingInvalid, match=f"{variable} is not one of") as caught:
        DatabaseUrl.resolve("postgresql://h/db", Path("/"))
    assert "s3cret" not in str(caught.value)
    DatabaseUrl.resolve("postgresql://h/db?sslmode=prefer&target_session_attrs=any", Path("/"))


@pytest.mark.parametrize("hosts", ["h:0", "h:65536", "a:1,b:99999", "a:0,b:1", "[::1]:70000"])
def test_a_port_that_no_server_has(hosts: str) -> None:
    """It is a wrong configuration, and no outage that ends."""
    with pytest.raises(SettingInvalid, match="the port of a host is not from 1 to 65535"):
        DatabaseUrl.resolve(f"postgresql://u@{hosts}/db", Path("/"))
    DatabaseUrl.resolve("postgresql://u@h:65535,[::1]:1/db", Path("/"))


@pytest.mark.parametrize("character", [*"@/#?% :\n\0", "%00"])
def test_a_password_that_is_not_escaped_is_refused(character: str) -> None:
    """It would end elsewhere, and its rest be taken for a host; the message says how to write it."""
    url = f"postgresql://me:12{character}s3cret@h/db"
    with pytest.raises(SettingInvalid) as caught:
        DatabaseUrl.resolve(url, Path("/"))
    assert "s3cret" not in str(caught.value)


def test_files_in_the_options_are_paths_as_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is a home folder, and a relative path begins at the configuration's folder."""
    monkeypatch.setenv("HOME", "/home/me")
    url = "postgresql://h/db?sslrootcert=tls/c%20a.pem&sslkey=~/k&sslcert=/c&passfile=~/p&sslmode=verify-full"
    assert postgres_options(DatabaseUrl.resolve(url, Path("/etc/emitd")).dsn) == {
        "sslrootcert": "/etc/emitd/tls/c a.pem",
        "sslkey": "/home/me/k",
        "sslcert": "/c",
        "passfile": "/home/me/p",
        "sslmode": "verify-full",
    }
    url = "postgresql:///db?host=~/run"
    assert postgres_options(DatabaseUrl.resolve(url, Path("/")).dsn) == {"host": "/home/me/run"}


@given(*[st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)] * 3)
def test_escaped_parts_make_the_round_trip(user: str, password: str, name: str) -> None:
    """The driver gets what was meant, and messages never show the password."""
    secret = f"s3cret{password}"
    url = f"postgresql://{quote(user, safe='')}:{quote(secret, safe='')}@h1,[::1]:5433/{quote(name, safe='')}?a=b"
    resolved = DatabaseUrl.resolve(url, Path("/"))
    assert "s3cret" not in f"{resolved} {resolved!r}"
    addresses, parameters = parsed(resolved.dsn)
    assert addresses == [("h1", 5432), ("::1", 5433)]
    assert (parameters.user, parameters.password, parameters.database) == (user, secret, name)


@given(
    st.text(),
    st.sampled_from(["postgresql://", "postgres://u:s3cret@", "postgresql://h/d?sslmode=", "sqlite:///"]),
)
def test_any_text_is_taken_or_refused(text: str, beginning: str) -> None:
    """By ValueError only, and what is taken is understood by the driver."""
    try:
        url = DatabaseUrl.resolve(beginning + text, Path("/base"))
    except ValueError as error:
        assert "s3cret" not in str(error)
    else:
        assert "s3cret" not in str(url)


def test_options_reach_the_driver() -> None:
    """As asyncpg's arguments, as its own part of the URL, or as settings of the server."""
    arguments = _connect_arguments(
        "postgresql://h/d?connect_timeout=3&keepalives=1&statement_cache_size=0&sslmode=disable"
    )
    assert (arguments["timeout"], arguments["statement_cache_size"]) == (3.0, 0)
    assert _connect_arguments("postgresql://h/d?connect_timeout=0")["timeout"] == 5.0
    _, parameters = parsed(
        "postgresql://h/d?fallback_application_name=x&options=-c%20a%3Db+c&sslmode=disable"
    )
    assert parameters.server_settings == {"application_name": "x", "options": "-c a=b+c"}
    needless = "keepalives=1&tcp_user_timeout=9&gssencmode=prefer"
    assert parsed(f"postgresql://h/d?{needless}")[1].server_settings == {"application_name": "emitd"}
    assert parsed("postgresql://h/d?application_name=y")[1].server_settings == {"application_name": "y"}
    assert parsed("postgresql://h/d")[1].target_session_attrs == "primary"
    assert (
        parsed("postgresql://a:1,b:2/d?target_session_attrs=read-write")[1].target_session_attrs
        == "read-write"
    )
    for sslmode, verify in (("require", "CERT_NONE"), ("verify-ca", None), ("verify-full", None)):
        if verify:
            assert parsed(f"postgresql://h/d?sslmode={sslmode}")[1].ssl.verify_mode.name == verify
        else:
            with pytest.raises(asyncpg.InterfaceError, match="root certificate file"):
                parsed(f"postgresql://h/d?sslmode={sslmode}")


def parsed(dsn: str) -> tuple[list[tuple[str, int]], Any]:
    """Return what asyncpg makes of a URL: addresses and parameters."""
    names = "host port user password passfile database ssl service servicefile direct_tls server_settings"
    given = dict.fromkeys(f"{names} target_session_attrs krbsrvname gsslib".split())
    arguments = _connect_arguments(dsn)
    return connect_utils._parse_connect_dsn_and_args(
        **{name: arguments.get(name) for name in given}, dsn=arguments["dsn"]
    )
