"""`--details`: what is wrong with it, and where."""

import pytest

from emitd_cli.command_line.values import check_details
from emitd_cli.errors import Misuse


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        "{}",
        '{"n":' + "1" * 5000 + "}",
        '{"n":12345678901234567890.10}',
        ' {"a":\n1}',
        '{"日":"本"}',
    ],
)
def test_an_object_is_sent_as_it_is(text: str) -> None:
    """Character for character."""
    assert check_details(text) == text


def test_nothing_is_nothing() -> None:
    """Neither no flag nor an empty one is an error."""
    assert check_details(None) == check_details("") == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1', "is not JSON: Input data was truncated"),
        ('{"a": }', "is not JSON: invalid character (byte 6)"),
        ("{mfa:true}", "is not JSON: expected '\"' (byte 1)"),
        ("[1]", "must be one JSON object, not an array"),
        ('"x"', "must be one JSON object, not a string"),
        ("-1.5", "must be one JSON object, not a number"),
        ('{"a": NaN}', "is not JSON: invalid character (byte 6)"),
        ('{"a":1,"a":2}', 'has the key "a" twice in one object'),
        ('{"a":' + "[" * 100_000, "nests deeper than 1000 levels"),
    ],
)
def test_what_is_no_object(text: str, told: str) -> None:
    """The flag is named, and what the service would say of the text."""
    with pytest.raises(Misuse) as raised:
        check_details(text)
    assert str(raised.value) == f"--details: {told}"
    assert raised.value.field == "--details"
