"""The list of a log's public keys: a vkey a line, the newest last, each with what vouches for it.

A key and the one that replaces it sign a statement, a note (C2SP signed-note). Who trusts one of them learns the other:

    emitd audit key rotation
    example.com/log+4ba5432a+AfG…        the key before
    example.com/log+9c01b2aa+AZk…        the new one

    — example.com/log S6VDKkD…           signed by the key before
    — example.com/log nAGyqn0…           and by the new one

On the list, the two signature lines follow the new vkey. Nothing vouches for a key without them: the first one, and one
that was made when the key before it was lost. No checkpoint has such a text, for its second line is a number.
"""

import re
from collections.abc import Iterable

import msgspec

from emitd_handlers.tlog.note import Note, NoteInvalid, Signer, Verifier

#: The event by which a log's own trail has a statement too, as `statement` of its details.
ROTATION_EVENT = "emitd.audit.key_rotated"

_TITLE = "emitd audit key rotation"
_ENTRY = re.compile(r"\S+(?:[ \t]+—[ \t]+\S+[ \t]+\S+)*")


class ListedKey(msgspec.Struct, frozen=True):
    """A key of a list."""

    verifier: Verifier
    #: The key that it replaced, and the statement that both signed; None and empty if nothing vouches for it.
    before: Verifier | None = None
    statement: bytes = b""

    @property
    def line(self) -> str:
        """Its line of the list."""
        signatures = self.statement.decode().partition("\n\n")[2]
        return " ".join([self.verifier.vkey, *signatures.splitlines()])


def vouch(before: Signer, new: Signer) -> ListedKey:
    """Return a new key as the one before it vouches for it."""
    text = _text(before.verifier, new.verifier)
    return ListedKey(new.verifier, before.verifier, before.sign(text) + new.sign(text).rpartition(b"\n\n")[2])


def read_key_list(text: str, *, may_be_torn: bool = False) -> list[ListedKey]:
    """Return the keys of a list, or of vkeys with any space between them. Raises NoteInvalid.

    `may_be_torn`: a last line that has no newline and is not whole is left out. A crash leaves such a line, and its key
    has signed nothing.
    """
    keys: list[ListedKey] = []
    for entry in _ENTRY.finditer(text):
        try:
            keys.append(read_listed_key(entry[0], keys))
        except NoteInvalid:
            if may_be_torn and "\n" not in text[entry.start() :]:
                break
            raise
    return keys


def read_listed_key(line: str, above: Iterable[ListedKey]) -> ListedKey:
    """Read one line; `above` are the keys above it on its list. Raises NoteInvalid."""
    vkey, *words = line.split() or [""]
    verifier = Verifier.from_vkey(vkey)
    if not words:
        return ListedKey(verifier)
    signatures = "".join(f"— {words[i + 1]} {words[i + 2]}\n" for i in range(0, len(words) - 2, 3))
    key_id = Note.parse(f"{_TITLE}\n\n{signatures}".encode()).signatures[0].key_id
    before = next((key.verifier for key in above if key.verifier.key_id == key_id), None)
    if before is None:
        raise NoteInvalid(f"the key that is to vouch for {verifier.short_name} does not stand above it")
    statement = f"{_text(before, verifier)}\n{signatures}".encode()
    note = Note.parse(statement)
    if list(note.verify([before, verifier])) != [before, verifier] or note.written() != statement:
        raise NoteInvalid(f"the statement that vouches for {verifier.short_name} is not signed by both keys")
    return ListedKey(verifier, before, statement)


def read_statement(statement: str) -> ListedKey:
    """Return the key that a statement vouches for. Raises ValueError."""
    text, _, signatures = statement.partition("\n\n")
    _, before, new = text.split("\n")
    return read_listed_key(" ".join([new, *signatures.splitlines()]), [ListedKey(Verifier.from_vkey(before))])


def newer_and_older(
    keys: Iterable[Verifier], listed: Iterable[ListedKey]
) -> tuple[list[Verifier], list[Verifier]]:
    """Return the keys of a list that `keys` vouch for, and those that they replaced, directly or through others."""
    pairs = [(key.before, key.verifier) for key in listed if key.before]
    return _reached(keys, pairs), _reached(keys, [(new, old) for old, new in reversed(pairs)])


def _reached(keys: Iterable[Verifier], links: Iterable[tuple[Verifier, Verifier]]) -> list[Verifier]:
    known, reached = {key.vkey for key in keys}, []
    for start, end in links:
        if start.vkey in known and end.vkey not in known:
            known.add(end.vkey)
            reached.append(end)
    return reached


def _text(before: Verifier, new: Verifier) -> str:
    return f"{_TITLE}\n{before.vkey}\n{new.vkey}\n"
