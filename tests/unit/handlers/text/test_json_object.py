"""`check_json_object`: what free-form JSON is taken, and how what is refused is named."""

import contextlib
import re
import time

import pytest

from emitd_handlers.text.json_object import check_json_object

DEEP = 100_000


def check(text: str, *, max_bytes: int = 65_536, max_depth: int = 32) -> str:
    return check_json_object(text, max_bytes=max_bytes, max_depth=max_depth)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a":1}',
        '{ "a" : 1 , "b"\t:\t[1, 2, {"c": null}] }',
        '{"url":"http://[::1]:80/","time":"03:39:00"}',
        '{"a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":2}]}',
        '{"a":"\\":","b":"x\\" :y"}',
        '{"a":"\u2028 \u00e4 \U0001f512","b":"\\ud83d\\udd12 \\u2028"}',
        '{"":0}',
    ],
)
def test_good_text_is_returned_as_it_came(text: str) -> None:
    """One JSON object on one line is not touched."""
    assert check(text) == text


@pytest.mark.parametrize(
    "number",
    ["1.0", "-0", "0.10", "1E+2", "18446744073709551616", "1e999", "-1e-999", "1" + "0" * 400, "7" * 5_000],
)
@pytest.mark.parametrize("shape", ['{"n":%s}', '{"n": [{"m": %s}], "t": "a:b"}'])
def test_numbers_stay_as_spelt_whatever_their_size(number: str, shape: str) -> None:
    """No number is refused or respelt because a program's types cannot hold it."""
    assert check(shape % number) == shape % number


@pytest.mark.parametrize("newline", ["\n", "\r"])
def test_any_newline_between_tokens_becomes_a_space(newline: str) -> None:
    """Line feeds and carriage returns count alike."""
    assert check(f'{{"a":1,{newline}"b":2}}') == '{"a":1, "b":2}'


def test_text_on_many_lines_comes_back_on_one() -> None:
    """The content stays the same, with nothing around it."""
    assert check('\n{\r\n\t"a": "\\n",\n"b":\r1}\n ') == '{  \t"a": "\\n", "b": 1}'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty; an object without members is {}"),
        (" \n", "is empty; an object without members is {}"),
        ("[1]", "must be one JSON object, not an array"),
        ('"{}"', "must be one JSON object, not a string"),
        ("7", "must be one JSON object, not a number"),
        ("-7.5", "must be one JSON object, not a number"),
        ("true", "must be one JSON object, not true"),
        ("false", "must be one JSON object, not false"),
        ("null", "must be one JSON object, not null"),
        ('{"a":1}{"b":2}', "is not JSON: trailing characters (byte 8)"),
        ('{"a":1', "is not JSON: Input data was truncated"),
        ('{"a":NaN}', "is not JSON: invalid character (byte 5)"),
        ('{"a":-Infinity}', "is not JSON: invalid character (byte 6)"),
        ('{"a":01}', "is not JSON: invalid number (byte 6)"),
        ('{"a":"\n"}', "is not JSON: invalid character (byte 6)"),
        ('{"a":"\x00"}', "is not JSON: invalid character (byte 6)"),
        ('\ufeff{"a":1}', "is not JSON: invalid character (byte 0)"),
        ("{1:1}", "is not JSON: expected '\"' (byte 1)"),
        ('{"a":1,}', "is not JSON: trailing comma in object (byte 7)"),
        ('{"a":"\ud800"}', "holds half a surrogate pair"),
        ('{"a":"\\ud800"}', "holds half a surrogate pair"),
        ('{"a":"\\uDC00"}', "holds half a surrogate pair"),
        ('{"\\ud83d\\u0041":1}', "holds half a surrogate pair"),
        ('{"a":1,"a":1}', 'has the key "a" twice in one object'),
        ('{"a":1,"\\u0061":2}', 'has the key "a" twice in one object'),
        ('{"x":"::","a":{"b":1,"b":1}}', 'has the key "b" twice in one object'),
        ('{"x":[[{"\u00e4":1,"\u00e4":1e999}]]}', 'has the key "\\u00e4" twice in one object'),
    ],
)
def test_bad_text_is_refused_and_says_why(text: str, problem: str) -> None:
    """Whatever is not exactly one object with distinct keys is refused with its own reason."""
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        check(text)


@pytest.mark.parametrize("text", ['{"a":"xxxx"}', '{"a":"\u00e4\u00e4"}', '{"a":12 \n\n\n}'])
def test_size_is_counted_in_bytes_of_utf8(text: str) -> None:
    """A text of exactly the limit passes, one byte more does not."""
    assert len(text.encode()) == 12
    check(text, max_bytes=12)
    with pytest.raises(ValueError, match=r"^has 12 bytes, more than 11$"):
        check(text, max_bytes=11)


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("{}", 1),
        ('{"a":1}', 1),
        ('{"a":{}}', 2),
        ('{"a":[]}', 2),
        ('{"a":[{"b":[]}],"c":"]]{{"}', 4),
        ('{"a":' + "[" * 31 + "]" * 31 + "}", 32),
        ('{"a":' * 32 + "{}" + "}" * 32, 33),
        ('{"a":[' + "[]," * 40 + "[]]}", 3),
    ],
)
def test_depth_counts_objects_and_arrays(text: str, depth: int) -> None:
    """Nesting as deep as the limit passes, one level more does not; brackets in strings do not count."""
    assert check(text, max_depth=depth) == text
    with pytest.raises(ValueError, match=f"^nests deeper than {depth - 1} levels$"):
        check(text, max_depth=depth - 1)


@pytest.mark.parametrize("max_depth", [32, 10 * DEEP])
@pytest.mark.parametrize(
    "text", ['{"a":' * DEEP + "1" + "}" * DEEP, '{"a":' + "[" * DEEP + "]" * DEEP + "}", '{"a":' + "[" * DEEP]
)
def test_absurd_nesting_is_refused_quickly(text: str, max_depth: int) -> None:
    """A text nested 100,000 deep is refused without a crash and without much work."""
    start = time.thread_time()
    with pytest.raises(ValueError, match="nests deeper than"):
        check(text, max_bytes=10**7, max_depth=max_depth)
    assert time.thread_time() - start < 0.5


@pytest.mark.parametrize(
    "text", ['{"a":"' + '\\"' * 30_000, '{"a":"' + '\\":' * 20_000 + '"}', '{"a":[' + "[]," * 20_000 + "0]}"]
)
def test_no_text_is_slow_to_check(text: str) -> None:
    """Texts made to trip the checks take time in proportion to their length."""
    start = time.thread_time()
    with contextlib.suppress(ValueError):
        check(text)
    assert time.thread_time() - start < 0.5
