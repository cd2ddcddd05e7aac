"""Checkpoints (C2SP tlog-checkpoint): the size and the root of a log's tree, signed as a note."""

import re
from base64 import b64encode

import msgspec

from emitd_handlers.tlog.merkle import HASH_BYTES
from emitd_handlers.tlog.note import NoteInvalid, decode_base64

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class Checkpoint(msgspec.Struct, frozen=True):
    """What a log states about itself at one moment."""

    #: The log's name, which is also its keys' name.
    origin: str
    #: How many leaves the tree has.
    size: int
    #: Its root (RFC 6962).
    root: bytes

    def text(self) -> str:
        """Return the text to sign."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read the text of a note. Raises NoteInvalid. Extension lines are passed over."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise NoteInvalid("the checkpoint has not the lines of one: origin, size, root")
        origin, size, encoded = lines[:3]
        if not _SIZE.fullmatch(size):
            raise NoteInvalid(f"the checkpoint's size '{size[:40]}' is not a number")
        root = decode_base64(encoded)
        if len(root) != HASH_BYTES or b64encode(root).decode() != encoded:
            raise NoteInvalid("the checkpoint's root is not a hash of 32 bytes in base64")
        return cls(origin, int(size), root)
