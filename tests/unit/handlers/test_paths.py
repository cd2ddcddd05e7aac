"""`resolve_path`: the one way from a text of the configuration to a path."""

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.paths import SettingInvalid, resolve_path

BASE = Path("/etc/emitd")


def test_a_tilde_is_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the user, or of one that is named; elsewhere in a path it is a character."""
    monkeypatch.setenv("HOME", "/home/me")
    user = pwd.getpwuid(os.getuid())
    assert resolve_path("~", BASE) == Path("/home/me")
    assert resolve_path("~/a.log", BASE) == Path("/home/me/a.log")
    assert resolve_path(f"~{user.pw_name}/a", BASE) == Path(user.pw_dir) / "a"
    assert resolve_path("a~/~b", BASE) == BASE / "a~" / "~b"
    assert resolve_path("./~x", BASE) == BASE / "~x"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty or has"),
        ("a\0b", "U+0000"),
        ("~nobody-of-this-name", "it begins with a ~ whose home folder is not known"),
        ("~nobody-of-this-name/x", "it begins with a ~ whose home folder is not known"),
    ],
)
def test_what_is_no_path_is_refused(text: str, problem: str) -> None:
    """And the message shows nothing of it."""
    with pytest.raises(SettingInvalid) as caught:
        resolve_path(text, BASE)
    assert problem in str(caught.value)
    assert "nobody" not in str(caught.value)


@given(st.text())
def test_any_other_text_is_a_path_of_that_name(text: str) -> None:
    """A relative one begins at the configuration's folder."""
    try:
        path = resolve_path(text, BASE)
    except SettingInvalid:
        assert not text or "\0" in text or text.startswith("~")
    else:
        assert path.is_absolute()
        if not text.startswith("~"):
            assert path == BASE / text
