"""`emitd.records.encoding`: what becomes of a value, by the table of docs/client.md."""

import dataclasses
import enum
import json
import re
import subprocess
import sys
from collections import OrderedDict, UserDict, deque
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from http import HTTPStatus
from math import inf, nan
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from emitd.records.encoding import (
    MAX_DEPTH,
    MAX_REPR_CHARACTERS,
    MAX_VALUES,
    as_text,
    encode_attributes,
    encode_details,
)

PAGE = Path(__file__).parents[3] / "docs" / "client.md"


class Markup(str):
    """As that of markupsafe: its repr is not its text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Markup({str(self)!r})"


class Celsius(float):
    """As `numpy.float64`, which is a float too."""

    def __repr__(self) -> str:
        return "Celsius"


class Color(enum.Enum):
    """Has a value that is no constant of JSON's."""

    RED = "red"


class TextColor(str, enum.Enum):  # noqa: UP042
    """Its `str` is not its text."""

    RED = "red"


@dataclasses.dataclass
class Login:
    """Hides its password from its repr."""

    user: str
    password: str = dataclasses.field(repr=False)


class Numpy:
    """A scalar or an array, as far as numpy's are known by."""

    def __init__(self, value: Any, dtype: str = "float64", shape: tuple[int, ...] = ()) -> None:
        self.value, self.dtype, self.shape = value, dtype, shape

    dtype: Any = None

    def tolist(self) -> Any:
        """Return builtins, or itself if there are none."""
        return self if self.value is None else self.value

    def astype(self, kind: type) -> "Numpy":
        """Return it as texts."""
        return Numpy("2026-01-01T00:00:00.000000001", "str")

    def __str__(self) -> str:
        return "1.5"


class Hostile:
    """Raises whatever one does with it."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Proxy:
    """Says that it is its object, as werkzeug's and wrapt's do."""

    def __init__(self, of: Any) -> None:
        self.of = of

    @property
    def __class__(self) -> Any:
        return type(self.of)

    def __str__(self) -> str:
        return str(self.of)

    def __int__(self) -> int:
        return int(self.of)

    def items(self) -> Any:
        """Return those of its object."""
        return self.of.items()


class Attribute(SimpleNamespace):
    """A field, as attrs has it."""


class Attrs:
    """A class of attrs: one field is hidden, another has a repr of its own."""

    __attrs_attrs__ = (
        Attribute(name="user", repr=True),
        Attribute(name="password", repr=False),
        Attribute(name="card", repr=lambda card: card[-4:]),
    )
    user, password, card = "u1", "hunter2", "hunter2-1234"


class Account(pydantic.BaseModel):
    """Has every way in which pydantic hides something."""

    user: str
    login: Login
    token: pydantic.SecretStr = pydantic.SecretStr("hunter2")
    key: pydantic.SecretBytes = pydantic.SecretBytes(b"hunter2")
    hidden: str = pydantic.Field("hunter2", repr=False)
    excluded: str = pydantic.Field("hunter2", exclude=True)
    _private: str = "hunter2"


class Row(msgspec.Struct, rename="camel"):
    """Its names in JSON are not its own."""

    row_id: int = 1
    further: int | msgspec.UnsetType = msgspec.UNSET


class Broken(Mapping[str, object]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> object:
        raise KeyError(key)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")


def table() -> list[tuple[str, str]]:
    rows = PAGE.read_text(encoding="utf-8").partition("<!-- values -->")[2].split("\n\n")[0]
    return re.findall(r"^\| .* \| `(.*)` \| `(.*)` \|$", rows, re.MULTILINE)


#: What the table's examples are made of.
_TYPES = (Celsius, Color, Decimal, Fraction, HTTPStatus, Login, Markup, OrderedDict, PurePosixPath, UUID)
NAMES = {
    **{kind.__name__: kind for kind in (*_TYPES, datetime, deque, timedelta, pydantic.SecretStr)},
    "UTC": UTC,
    "msgspec": msgspec,
    "nan": nan,
    "inf": inf,
    "numpy_scalar": Numpy,
    "numpy_array": lambda items: Numpy(items, shape=(len(items),)),
}


def cases(*rows: tuple[object, object]) -> list[Any]:
    """Return parameters whose names pytest need not make of the values, which may raise."""
    return [pytest.param(*row, id=str(number)) for number, row in enumerate(rows)]


def test_the_table_has_rows() -> None:
    """So that the next test tests something."""
    assert len(table()) == 21


@pytest.mark.parametrize(("value", "expected"), table())
def test_each_row_of_the_table(value: str, expected: str) -> None:
    """The same in a log line and in details: `eval` makes the value that the page names."""
    made = eval(value, NAMES)
    assert json.loads(encode_attributes({"k": made})) == {"k": json.loads(expected)}
    assert encode_details({"k": made}) == encode_attributes({"k": made})
    assert encode_details({"k": {"inside": [made]}}) == encode_attributes({"k": {"inside": [made]}})


@pytest.mark.parametrize(
    ("value", "expected"),
    cases(
        (TextColor.RED, "red"),
        (-0.0, -0.0),
        (enum.Flag("F", "A B")(3), 3),
        (Celsius("nan"), "NaN"),
        (date(2026, 3, 1), "2026-03-01"),
        (time(1, 2, tzinfo=UTC), "01:02:00Z"),
        (datetime(2026, 3, 1, 10, tzinfo=timezone(timedelta(hours=2))), "2026-03-01T10:00:00+02:00"),
        (datetime(2026, 3, 1, 10), "2026-03-01T10:00:00"),
        (timedelta(days=-1), "-P1D"),
        (bytearray(b"ab"), "YWI="),
        (memoryview(b"abcd")[::2], "YWM="),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        (UserDict(a=1), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({None: 1, True: 2, 1.5: 3, Color.RED: 4}, {"None": 1, "True": 2, "1.5": 3, "red": 4}),
        ({"1_": 1, 1: 2, "1": 3}, {"1_": 1, "1": 2, "1__": 3}),
        ([Login("u1", "hunter2")], [{"user": "u1"}]),
        (Account(user="u1", login=Login("u1", "hunter2")), None),
        (Attrs(), {"user": "u1", "card": "1234"}),
        (Row(), {"rowId": 1}),
        (pydantic.AnyUrl("https://shop.example/"), "https://shop.example/"),
        (Numpy(None), "1.5"),
        (Numpy(5, "datetime64[ns]"), "2026-01-01T00:00:00.000000001"),
        (Proxy("text"), "text"),
        (Proxy(17), 17),
        (Proxy({"a": 1}), {"a": 1}),
        (type("__proxy__", (), {"__str__": lambda self: "Hallo"})(), "Hallo"),
        ({2, "a", 10}, ["a", 10, 2]),
    ),
)
def test_further_values_with_a_form(value: object, expected: object) -> None:
    """In log lines and in details alike, and no secret is in any of them."""
    text = encode_details({"k": value})
    assert text == encode_attributes({"k": value})
    assert "hunter2" not in text
    if isinstance(value, Account):
        assert json.loads(text) == {
            "k": {"user": "u1", "login": {"user": "u1"}, "token": "**********", "key": "**********"}
        }
    else:
        assert json.loads(text) == {"k": expected}


def test_an_integer_of_thousands_of_digits_is_a_hexadecimal_text() -> None:
    """Python writes 4,300 digits by default; fewer are a number, digit for digit."""
    most = 10**4300 - 1
    assert encode_details({"k": most}) == encode_attributes({"k": most}) == f'{{"k":{most}}}'
    assert (
        encode_details({"k": 16**5000}) == encode_attributes({"k": 16**5000}) == f'{{"k":"0x1{"0" * 5000}"}}'
    )


def cycle() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    cases(
        (object, "<class 'object'>"),
        (Login, "<class 'test_encoding.Login'>"),
        (ValueError("x"), "ValueError('x')"),
        (iter([1]), None),
        (cycle(), "[[...]]"),
        (nested(MAX_DEPTH), None),
        (range(10**20), "range(0, 100000000000000000000)"),
        ([0] * (MAX_VALUES + 1), ("[" + "0, " * MAX_VALUES)[:MAX_REPR_CHARACTERS]),
        (Numpy([], shape=(1000, 1000)), None),
        (Hostile(), "<Hostile whose repr raised RuntimeError>"),
        (Broken(), None),
        (Attribute(), "Attribute()"),
        (msgspec.Raw(b"{"), None),
        (msgspec.Raw(b'"\xff"'), None),
        ({"inside": Broken()}, None),
        ({(1, 2): 3}, None),
    ),
)
def test_a_value_without_a_form(value: object, text: str | None) -> None:
    """Is a text in a log line, and a TypeError that names the key in details; its neighbours stay."""
    found = json.loads(encode_attributes({"a": 1, "k": value, "z": [2]}))
    assert (found["a"], found["z"]) == (1, [2])
    if text is not None:
        assert re.sub(r"[\w.]*test_encoding", "test_encoding", found["k"]) == text
    with pytest.raises(TypeError, match=r"^details\['k'\] cannot be written as JSON: "):
        encode_details({"a": 1, "k": value})


def test_what_is_just_deep_and_large_enough_has_a_form() -> None:
    """The outermost object is the first level."""
    value = [nested(MAX_DEPTH - 2), [0] * (MAX_VALUES - 40)]
    assert json.loads(encode_details({"k": value})) == {"k": value}


def test_inside_of_a_value_only_what_has_no_form_is_a_text() -> None:
    """What stands next to it, at any depth, stays as it is."""
    text = encode_attributes({"k": {"error": ValueError("x"), "rows": [1, object, {"n": 2}], (1, 2): 3}})
    assert json.loads(text) == {
        "k": {"error": "ValueError('x')", "rows": [1, "<class 'object'>", {"n": 2}], "(1, 2)": 3}
    }


def test_a_generator_is_not_consumed() -> None:
    """It belongs to the caller."""
    numbers = (n for n in range(3))
    encode_attributes({"k": numbers})
    assert list(numbers) == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "text"),
    cases(
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Numpy(5), "5"),
        (HTTPStatus.OK, "200"),
        (True, "True"),
        (Markup("<b>"), "<b>"),
        (pydantic.SecretStr("hunter2"), "**********"),
        (Login("u1", "hunter2"), "Login(user='u1')"),
        (Hostile(), "<Hostile whose repr raised RuntimeError>"),
    ),
)
def test_texts_are_made_by_the_same_table(value: object, text: str) -> None:
    """Such as a user's id, a label, or a message; what is no text there is shown by its repr."""
    assert as_text(value).endswith(text)


def test_nothing_is_imported_for_it() -> None:
    """Neither to know a type, nor later."""
    program = (
        "import sys; from emitd.records.encoding import encode_attributes; before = set(sys.modules)\n"
        "encode_attributes({'a': object(), 'b': {1: [2.5, b'x']}, 'c': float('nan')})\n"
        "assert set(sys.modules) == before and not before & {'numpy', 'pydantic', 'attr', 'attrs'}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
