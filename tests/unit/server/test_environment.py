"""Variables of the environment: how texts take them, and how each value is read as its key wants it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.console import ConsoleSettings
from emitd_handlers.settings import HandlerSettings, PositiveSeconds
from emitd_handlers.webhook.handler import WebhookSettings
from emitd_server.config.environment import expand
from emitd_server.config.loader import load_config
from emitd_server.config.settings_reader import SettingsReader
from emitd_server.config.yaml_document import Value, read_yaml
from emitd_server.errors import ConfigError, Problem

ENVIRON = {"A": "1", "B_2": "two", "EMPTY": "", "NESTED": "${A}", "PW": "p:w"}


@pytest.mark.parametrize(
    ("text", "expanded", "names"),
    [
        ("no variable, $A, $ {A}, {A}", "no variable, $A, $ {A}, {A}", ""),
        ("${A}", "1", "${A}"),
        ("postgresql://u:${PW}@h/db", "postgresql://u:p:w@h/db", "${PW}"),
        ("${A}-${B_2}-${A}", "1-two-1", "${A}, ${B_2}, ${A}"),
        ("${EMPTY}", "", "${EMPTY}, which is empty"),
        ("${NONE:-x y}", "x y", "the default of ${NONE}"),
        ("${EMPTY:-x}", "x", "the default of ${EMPTY}"),
        ("${A:-x}", "1", "${A}"),
        ("${NONE:-}", "", "${NONE}, which is empty"),
        ("${NONE:-.}/logs", "./logs", "the default of ${NONE}"),
        ("${NESTED}", "${A}", "${NESTED}"),
        ("$${A}", "${A}", ""),
        ("$$${A}", "$${A}", ""),
        ("$${", "${", ""),
        ("$${A}${A}", "${A}1", "${A}"),
    ],
)
def test_a_text_takes_its_variables(text: str, expanded: str, names: str) -> None:
    """Each once, with a default as a shell has it; messages get the names only."""
    assert expand(text, ENVIRON) == (expanded, names)


@pytest.mark.parametrize(
    "text", ["${", "${A", "x${}", "${A B}", "${1}", "${A-x}", "${A:?x}", "${A:+x}", "${A:-${B_2}}", "${É}"]
)
def test_what_begins_no_variable_is_refused(text: str) -> None:
    """It is a mistake, and not the text that was meant."""
    with pytest.raises(ValueError, match=r"^found \$\{ that begins no variable; expected \$\{NAME\}, "):
        expand(text, ENVIRON)


def test_all_that_is_missing_is_named() -> None:
    """In one message."""
    with pytest.raises(ValueError, match=r"^the environment has no variable 'X', 'Y'$"):
        expand("${X}${A}${Y}${Z:-}", ENVIRON)


@given(st.lists(st.tuples(st.text(), st.text(alphabet=st.characters(blacklist_characters="${}")))))
def test_values_arrive_as_they_are(parts: list[tuple[str, str]]) -> None:
    """Whatever they hold, and whatever stands around them."""
    environ = {f"V{index}": value for index, (value, _) in enumerate(parts)}
    text = "".join(f"${{V{index}}}{between}" for index, (_, between) in enumerate(parts))
    assert expand(text, environ)[0] == "".join(value + between for value, between in parts)


class Typed(HandlerSettings, frozen=True, kw_only=True):
    count: int = 0
    ratio: float = 0.0
    wait: PositiveSeconds = 1.0
    on: bool = False
    maybe: bool | None = True
    most: int | None = 7
    text: str = ""
    note: str | None = "x"
    folder: Path = Path("x")
    key: Path | None = Path("x")
    counts: tuple[int, ...] = ()
    either: bool | str = ""
    flags: Mapping[str, bool] = msgspec.field(default_factory=dict)


def read(text: str, **environ: str) -> tuple[Typed | None, list[str]]:
    problems: list[Problem] = []
    value = read_yaml(text, "", problems, environ)
    assert isinstance(value, Value)
    settings = SettingsReader("", Path("/base"), problems).read(Typed, value, "p")
    return settings, [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        *(("on", word, True) for word in ("true", "True", "TRUE", "yes", "YES", "on", "On", "1", " true\n")),
        *(("on", word, False) for word in ("false", "False", "no", "off", "OFF", "0")),
        ("count", "5000", 5000),
        ("count", "-5", -5),
        ("count", "1e3", 1000),
        ("count", "7\r", 7),
        ("ratio", "2", 2.0),
        ("ratio", "2.5", 2.5),
        ("ratio", "1e-2", 0.01),
        ("most", "", None),
        ("most", "null", None),
        ("most", "8", 8),
        ("maybe", "", None),
        ("maybe", "off", False),
        ("text", "yes", "yes"),
        ("text", "5", "5"),
        ("text", "null", "null"),
        ("text", "", ""),
        ("text", " [a]: #x ", " [a]: #x "),
        ("note", "5", "5"),
        ("note", "", None),
        ("either", "yes", "yes"),
        ("folder", "logs", Path("/base/logs")),
        ("folder", "/var/1", Path("/var/1")),
        ("key", "", None),
        ("key", "5", Path("/base/5")),
    ],
)
def test_a_variable_is_read_as_its_key_wants_it(key: str, text: str, expected: object) -> None:
    """Also as a default, and with another variable next to it."""
    for written, environ in (
        ("${V}", {"V": text}),
        ("${E}${V}", {"E": "", "V": text}),
        *([(f"${{V:-{text}}}", {})] if text.strip() == text else ()),
    ):
        settings, problems = read(f"{key}: '{written}'\n", **environ)
        assert problems == []
        found = getattr(settings, key)
        assert (found, type(found)) == (expected, type(expected))


def test_members_are_read_as_their_place_wants_them() -> None:
    """In lists and mappings, some from the environment and some from the file."""
    settings, problems = read("counts: ['${A}', 2]\nflags: {a: '${ON}', b: false}\n", A="1", ON="true")
    assert problems == []
    assert settings is not None
    assert (settings.counts, settings.flags) == ((1, 2), {"a": True, "b": False})


def test_a_text_in_the_file_stays_a_text() -> None:
    """Only a variable has no other way to say a number."""
    for line in ("count: '5'", "on: 'true'", "on: 1", "most: ''", "count: 2.0"):
        settings, (problem,) = read(f"{line}\n")
        assert settings is None
        assert "; expected " in problem


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("count", "hunter2", "int"),
        ("count", "010", "int"),
        ("count", "0x10", "int"),
        ("count", "1_000", "int"),
        ("count", "٣", "int"),
        ("count", "2.5", "int"),
        ("count", "yes", "int"),
        ("count", "9" * 5000, "int"),
        ("wait", "-3", "float > 0.0"),
        ("wait", "1e999", "float"),
        ("ratio", "nan", "a finite number"),
        ("ratio", "-inf", "a finite number"),
        ("on", "2", "bool"),
        ("on", "truely", "bool"),
        ("most", "None", "int | null"),
        ("key", "~nobody-of-this-name", "a path, or ./~NAME"),
        ("counts", "1, 2", "array"),
        ("flags", "{a: true}", "object"),
    ],
)
def test_an_error_names_the_variable_and_never_its_value(key: str, text: str, expected: str) -> None:
    """And what its key expects."""
    settings, (problem,) = read(f"{key}: '${{MY_VARIABLE}}'\n", MY_VARIABLE=text)
    assert settings is None
    assert text not in problem
    assert problem.startswith(f":1: p.{key}: found a value from ${{MY_VARIABLE}}")
    assert problem.endswith(f"; expected {expected}")
    if "{" not in text:
        (of_default,) = read(f"{key}: '${{V:-{text}}}'\n")[1]
        assert of_default == problem.replace("${MY_VARIABLE}", "the default of ${V}")


@pytest.mark.parametrize(
    ("struct", "text", "why"),
    [
        (
            ConsoleSettings,
            "timezone: '${V}'",
            "timezone: is no name of the IANA database, such as Europe/Berlin",
        ),
        (
            WebhookSettings,
            "{url: 'http://h/', headers: {Authorization: '${V}'}}",
            "headers: the value of 'Authorization' must be printable ASCII on one line",
        ),
    ],
)
def test_what_a_struct_refuses_is_explained(struct: type[HandlerSettings], text: str, why: str) -> None:
    """Such as a token that a secret's file ended with a newline."""
    problems: list[Problem] = []
    value = read_yaml(text, "", problems, {"V": "hunter2\n"})
    assert isinstance(value, Value)
    assert SettingsReader("", Path("/base"), problems).read(struct, value, "p") is None
    assert [str(problem) for problem in problems] == [f":1: p: found a value from ${{V}}: {why}"]


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"])), st.sampled_from(Typed.__struct_fields__))
def test_any_value_is_taken_or_refused_in_one_line(text: str, key: str) -> None:
    """No exception comes through, and no line has a text that is long enough to be a secret."""
    settings, problems = read(f"{key}: '${{V}}'\n", V=f"s3cret{text}s3cret")
    assert (settings is None) == (len(problems) == 1)
    assert "s3cret" not in "".join(problems)


@given(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_numbers_and_truth_values_make_the_round_trip(count: int, ratio: float, on: bool) -> None:
    """As Python and JSON write them."""
    text = "count: '${C}'\nratio: '${R}'\non: '${O}'\n"
    settings, problems = read(text, C=str(count), R=str(ratio), O=str(on))
    assert problems == []
    assert settings is not None
    assert (settings.count, settings.ratio, settings.on) == (count, ratio, on)


@pytest.mark.parametrize(
    ("word", "is_on"), [("off", False), ("0", False), ("no", False), ("on", True), ("", True)]
)
def test_an_entry_is_switched_by_a_variable(tmp_path: Path, word: str, is_on: bool) -> None:
    """And a queue gets its size."""
    file = tmp_path / "c.yml"
    file.write_text(
        "handlers:\n  a: {type: discard}\n"
        "  b: {type: discard, enabled: '${ON:-true}', delivery: {kind: queued, max_records: '${Q:-9}'}}\n"
    )
    entries: dict[str, Any] = {
        e.name: e for e in load_config(file, environ={"ON": word, "Q": "5000"}).handlers
    }
    assert sorted(entries) == (["a", "b"] if is_on else ["a"])
    if is_on:
        assert entries["b"].settings.delivery.max_records == 5000
    with pytest.raises(ConfigError, match=r"b.enabled: found a value from \$\{ON\}; expected bool"):
        load_config(file, environ={"ON": "perhaps"})


def test_the_state_folder_of_systemd_can_be_used(tmp_path: Path) -> None:
    """A relative path would begin at the configuration, which may be read-only."""
    file = tmp_path / "c.yml"
    file.write_text("handlers: {a: {type: json_audit, path: '${STATE_DIRECTORY:-.}/logs/a.log'}}\n")
    for environ, path in (
        ({}, tmp_path / "logs/a.log"),
        ({"STATE_DIRECTORY": "/var/lib/e"}, "/var/lib/e/logs/a.log"),
    ):
        settings = load_config(file, environ=environ).handlers[0].settings
        assert msgspec.structs.asdict(settings)["path"] == Path(path)
