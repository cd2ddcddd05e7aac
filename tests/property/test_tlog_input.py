"""Bytes from strangers before the code that proves: a value, or the error that is written down; never a false proof."""

from base64 import b64encode
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.key_list import newer_and_older, read_key_list, read_statement, vouch
from emitd_handlers.tlog.merkle import Frontier, inclusion_proof, leaf_hash
from emitd_handlers.tlog.note import Note, NoteInvalid, Signer, Verifier
from emitd_handlers.tlog.proof_file import ProofInvalid, TlogProof

NAME, SIZE, INDEX = "example.com/log", 7, 3
OLD, NEW, OTHER = (
    Signer(NAME, Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))) for number in range(3)
)
LEAVES = [leaf_hash(b"%d" % number) for number in range(SIZE)]
FRONTIER = Frontier()
ROW = FRONTIER.extend(LEAVES)
CHECKPOINT = Checkpoint(NAME, SIZE, FRONTIER.root())
NOTE = OLD.sign(CHECKPOINT.text())
PROOF = TlogProof(INDEX, inclusion_proof(INDEX, SIZE, ROW.__getitem__), NOTE, b'{"a":1}').encode()
LISTED = vouch(OLD, NEW)
KEYS = f"{OLD.verifier.vkey}\n{LISTED.line}\n".encode()
#: What the formats are made of, next to bytes of any kind.
PARTS = st.sampled_from(
    [
        b"\n",
        b"\n\n",
        " — ".encode(),
        "— ".encode(),
        b" ",
        b"+",
        b"index 3",
        b"extra AA==",
        b"c2sp.org/tlog-proof@v1",
        NAME.encode(),
        b"7",
        b"-1",
        "٣".encode(),
        b"9" * 30,
        OLD.verifier.vkey.encode(),
        NOTE,
        NOTE.rpartition(b"\n\n")[2],
        b64encode(CHECKPOINT.root),
        b64encode(bytes(68)),
        LISTED.statement,
        LISTED.line.encode(),
        b"\xff",
        b"\x00",
        b"\r",
        "\u2028".encode(),
        "\u00a0".encode(),
        "\x85".encode(),
    ]
)
ANY: SearchStrategy[bytes] = st.lists(PARTS | st.binary(max_size=8), max_size=8).map(b"".join)


def changes(good: bytes) -> SearchStrategy[bytes]:
    """The good bytes with one place changed: a bit, some bytes, a part of the format, or a piece cut or doubled."""

    def change(start: int, length: int, new: bytes) -> bytes:
        return good[:start] + new + good[start + length :]

    def flip(at: int, bit: int) -> bytes:
        return change(at, 1, bytes([good[at] ^ 1 << bit]))

    at = st.integers(0, len(good) - 1)
    return st.builds(flip, at, st.integers(0, 7)) | st.builds(
        change, at, st.integers(0, 40), st.binary(max_size=2) | PARTS
    )


def is_read(data: bytes) -> None:
    """Each reader takes the bytes or raises its error."""
    text = data.decode(errors="replace")
    for read in (
        lambda: Note.parse(data),
        lambda: Checkpoint.parse(text),
        lambda: Verifier.from_vkey(text),
        lambda: TlogProof.parse(data),
        lambda: read_key_list(text),
        lambda: read_key_list(text, may_be_torn=True),
    ):
        with suppress(NoteInvalid, ProofInvalid):
            read()
    with suppress(ValueError):
        read_statement(text)


@given(data=ANY | changes(NOTE) | changes(PROOF) | changes(KEYS) | changes(LISTED.statement))
@example(data=b"")
@example(data="— — —\n".encode() * 101)
@settings(max_examples=2000, deadline=None)
def test_any_bytes_are_a_value_or_the_documented_error(data: bytes) -> None:
    """2,000 inputs, each before seven readers: parts of the formats in any order, and good ones with a change."""
    is_read(data)


@given(data=changes(NOTE))
@settings(max_examples=1000, deadline=None)
def test_a_changed_checkpoint_says_what_was_signed_or_is_refused(data: bytes) -> None:
    """1,000 inputs: what verifies has the text that the key signed, to the letter."""
    try:
        note = Note.parse(data)
        signed_by = note.verify([OLD.verifier])
    except NoteInvalid:
        return
    assert list(signed_by) == [OLD.verifier]
    assert note.text == CHECKPOINT.text()


@given(data=changes(PROOF), leaf=st.sampled_from(LEAVES))
@settings(max_examples=1000, deadline=None)
def test_a_changed_proof_proves_no_other_entry(data: bytes, leaf: bytes) -> None:
    """1,000 inputs: what verifies is this leaf in its place under this checkpoint, whatever `extra` says."""
    try:
        proof = TlogProof.parse(data)
        checkpoint, _ = proof.verify(leaf, [OLD.verifier, OTHER.verifier])
    except (NoteInvalid, ProofInvalid):
        return
    assert checkpoint == CHECKPOINT
    assert leaf == LEAVES[INDEX]
    assert proof.index == INDEX


@given(data=changes(KEYS))
@settings(max_examples=1000, deadline=None)
def test_a_changed_list_vouches_for_no_other_key(data: bytes) -> None:
    """1,000 inputs: from the first key nothing is reached but the one that it signed for."""
    try:
        keys = read_key_list(data.decode(errors="replace"))
    except NoteInvalid:
        return
    newer, older = newer_and_older([OLD.verifier], keys)
    assert [key.vkey for key in newer] in ([], [NEW.verifier.vkey])
    assert older == []
