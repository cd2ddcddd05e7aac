"""DatabaseUrl: what an entry's `database` may say."""

import re
from pathlib import Path

import pytest

from emitd_handlers.database_url import DatabaseUrl


def test_three_slashes_are_relative_and_four_absolute() -> None:
    """A relative path is taken from the configuration file's folder; an absolute one stands for itself."""
    assert DatabaseUrl.resolve("sqlite:///logs/jobs.db", Path("/etc/emitd")).path == Path(
        "/etc/emitd/logs/jobs.db"
    )
    assert DatabaseUrl.resolve("sqlite:////var/jobs.db", Path("/etc/emitd")).path == Path("/var/jobs.db")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://db/jobs", "'postgresql' databases are not supported; expected sqlite:///PATH"),
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
