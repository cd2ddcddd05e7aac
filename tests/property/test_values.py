"""Whatever a caller gives, its log lines are JSON by one table, and details are the same JSON or a TypeError."""

import json
import math
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from emitd.records.encoding import encode_attributes, encode_details
from emitd.records.exceptions import (
    MAX_MESSAGE_CHARACTERS,
    MAX_STACK_CHARACTERS,
    exception_attributes,
    failure_message,
)
from emitd_handlers.text.json_object import check_json_object

_text = st.text(st.one_of(st.sampled_from('\ud800\x00"\\\u2028_1'), st.characters()), max_size=8)


class Text(str):
    """A subclass with a repr of its own."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<Text>"


class Number(float):
    """The same of a float."""

    def __repr__(self) -> str:
        return "<Number>"


class NoJson:
    """Has no form in JSON, and may raise instead of a repr."""

    def __init__(self, error: type[Exception] | None) -> None:
        self.error = error

    def __repr__(self) -> str:
        if self.error is not None:
            raise self.error("no")
        return "<NoJson>"


def _expected(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _float(number: float) -> object:
    odd = {math.inf: "Infinity", -math.inf: "-Infinity"}
    return number if math.isfinite(number) else odd.get(number, "NaN")


#: Values with what the table makes of them.
_scalars = st.one_of(
    st.none().map(lambda value: (value, value)),
    st.booleans().map(lambda value: (value, value)),
    st.integers().map(lambda value: (value, value)),
    st.floats().map(lambda value: (value, _float(value))),
    st.floats().map(lambda value: (Number(value), _float(value))),
    _text.map(lambda value: (value, _expected(value))),
    _text.map(lambda value: (Text(value), _expected(value))),
    st.decimals().map(lambda value: (value, str(value))),
    st.fractions().map(lambda value: (value, str(value))),
    st.dates().map(lambda value: (value, value.isoformat())),
    st.uuids().map(lambda value: (value, str(value))),
)
_no_json = st.sampled_from([None, ValueError, OSError, RecursionError]).map(NoJson)


def _members(pairs: list[tuple[str, tuple[Any, Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {key: value for key, (value, _) in pairs}, {key: form for key, (_, form) in pairs}


def _array(items: list[tuple[Any, Any]]) -> tuple[tuple[Any, ...], list[Any]]:
    return tuple(value for value, _ in items), [form for _, form in items]


_keys = st.text(st.sampled_from("abc"), max_size=3)
_pairs = st.lists(st.tuples(_keys, st.deferred(lambda: _values)), max_size=4, unique_by=lambda pair: pair[0])
_values: st.SearchStrategy[tuple[Any, Any]] = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(_array),
        st.lists(st.tuples(_keys, inner), max_size=3, unique_by=lambda pair: pair[0]).map(_members),
    ),
    max_leaves=10,
)
_anything = st.recursive(
    st.one_of(
        _scalars.map(lambda pair: pair[0]),
        _no_json,
        st.binary(max_size=4),
        st.builds(timedelta, st.integers(-5, 5)),
        st.datetimes(),
        st.complex_numbers(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(_text, st.integers(), st.none(), st.tuples(st.integers())), inner, max_size=3
        ),
        st.frozensets(st.one_of(_text, st.integers(), st.dates()), max_size=3),
    ),
    max_leaves=10,
)


@given(_pairs)
def test_what_the_table_has_is_the_same_in_attributes_and_details(pairs: list[Any]) -> None:
    """And parses to the table's values."""
    members, forms = _members(pairs)
    text = encode_details(members)
    assert json.loads(text) == forms
    assert (encode_attributes(members) or "{}") == text


@given(st.dictionaries(st.one_of(_text, st.integers(), _no_json), _anything, max_size=4))
def test_every_log_line_has_attributes_that_the_service_takes(members: dict[Any, Any]) -> None:
    """One object without a key twice, and as many members as were given; details are the same, or a TypeError."""
    text = encode_attributes(members) or "{}"
    assert check_json_object(text, max_bytes=1 << 20, max_depth=32) == text
    assert len(json.loads(text)) == len(members)
    try:
        assert encode_details(members) == text
    except TypeError as error:
        assert str(error).startswith("details[")


class _Odd(Exception):
    def __init__(self, text: object) -> None:
        self.text = text

    def __str__(self) -> str:
        if isinstance(self.text, Exception):
            raise self.text
        return self.text  # type: ignore[return-value]  # as a wrong class may


def _raised(texts: list[Any]) -> BaseException:
    error: BaseException | None = None
    for text in texts:
        try:
            raise _Odd(text) from error
        except _Odd as caught:
            error = caught
    assert error is not None
    return error


@given(
    st.lists(
        st.one_of(
            _text,
            st.builds(lambda text, n: text * n, _text, st.sampled_from([1, 1_000, 30_000])),
            st.builds(ValueError),
            st.none(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_exception_keeps_its_type_and_its_frames(texts: list[Any]) -> None:
    """Whatever its text is, in a chain too; and all of it is short."""
    found = exception_attributes(_raised(texts))
    assert str(found["exception.type"]).endswith("_Odd")
    stack = str(found["exception.stacktrace"])
    assert "in _raised" in stack
    assert "_Odd" in stack[stack.rindex("in _raised") :]
    assert len(stack) <= MAX_STACK_CHARACTERS
    assert len(failure_message(_raised(texts))) <= MAX_MESSAGE_CHARACTERS
    assert json.loads(encode_attributes(found)).keys() == found.keys()
