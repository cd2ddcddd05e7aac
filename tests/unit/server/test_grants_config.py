"""`server.access` in the configuration: what is wrong with it is named, with its line and its path."""

from pathlib import Path

import pytest

from emitd_handlers.record import Level
from emitd_handlers.scope import Rule
from emitd_server.access.grants import Grants
from emitd_server.config.loader import ConfigError, load_config
from emitd_server.settings import Role, ServerSettings


def load(folder: Path, server: str) -> ServerSettings:
    file = folder / "c.yml"
    file.write_text(f"handlers: {{d: {{type: discard}}}}\nserver:\n{server}\n")
    return load_config(file, environ={}).server


def problems(folder: Path, server: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, server)
    return [str(problem).removeprefix(f"{folder}/c.yml:") for problem in caught.value.problems]


TOKEN = "{address: '127.0.0.1:1', identity: token}"


def test_tokens_that_nobody_could_have_are_a_problem(tmp_path: Path) -> None:
    """Of each entry that asks for them; either source of tokens is enough."""
    said = "identity: found 'token', and no token is known; expected server.access.tokens_file or jwt"
    listen = f"  listen:\n    - 127.0.0.1:2\n    - {TOKEN}\n    - {TOKEN.replace(':1', ':3')}"
    assert problems(tmp_path, listen) == [f"5: server.listen[1].{said}", f"6: server.listen[2].{said}"]
    assert (
        problems(tmp_path, f"{listen}\n  access: {{peer_address: true}}")[0] == f"5: server.listen[1].{said}"
    )
    for access in ("tokens_file: t", "jwt: {issuer: a, audience: b, keys: k}"):
        assert load(tmp_path, f"{listen}\n  access: {{{access}}}").access
    load(tmp_path, "  listen: [127.0.0.1:2, {address: '127.0.0.1:1'}]")


@pytest.mark.parametrize(
    ("grant", "said"),
    [
        ("to: [''], role: writer", ".to: found a list; expected str of length >= 1"),
        ("to: [], role: writer", ".to: found a list; expected array of length >= 1"),
        ("to: shop, role: writer", ".to: found 'shop'; expected array"),
        ("role: writer", ".to: is missing"),
        ("to: ['group:'], role: writer", ": 'to': a name is empty or has more than 256 bytes"),
        (f"to: [{'a' * 257}], role: writer", ": 'to': a name is empty or has more than 256 bytes"),
        ("to: [' a'], role: writer", ": 'to': a name has characters that cannot be printed, or begins or ends with"),
        ("to: ['*'], role: writer", ": 'to' has names, and groups as 'group:NAME', but no patterns"),
        ("to: [a, 'group:w*'], role: writer", ": 'to' has names, and groups as 'group:NAME', but no patterns"),
        ("to: [a]", ".role: is missing; expected"),
        ("to: [a], role: boss", ".role: found 'boss'; expected one of writer, watcher, auditor, operator"),
        ("to: [a], role: [writer]", ".role: found a list"),
        ("to: [a], role: auditor, relay: true", ": relay is for the role writer"),
        ("to: [a], role: writer, relay: maybe", ".relay: found 'maybe'; expected bool"),
        ("to: [a], role: writer, level: [INFO]", ".level: unknown key 'level'; expected one of to, role, levels,"),
        ("to: [a], role: writer, levels: [INFOO]", ".levels[0]: found 'INFOO'; expected one of DEBUG, INFO,"),
        ("to: [a], role: writer, levels: [INFO, 20]", ".levels[1]: found 20; expected one of DEBUG, INFO,"),
        ("to: [a], role: writer, levels: []", ": 'levels' is empty; leave it out for all"),
        ("to: [a], role: writer, sources: ['']", ".sources: found a list; expected str of length >= 1"),
        ("to: [a], role: writer, event_names: []", ".event_names: found a list; expected array of length >= 1"),
        ("to: [a], role: writer, job_types: import", ".job_types: found 'import'; expected array"),
        ("7", ": found 7; expected a mapping of settings"),
    ],
)  # fmt: skip
def test_a_grant_that_is_wrong_is_named(tmp_path: Path, grant: str, said: str) -> None:
    """By its line and its place in the list; a good one before it is none of it."""
    item = grant if grant == "7" else f"{{{grant}}}"
    good = "  access:\n    grants:\n      - {to: [b], role: writer}\n      - "
    (problem,) = problems(tmp_path, good + item)
    assert problem.startswith(f"6: server.access.grants[1]{said}")


def test_levels_are_written_as_everywhere(tmp_path: Path) -> None:
    """`INFO+` has those above it, without events and reports."""
    grants = "{to: [a], role: writer, levels: [INFO+, AUDIT]}, {to: [a], role: watcher, levels: WARNING+}"
    first, second = load(tmp_path, f"  access: {{grants: [{grants}]}}").access.grants
    assert set(first.levels or ()) == {*Level} - {Level.DEBUG, Level.JOB_STATUS}
    assert set(second.levels or ()) == {Level.WARNING, Level.ERROR, Level.CRITICAL}


@pytest.mark.parametrize(
    ("pattern", "text", "is_covered"),
    [
        ("**", "", True),
        ("**", "a\nb", True),
        ("a**b", "ab", True),
        ("*a*a*a*a*b", "a" * 300, False),
        ("a" * 300, "a" * 300, True),
        ("a" * 300, "a" * 299, False),
        (" x", "x", False),
        ("[a-z].?", "[a-z].?", True),
        ("[a-z]", "b", False),
        ("Shop", "shop", False),
        ("é*", "éa", True),
    ],
)
def test_odd_patterns_are_texts_in_which_only_the_star_stands_for_others(
    tmp_path: Path, pattern: str, text: str, is_covered: bool
) -> None:
    """Also long ones, and quickly; an empty text matches only stars."""
    access = f'  access: {{grants: [{{to: [a], role: writer, sources: ["{pattern}"]}}]}}'
    (grant,) = load(tmp_path, access).access.grants
    assert grant.role is Role.WRITER
    assert Grants([grant])
    assert Rule(sources=grant.sources).has(Level.INFO, text, None) is is_covered
