"""`--details`: what is wrong with it, and where."""

import pytest

from emitd_cli.command_line.values import check_details
from emitd_cli.errors import Misuse


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', "{}", '{"n":12345678901234567890.10}', ' {"a":\n1}', '{"a":1,"a":2}', '{"日":"本"}'],
)
def test_an_object_is_sent_as_it_is(text: str) -> None:
    """Character for character; a key that comes twice is left to the server."""
    assert check_details(text) == text


def test_nothing_is_nothing() -> None:
    """Neither no flag nor an empty one is an error."""
    assert check_details(None) == check_details("") == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1', "is not JSON: expecting ',' delimiter at character 8: {\"a\": 1⟨here⟩"),
        ('{"a": }', 'expecting value at character 7: {"a": ⟨here⟩}'),
        (
            "{mfa:true}",
            "at character 2: {⟨here⟩mfa:true}; write it in single quotes, with double quotes inside",
        ),
        ("{'a': 1}", "write it in single quotes, with double quotes inside"),
        ('{"a": 1,\n  b}', "at line 2, character 3: "),
        ('{"' + "long" * 20 + '": x, "b": 1234567890123}', '…glonglong": ⟨here⟩x, "b": 1234…'),
        ("[1]", "is an array; it must be one JSON object, such as"),
        ('"x"', "is a string; "),
        ("true", "is true or false; "),
        ("null", "is null; "),
        ("-1.5", "is a number; "),
        ('{"a": NaN}', "has NaN, which is not JSON"),
    ],
)
def test_what_is_no_object(text: str, told: str) -> None:
    """The place of the error is told with what stands around it, and what helps."""
    with pytest.raises(Misuse) as raised:
        check_details(text)
    assert str(raised.value).startswith("--details: ")
    assert told in str(raised.value)
    assert raised.value.field == "--details"


@pytest.mark.parametrize("text", ['{"a":' + "[" * 100_000, '{"a":' + "1" * 5000 + "}"])
def test_what_python_cannot_read_is_left_to_the_server(text: str) -> None:
    """Thousands of brackets or digits are no reason for a traceback."""
    assert check_details(text) == text
