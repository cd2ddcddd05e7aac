"""A YAML file as values with lines: whatever is in it, problems come back and no exception does."""

from pathlib import Path

import pytest

from emitd_server.config.yaml_document import Value, read_text, read_yaml
from emitd_server.errors import Problem

SECRET = "hunter2"


#: Nine lists of nine aliases, each of the list before: 387 million values.
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


def read(text: str) -> tuple[Value | None, list[str]]:
    problems: list[Problem] = []
    value = read_yaml(text, "c.yml", problems, {"S": SECRET})
    return value, [str(problem) for problem in problems]


def good(text: str) -> Value:
    value, problems = read(text)
    assert problems == []
    assert value is not None
    return value


def test_every_value_and_key_knows_its_line() -> None:
    """Also inside lists and where a value stands below its key."""
    value = good("a: 1\nb:\n  - x\n  - y:\n      2\n")
    assert dict(value.key_lines) == {"a": 1, "b": 2}
    assert value.content["b"].line == 3
    inner = value.content["b"].content[1]
    assert (inner.line, inner.key_lines["y"], inner.content["y"].line) == (4, 4, 5)


def test_the_plain_value_is_what_yaml_says() -> None:
    """Types as YAML 1.1 has them; an empty file is an empty mapping."""
    text = "a: [1, 2.5, yes, ~, 'no']\nb: {c: text}\n"
    assert good(text).plain() == {"a": [1, 2.5, True, None, "no"], "b": {"c": "text"}}
    assert good("").plain() == {}
    assert good("# nothing\n").plain() == {}


def test_an_anchor_may_be_used_again() -> None:
    """An alias is its anchor's value."""
    assert good("a: &x {b: 1}\nc: *x\n").plain() == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [1\nc: 2\n", "c.yml:3: not YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", "c.yml:2: not YAML: "),
        ("a: *nowhere\n", "c.yml:1: not YAML: found undefined alias 'nowhere'"),
        ("a: 1\n---\nb: 2\n", "not YAML: expected a single document in the stream, but found another"),
        ("a: 1\nb: \x00\n", "c.yml:2: not YAML: the character U+0000 is not allowed"),
        ("[" * 10_000, "c.yml: not YAML: it nests too deep"),
        ("a: " + "[" * 65 + "]" * 65, "c.yml: not YAML: it nests too deep"),
        ("a: {b: ${S}}\n", "expected ',' or '}', but got '{'; a value with ${ stands in quotes"),
        (BOMB, "c.yml:1: not YAML: it has more than 50000 values"),
    ],
)
def test_what_is_no_yaml_is_one_problem(text: str, expected: str) -> None:
    """With its line, in one line of text, and without a value to go on with."""
    value, (problem,) = read(text)
    assert value is None
    assert problem.startswith(expected) or expected in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yml:3: a: the key 'a' stands here again, first in line 1"),
        ("x:\n  a: 1\n  a: 2\n", "c.yml:3: x.a: the key 'a' stands here again, first in line 2"),
        ("x: &a\n  y: [*a]\n", "x.y[0]: contains itself, by an alias"),
        ("x:\n  ? [a]\n  : 1\n", "c.yml:2: x: found a list or a mapping as a key; expected text"),
        ("x: !!timestamp soon\n", "c.yml:1: x: 'soon' cannot be read as !!timestamp"),
        ("x: !!bool perhaps\n", "c.yml:1: x: 'perhaps' cannot be read as !!bool"),
        ("x: !env HOME\n", "c.yml:1: x: 'HOME' cannot be read as !env"),
        ("x: !!python/name:os.system ''\n", "cannot be read as !!python/name:os.system"),
        ("x: 2026-13-45\n", "c.yml:1: x: '2026-13-45' cannot be read as !!timestamp"),
        (
            "x: !!python/object/apply:os.system [ls]\n",
            "x: found the tag tag:yaml.org,2002:python/object/apply:os.sy",
        ),
        ("x: !!omap [a: 1]\n", "c.yml:1: x: found the tag tag:yaml.org,2002:omap; remove it"),
        ("x: !!set {a, b}\n", "c.yml:1: x: found the tag tag:yaml.org,2002:set; remove it"),
        ("x: 010\n", "c.yml:1: x: found 010; expected a finite number in decimal digits"),
        ("x: 12:30:45\n", "c.yml:1: x: found 12:30:45; expected a finite number in decimal digits"),
        ("x: 190:20:30.15\n", "x: found 190:20:30.15; expected a finite number in decimal digits"),
        ("x: " + "9" * 5000 + "\n", "cannot be read as !!int"),
        ("x: '${S'\n", "c.yml:1: x: found ${ that begins no variable; expected ${NAME}, ${NAME:-default}"),
        ("x: .nan\n", "c.yml:1: x: found .nan; expected a finite number"),
        ("x: [1, -.inf]\n", "c.yml:1: x[1]: found -.inf; expected a finite number"),
        ("x: {y: '${NO}'}\n", "c.yml:1: x.y: the environment has no variable 'NO'"),
    ],
)
def test_what_cannot_be_read_is_one_problem(text: str, expected: str) -> None:
    """At its own line and path; the rest of the file is read all the same."""
    value, (problem,) = read(text + "last: 1\n")
    assert value is not None
    assert value.content["last"].content == 1
    assert expected in problem
    assert "\n" not in problem


def test_of_a_key_that_stands_twice_the_first_counts() -> None:
    """So that its value is checked too, and once."""
    value, _ = read("a: 1\na: 2\n")
    assert value is not None
    assert value.plain() == {"a": 1}


def test_what_is_unreadable_is_not_complained_of_twice() -> None:
    """It is marked, a list that holds it too, and the plain form of a mapping leaves it out."""
    value, problems = read("a: {b: '${NO}', c: 1}\nd: [x, '${NO}']\n")
    assert len(problems) == 2
    assert value is not None
    assert value.content["a"].content["b"].unreadable
    assert not value.content["a"].unreadable
    assert value.content["a"].plain() == {"c": 1}
    assert value.content["d"].unreadable


def test_a_secret_is_never_shown() -> None:
    """Nor by the list or the mapping that holds it; all of them say that they are secret."""
    value = good("a: x-${S}\nb: [1, '${S}']\nc: {d: '${S}'}\ne: plain\n")
    assert value.content["a"].content == f"x-{SECRET}"
    for key, shown in (("a", "a value from ${S}"), ("b", "a list"), ("c", "a mapping")):
        assert value.content[key].variables
        assert value.content[key].shown() == shown
    assert value.variables
    assert not value.content["e"].variables


def test_a_value_is_shown_as_it_is_spelt() -> None:
    """Texts in quotes, everything else as in the file, long texts cut."""
    items = good("[text, '7', 7, 0x1F, yes, 2026-11-23, ~, 1e3]").content
    shown = ["'text'", "'7'", "7", "0x1F", "yes", "2026-11-23", "nothing", "'1e3'"]
    assert [item.shown() for item in items] == shown
    long = good("a: " + "x" * 10_000).content["a"].shown()
    assert len(long) < 100
    assert long.endswith("…")


def test_only_texts_are_expanded() -> None:
    """Keys and other scalars stay as they are."""
    value = good("${S}: 1\na: ${S}\n")
    assert value.plain() == {"${S}": 1, "a": SECRET}


def test_what_yaml_reads_otherwise_in_its_versions_is_text_or_refused() -> None:
    """Keys are texts as they are spelt; a number has one meaning; a byte order mark counts for nothing."""
    value = good("\ufeffon: 0\nno: 0o17\n010: 0x1F\n1:30: 1e3\n~: '010'\nz: -0.5\n")
    assert value.plain() == {"on": 0, "no": "0o17", "010": 31, "1:30": "1e3", "~": "010", "z": -0.5}


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """It is missing, a folder, or no UTF-8."""
    (tmp_path / "latin").write_bytes(b"\xe9")
    for name, expected in (
        ("none", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("latin", "is not UTF-8 at byte 0"),
    ):
        problems: list[Problem] = []
        assert read_text(tmp_path / name, problems) is None
        assert expected in str(problems[0])


def test_half_a_pair_of_surrogates_is_a_problem() -> None:
    """Nothing could write it as UTF-8. Nor does YAML make one character of a pair, as JSON does."""
    for text in (r'"\ud800"', r'"\ud83d\ude00"'):
        problems: list[Problem] = []
        value = read_yaml(f"a: {text}", "f", problems, {})
        assert value is not None
        assert value.content["a"].unreadable
        assert "surrogates not allowed" in str(problems[0])


@pytest.mark.parametrize("text", ["- \n0\r", "a: b\x85: ${", "- \u2028 - : :\u2029- [", "a: [\r\r"])
def test_lines_end_as_yaml_has_them(text: str) -> None:
    """Also where other texts do not: the line of a problem may be one that a newline alone does not give."""
    _, problems = read(text)
    assert len(problems) == 1
    assert "not YAML" in problems[0]
