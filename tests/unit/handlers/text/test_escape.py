"""Escaping: what cannot stand in a line, and what stays as it is."""

import pytest

from emitd_handlers.text.escape import escape, escape_lines, quote


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("one\ntwo\r\nthree\tfour", "one\\ntwo\\r\\nthree\\tfour"),
        ("\x00 \x07 \x1b[31m", "\\u0000 \\u0007 \\u001b[31m"),
        ("\x7f \x80 \x85 \x9f", "\\u007f \\u0080 \\u0085 \\u009f"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\u202a\u202e \u2066\u2069", "\\u202a\\u202e \\u2066\\u2069"),
        ("\ud800 \udfff", "\\ud800 \\udfff"),
        ("\u200e \u200f \u061c", "\\u200e \\u200f \\u061c"),
        ("\xad\u200b\u2060\ufeff\U000e0041", "\\u00ad\\u200b\\u2060\\ufeff\\udb40\\udc41"),
    ],
    ids=[
        "line breaks",
        "C0",
        "DEL and C1",
        "separators",
        "bidirectional controls",
        "lone surrogates",
        "bidirectional marks",
        "what nobody sees",
    ],
)
def test_dangerous_characters_are_escaped_as_json_has_them(text: str, escaped: str) -> None:
    """Each character that breaks, hides or reorders a line becomes a JSON escape."""
    assert escape(text) == escaped


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain ~!",
        "Grüße",
        "日本語",
        "it\u2019s \u201cfine\u201d \u2026",
        "°C £",
        "한국어",
        "👩\u200d🚀",
        "a\xa0b",
        "C:\\new\\table",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    """Text of any script stays as it is, and so do backslashes, no-break spaces and joined emoji."""
    assert escape(text) == text
    assert escape_lines([text]) == (text + "\n").encode()


def test_lines_are_escaped_each_and_ended() -> None:
    """A newline within a line is escaped, also beside harmless lines; the one at its end is real."""
    assert escape_lines(["a", "b\nc", "ü\u202e", ""]) == "a\nb\\nc\nü\\u202e\n\n".encode()


def test_no_character_slips_through_the_short_cut() -> None:
    """Each character, alone in its batch, is written as `escape` has it."""
    for character in map(chr, (*range(0x11000), *range(0xE0000, 0xE0100))):
        assert escape_lines([character]) == (escape(character) + "\n").encode("utf-8")


def test_no_lines_are_no_bytes() -> None:
    """No lines give no output."""
    assert escape_lines([]) == b""


@pytest.mark.parametrize("text", ["u1", "http.method", "192.0.2.1", "Grüße", "C:\\temp", "{}"])
def test_unmistakable_text_needs_no_quotes(text: str) -> None:
    """A word stands as it is."""
    assert quote(text) == text


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say"so', '"say\\"so"'),
        ("a\nb", '"a\\nb"'),
        ("a\xa0b", '"a\xa0b"'),
        ("é\x1b", '"é\\u001b"'),
    ],
)
def test_other_text_becomes_a_json_string(text: str, quoted: str) -> None:
    """Text that is empty, or has white space, quotes, equals signs or controls, is quoted as JSON."""
    assert quote(text) == quoted
