"""Escaping holds for every text."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.text.escape import escape, escape_lines, quote

#: Any text, with the dangerous characters and their neighbours far more often than chance has them.
_edges = (
    "\n\r\t\x00\x1f \x7e\x7f\x80\x85\x9f\xa0\xad\u061b\u061c\u200b\u200e\u200f\u2010\ufeff\U000e0041"
    "\u2027\u2028\u2029\u202a\u202e\u202f\u2065\u2066\u2069\u206a"
)
_text = st.text(st.one_of(st.sampled_from(_edges + "\ud7ff\ud800\udfff\ue000\\="), st.characters()))


@given(_text)
def test_escaped_text_is_one_line_that_shows(text: str) -> None:
    """Nothing that is left breaks the line, controls the terminal, reorders the text, or has no UTF-8."""
    escaped = escape(text)
    assert len(f"[{escaped}]".splitlines()) == 1
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in escaped)
    assert not any(
        unicodedata.bidirectional(character)
        in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        for character in escaped
    )
    assert not set(escaped) & set("\xad\u061c\u200b\u200e\u200f\u2060\ufeff\U000e0041")
    escaped.encode()


@given(_text)
def test_escaping_twice_changes_nothing_more(text: str) -> None:
    """What is escaped stays as it is, so that a subclass may escape too."""
    assert escape(escape(text)) == escape(text)


@given(_text)
def test_only_the_dangerous_is_changed(text: str) -> None:
    """Without backslashes of its own, escaped text gives the original back."""
    text = text.replace("\\", "").replace('"', "")
    assert json.loads(f'"{escape(text)}"') == text


@given(st.lists(_text))
def test_a_batch_is_its_lines(lines: list[str]) -> None:
    """The short cut for a whole batch gives what escaping line by line gives."""
    assert escape_lines(lines) == "".join(escape(line) + "\n" for line in lines).encode()


@given(_text)
def test_quoted_text_is_one_word_or_json(text: str) -> None:
    """A quoted text reads back, also after its line was escaped; an unquoted one has nothing to mistake."""
    quoted = quote(text)
    if quoted.startswith('"'):
        assert json.loads(escape(quoted)) == text
    else:
        assert quoted == text
        assert not set(text) & set(' "=')
        assert escape(text) == text
