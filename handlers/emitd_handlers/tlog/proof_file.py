"""A proof to carry away (C2SP tlog-proof): that an entry is in a log, to be checked with the log's public key alone.

    c2sp.org/tlog-proof@v1
    extra aGVsbG8=
    index 5
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=

    example.com/log
    7
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — example.com/log Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=

What is `extra` is up to the application, and is not to be believed: it is of use where the entry can be made of it.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence

import msgspec

from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import HASH_BYTES, root_of_inclusion
from emitd_handlers.tlog.note import Note, Verifier, decode_base64

HEADER = "c2sp.org/tlog-proof@v1"
#: A checkpoint with many signatures, and an entry as long as a bundle can hold.
MAX_PROOF_BYTES = 2 * 1024 * 1024
#: As many as a tree can have levels.
MAX_HASHES = 63
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
_EXTRA = "extra "


class ProofInvalid(ValueError):
    """A proof is malformed, or proves nothing. The message says why."""


class TlogProof(msgspec.Struct, frozen=True):
    """A proof as it is written; nothing is verified yet."""

    #: Which entry of the log it is about, from 0.
    index: int
    #: From the leaf's sibling up.
    hashes: Sequence[bytes]
    #: The checkpoint, as a signed note.
    note: bytes
    extra: bytes = b""

    def encode(self) -> bytes:
        """Return the file's content."""
        extra = [_EXTRA + b64encode(self.extra).decode()] if self.extra else []
        hashes = [b64encode(each).decode() for each in self.hashes]
        head = "\n".join([HEADER, *extra, f"index {self.index}", *hashes])
        return head.encode() + b"\n\n" + self.note

    @classmethod
    def parse(cls, data: bytes) -> "TlogProof":
        """Read a file's content. Raises ProofInvalid."""
        if len(data) > MAX_PROOF_BYTES:
            raise ProofInvalid(f"it has {len(data)} bytes, more than {MAX_PROOF_BYTES}")
        head, blank, note = data.partition(b"\n\n")
        lines = head.decode(errors="replace").split("\n")
        if lines.pop(0) != HEADER:
            raise ProofInvalid(f"it is no proof: its first line is not '{HEADER}'")
        if not blank:
            raise ProofInvalid("it has no checkpoint after an empty line")
        extra = b""
        if lines and lines[0].startswith(_EXTRA):
            extra = _decode(lines.pop(0).removeprefix(_EXTRA), "the line 'extra'")
        index = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if index is None:
            raise ProofInvalid("it has no line 'index' with a number where one must be")
        if len(lines) > MAX_HASHES:
            raise ProofInvalid(f"it has {len(lines)} hashes, more than {MAX_HASHES}")
        return cls(int(index[1]), [_read_hash(line) for line in lines], note, extra)

    def verify(self, leaf: bytes, verifiers: Iterable[Verifier]) -> tuple[Checkpoint, Sequence[Verifier]]:
        """Prove that the entry with the hash `leaf` is the log's; return its checkpoint, and which keys signed that.

        Raises NoteInvalid, UnknownKey if none of `verifiers` signed it, and ProofInvalid.
        """
        note = Note.parse(self.note)
        signed_by = note.verify(verifiers)
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.origin not in [verifier.name for verifier in signed_by]:
            raise ProofInvalid(
                f"the checkpoint is of the log '{checkpoint.origin}', but is signed as '{signed_by[0].name}'"
            )
        try:
            root = root_of_inclusion(self.index, checkpoint.size, leaf, self.hashes)
        except ValueError as error:
            raise ProofInvalid(str(error)) from None
        if root != checkpoint.root:
            raise ProofInvalid(f"entry {self.index} of the tree that was signed is another one")
        return checkpoint, signed_by


def _read_hash(line: str) -> bytes:
    decoded = _decode(line, "a hash")
    if len(decoded) != HASH_BYTES:
        raise ProofInvalid(f"a hash has {len(decoded)} bytes, not {HASH_BYTES}")
    return decoded


def _decode(text: str, what: str) -> bytes:
    decoded = decode_base64(text)
    if not decoded or b64encode(decoded).decode() != text:
        raise ProofInvalid(f"{what} is not in base64: {text[:60]!r}")
    return decoded
