"""Reads the files that people keep of a log: checkpoints, proofs, receipts, keys.

Editors, mail programs and other systems change the form of a text: marks of byte order, UTF-16, CRLF, blanks at the
ends of lines, a last newline that is missing, words around it. None of this matters: a signature decides what such a
file proves, and it is checked over the text that is left.
"""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence

#: A checkpoint, with a few extension lines at most, and its signature lines.
_CHECKPOINT = re.compile(
    r"^[^\n]+\n[0-9]{1,19}\n[A-Za-z0-9+/]{43}=\n(?:[^\n]+\n){0,20}\n(?:— [^\n]+\n)+", re.MULTILINE
)


def kept_text(data: bytes) -> str:
    """Return a kept file's text, with plain newlines, also at its end, and no blanks around its lines."""
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8"
    text = data.decode(encoding, errors="replace").replace("\ufeff", "")
    return "\n".join(line.strip() for line in re.split(r"\r\n?|\n", text)).strip("\n") + "\n"


def notes_in(text: str) -> Sequence[bytes]:
    """Return the checkpoints in a kept text, wherever they stand in it, as notes that nobody has verified."""
    return [match[0].encode() for match in _CHECKPOINT.finditer(text)]


def proof_in(text: str, header: str) -> bytes | None:
    """Return the proof in a kept text, from the line `header` to the end of its checkpoint; None: there is none."""
    _, found, rest = f"\n{text}".partition(f"\n{header}\n")
    head, blank, behind = rest.partition("\n\n")
    notes = notes_in(behind)
    return f"{header}\n{head}{blank}".encode() + (notes[0] if notes else behind.encode()) if found else None
