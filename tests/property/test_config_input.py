"""Listeners, access, grants and handlers in any form: good, or problems with their lines; never a secret."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emitd_handlers.principal import Principal
from emitd_server.access.authenticator import Authenticator, Credentials
from emitd_server.access.grants import ROLES, Grants
from emitd_server.config.loader import survey_config
from emitd_server.errors import ConfigError
from emitd_server.settings import ServerSettings

SECRET = "hush-5f3a9c"
VARIABLES = {
    "SECRET": SECRET,
    "LONG": SECRET * 40,
    "LINES": f"{SECRET}\n{SECRET}",
    "URL": f"ftp://u:{SECRET}@h:x/",
}
NOBODY = Principal("nobody at all", "token", ("of no group",))
GOOD: dict[str, Any] = {
    "server": {
        "listen": [
            "127.0.0.1:0",
            {"address": "unix:a.sock", "principal": "local"},
            {
                "address": "0.0.0.0:1",
                "tls": {"cert_file": "c.pem", "key_file": "k.pem", "client_ca_file": "ca.pem"},
                "identity": "certificate",
            },
            {"address": "0.0.0.0:2", "tls": {"cert_file": "c.pem", "key_file": "k.pem"}, "identity": "token"},
            {"address": "[::]:3", "health_only": True},
            {"address": "[::]:4", "insecure": True},
        ],
        "socket_mode": "0660",
        "reflection": False,
        "redact": ["*password*"],
        "access": {
            "tokens_file": "tokens.yml",
            "jwt": {
                "issuer": "https://issuer.example",
                "audience": "emitd",
                "keys": "https://issuer.example/keys",
                "groups_claim": "groups",
                "ca_file": "ca.pem",
                "token_file": "token",
            },
            "certificate_name": "dns",
            "peer_address": True,
            "grants": [
                {
                    "to": ["shop", "group:web"],
                    "role": "writer",
                    "levels": ["INFO"],
                    "sources": ["s*"],
                    "relay": True,
                },
                {"to": ["ops"], "role": "auditor", "event_names": ["user.*"], "job_types": ["*"]},
            ],
        },
        "limits": {"bytes_per_second": 1000, "max_streams_per_principal": 5, "min_free_bytes": 0},
    },
    "handlers": {
        "hook": {"type": "webhook", "url": "https://h.example/x", "headers": {"Authorization": "Bearer x"}},
        "jobs": {"type": "database_job", "database": "postgresql://emitd:pw@db.example/app"},
        "audit": {"type": "json_audit", "path": "a.log"},
    },
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value in the tree, with the way to it."""
    yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The tree with another value in one place; None takes it out of a list or a mapping."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


PLACES = [*places(GOOD)]
TEXTS = st.sampled_from(
    [
        *(f"${{{name}}}" for name in VARIABLES),
        "x${SECRET}",
        "https://${SECRET}@h/",
        "postgresql://u:${SECRET}@h:p/x",
        "unix:${LONG}",
        "group:web",
        "group:",
        "*",
        "",
        " ",
        "token",
        "127.0.0.1:0",
        "${MISSING}",
        "${",
        "\u202e",
        "0x7",
    ]
) | st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**65) | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS | st.sampled_from(["address", "to", "role"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "c.yml"


def is_good(file: Path, text: str) -> bool:
    """Whether the text is a good configuration, of which all is made that is made at the start without a file."""
    survey = survey_config(file, environ=VARIABLES, text=text)
    for problem in survey.problems:
        assert problem.file == str(file)
        assert problem.line or problem.path or "YAML" in problem.found
        assert "\n" not in str(problem)
        assert SECRET not in repr(problem)
    if survey.config is None:
        assert survey.problems
        return False
    assert not survey.problems
    access(survey.config.server)
    return True


def access(server: ServerSettings) -> None:
    credentials = Credentials(server.access, lambda _: None)
    for entry in server.listeners().values():
        try:
            Authenticator(entry.identity.value, credentials, entry.principal)
        except ConfigError as error:
            assert server.access.tokens_file is server.access.jwt is None, error
    for grant in server.access.grants:
        assert isinstance(grant.to, tuple)
        assert not any(Grants([grant]).deciding(NOBODY, method) for method in ROLES), "a name is no pattern"


def test_the_good_one_is_good(file: Path) -> None:
    """So that what the other tests change is looked at."""
    assert is_good(file, json.dumps(GOOD))


@pytest.mark.parametrize("path", PLACES[1:], ids=lambda path: ".".join(map(str, path)))
def test_a_secret_in_any_place_is_not_shown(file: Path, path: tuple[Any, ...]) -> None:
    """Every value, taken from the environment in six forms: as it is, and inside of lists, mappings and URLs."""
    for text in (*(f"${{{name}}}" for name in VARIABLES), "x${SECRET}", "sqlite://u:${SECRET}@h/x"):
        for value in (text, [text], {"address": text, "to": [text], "role": text}):
            is_good(file, json.dumps(changed(GOOD, path, value)))


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
@example(changes=[(("server", "listen", 1, "principal"), "group:web")])
@example(changes=[(("server", "listen", 1, "principal"), "a\nb")])
@settings(max_examples=300, deadline=None)
def test_values_of_any_kind_are_taken_or_named(
    file: Path, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    """300 inputs: a good configuration with up to three values replaced by any others."""
    document: Any = GOOD
    for path, value in changes:
        try:
            document = changed(document, path, value)
        except (KeyError, IndexError, TypeError, ValueError):  # an earlier change has taken the place away
            continue
    is_good(file, json.dumps(document))


@given(text=st.text(alphabet="{}[]:,-#&*!|>'\"%@` \n\tab0${}~?", max_size=80))
@settings(max_examples=500, deadline=None)
def test_texts_of_any_kind_are_no_configuration(file: Path, text: str) -> None:
    """500 inputs: what YAML is made of, in any order, alone and below `server:`."""
    assert not is_good(file, text)
    assert not is_good(file, "server:\n  listen:\n  - " + text)
