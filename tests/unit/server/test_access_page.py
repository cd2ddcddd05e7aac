"""`docs/security.md`, "Who calls": its numbers are those of the code."""

import re
from pathlib import Path

import pytest

from emitd_server.access import jwt, jwt_keys
from emitd_server.access.authenticator import MAX_AUTHORIZATION_BYTES
from emitd_server.config.loader import load_config
from emitd_server.errors import ConfigError
from emitd_server.settings import JwtSettings

PAGE = (Path(__file__).parents[3] / "docs" / "security.md").read_text()


def test_every_key_of_jwt_has_a_row() -> None:
    """And there is no other."""
    rows = re.findall(
        r"^\| `(\w+)` \|", PAGE.partition("other JWT\n\n")[2].partition("### ")[0], re.MULTILINE
    )
    assert rows == list(JwtSettings.__struct_fields__)


def test_the_numbers_are_those_of_the_code() -> None:
    """Times, sizes and counts."""
    text = " ".join(PAGE.split())
    for said in (
        f"with {jwt.LEEWAY_SECONDS} seconds of leeway",
        f"a URL every {jwt_keys.REFRESH_SECONDS:g} seconds: at most {jwt_keys.MAX_KEYS_BYTES // 1024} KiB",
        f"and {jwt_keys.MAX_KEYS} keys, within {jwt_keys.FETCH_SECONDS:g} seconds",
        f"RSA under {jwt_keys.MIN_RSA_BITS:,} or over {jwt_keys.MAX_RSA_BITS:,} bits",
        f"A token has at most {MAX_AUTHORIZATION_BYTES // 1024} KiB",
    ):
        assert said in text


@pytest.mark.parametrize(
    "keys",
    [
        "http://a.example/keys",
        "HTTPS://a.example/keys",
        "https://",
        "https:///keys",
        "https://user:secret@a.example/keys",
        "https://a.example/keys secret",
        "https://a.example?secret",
        "ftp://secret",
        "file:///etc/secret",
        "",
    ],
)
def test_other_places_of_keys_are_refused_and_not_shown(keys: str, tmp_path: Path) -> None:
    """A URL may have a password in it."""
    file = tmp_path / "c.yml"
    file.write_text(
        f"server: {{access: {{jwt: {{issuer: a, audience: b, keys: '{keys}'}}}}}}\nhandlers: {{a: {{type: discard}}}}"
    )
    with pytest.raises(ConfigError, match=r"server.access.jwt.keys: it is") as caught:
        load_config(file, environ={})
    assert "secret" not in str(caught.value)
