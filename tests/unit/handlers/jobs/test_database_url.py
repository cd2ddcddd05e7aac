"""DatabaseUrl: what an entry's `database` may say."""

import re
from pathlib import Path

import pytest

from emitd_handlers.jobs.database_url import DatabaseUrl


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
