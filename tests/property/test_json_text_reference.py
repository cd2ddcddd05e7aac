"""`check_json_object` against a slow reference made of the standard library."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from emitd_handlers.text.json_object import check_json_object

MAX_DEPTH = 4
MAX_BYTES = 200


def reference(text: str) -> bool:
    """Whether `text` is one JSON object by the rules of `check_json_object`."""

    def distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(members)) == len(members)
        return dict(members)

    def no_constant(name: str) -> None:
        raise AssertionError(name)

    try:
        value = json.loads(text, object_pairs_hook=distinct, parse_constant=no_constant)
        json.dumps(value, ensure_ascii=False).encode()
        return isinstance(value, dict) and depth(value) <= MAX_DEPTH and len(text.encode()) <= MAX_BYTES
    except (AssertionError, ValueError):
        return False


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def accepts(text: str) -> str | None:
    try:
        return check_json_object(text, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)
    except ValueError:
        return None


gaps = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n"])
# Few characters, and those that trip parsers, so that keys meet each other and brackets stand in strings.
strings = st.text('ab:"{[]}\\ \u2028\u00e4', max_size=4).map(
    lambda text: json.dumps(text, ensure_ascii=False)
)
escapes = st.sampled_from(['"\\u0061"', '"\\ud83d\\udd12"', '"\\ud83d"', '"\\":"', '"\\/"', '"\u0001"'])
scalars = st.sampled_from(["0", "-1", "1.50", "1e999", "1" + "0" * 30, "true", "null", "NaN", "01"])


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """An object or an array as text, with gaps anywhere between tokens."""
    is_object = draw(st.booleans())
    parts = []
    for value in draw(st.lists(inner, max_size=3)):
        key = [draw(strings | escapes), draw(gaps), ":"] if is_object else []
        parts.append("".join([draw(gaps), *key, draw(gaps), value, draw(gaps)]))
    left, right = "{}" if is_object else "[]"
    return left + ",".join(parts) + right


values = st.recursive(scalars | strings | escapes, containers, max_leaves=8)
texts = st.tuples(gaps, values | containers(values), gaps).map("".join)


@st.composite
def damaged_texts(draw: st.DrawFn) -> str:
    text = draw(texts)
    place = draw(st.integers(0, len(text)))
    return (
        text[:place]
        + draw(st.text('{}[]",:\\0a \n\ud800', max_size=2))
        + text[place + draw(st.integers(0, 2)) :]
    )


@settings(max_examples=1_000)
@given(texts | damaged_texts())
@example('{"a":{},"a":[]}')
def test_agrees_with_the_reference(text: str) -> None:
    """Exactly the texts that the standard library reads as one object with distinct keys are taken."""
    assert (accepts(text) is not None) == reference(text)


@settings(max_examples=500)
@given(texts)
def test_what_is_taken_is_one_line_with_the_same_content(text: str) -> None:
    """The text returned decodes to the same value, has no newline, and passes again untouched."""
    line = accepts(text)
    if line is None:
        return
    assert json.loads(line) == json.loads(text)
    assert "\n" not in line
    assert "\r" not in line
    assert line == line.strip()
    assert accepts(line) == line
