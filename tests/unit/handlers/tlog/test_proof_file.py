"""Proof files: written, read, verified, and each way of being wrong told in words."""

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import Frontier, inclusion_proof, leaf_hash
from emitd_handlers.tlog.note import NoteInvalid, Signer, UnknownKey
from emitd_handlers.tlog.proof_file import MAX_HASHES, MAX_PROOF_BYTES, ProofInvalid, TlogProof

SIZE = 7
SIGNER = Signer("example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
HASH = b64encode(bytes(32)).decode()


def leaf(number: int) -> bytes:
    return leaf_hash(b"%d" % number)


def proof_of(
    index: int, extra: bytes = b"", signer: Signer = SIGNER, origin: str = "example.com/log"
) -> TlogProof:
    frontier = Frontier()
    row = frontier.extend([leaf(number) for number in range(SIZE)])
    note = signer.sign(Checkpoint(origin, SIZE, frontier.root()).text())
    return TlogProof(index, inclusion_proof(index, SIZE, row.__getitem__), note, extra)


@pytest.mark.parametrize("extra", [b"", b'{"a":"line"}'])
@pytest.mark.parametrize("index", range(SIZE))
def test_a_proof_is_read_and_verified(index: int, extra: bytes) -> None:
    """It says what it said before, and its leaf is in the tree that the log's key signed."""
    proof = proof_of(index, extra)
    again = TlogProof.parse(proof.encode())
    assert again == proof
    checkpoint, signed_by = again.verify(leaf(index), [SIGNER.verifier])
    assert (checkpoint.origin, checkpoint.size, signed_by) == ("example.com/log", SIZE, [SIGNER.verifier])


def test_the_format() -> None:
    """A first line, the extra data, the index, a hash a line, an empty line, the checkpoint as it is."""
    proof = proof_of(6, b"hello")
    head, _, note = proof.encode().partition(b"\n\n")
    assert head.decode().split("\n") == [
        "c2sp.org/tlog-proof@v1",
        "extra aGVsbG8=",
        "index 6",
        *(b64encode(each).decode() for each in proof.hashes),
    ]
    assert len(proof.hashes) == 2
    assert note == proof.note


def test_the_proof_of_a_single_entry_has_no_hashes() -> None:
    """The empty line follows the index."""
    note = SIGNER.sign(Checkpoint("example.com/log", 1, leaf(0)).text())
    data = TlogProof(0, [], note).encode()
    assert data == b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + note
    assert TlogProof.parse(data).verify(leaf(0), [SIGNER.verifier])[0].size == 1


def test_another_leaf_index_or_hash_is_found_out() -> None:
    """None of them leads to the root that was signed."""
    proof = proof_of(3)
    with pytest.raises(ProofInvalid, match="entry 3 of the tree that was signed is another one"):
        proof.verify(leaf(4), [SIGNER.verifier])
    for wrong in (
        TlogProof(2, proof.hashes, proof.note),
        TlogProof(3, [proof.hashes[1], proof.hashes[0], proof.hashes[2]], proof.note),
    ):
        with pytest.raises(ProofInvalid, match="is another one"):
            wrong.verify(leaf(3), [SIGNER.verifier])
    with pytest.raises(ProofInvalid, match="too few hashes"):
        TlogProof(3, proof.hashes[:-1], proof.note).verify(leaf(3), [SIGNER.verifier])
    with pytest.raises(ProofInvalid, match="leaf 7 is not in a tree of 7 leaves"):
        TlogProof(7, proof.hashes, proof.note).verify(leaf(3), [SIGNER.verifier])


def test_another_key_is_not_believed() -> None:
    """Neither one that is not known, nor a changed checkpoint, nor a key that is known for another log."""
    other = Signer("example.com/other", Ed25519PrivateKey.from_private_bytes(bytes([1] * 32)))
    proof = proof_of(3)
    with pytest.raises(UnknownKey):
        proof.verify(leaf(3), [other.verifier])
    with pytest.raises(NoteInvalid, match=r"signature of example\.com/log\+[0-9a-f]{8} is wrong"):
        TlogProof(3, proof.hashes, proof.note.replace(b"\n7\n", b"\n8\n")).verify(leaf(3), [SIGNER.verifier])
    with pytest.raises(
        ProofInvalid, match=r"of the log 'example\.com/log', but is signed as 'example\.com/other'"
    ):
        proof_of(3, signer=other).verify(leaf(3), [other.verifier])


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("", "it is no proof: its first line is not 'c2sp.org/tlog-proof@v1'"),
        ("c2sp.org/tlog-proof@v2\nindex 0", "it is no proof"),
        ("c2sp.org/tlog-proof@v1", "no line 'index'"),
        ("c2sp.org/tlog-proof@v1\nindex", "no line 'index'"),
        ("c2sp.org/tlog-proof@v1\nindex 01", "no line 'index'"),
        ("c2sp.org/tlog-proof@v1\nindex -1", "no line 'index'"),
        ("c2sp.org/tlog-proof@v1\nindex ١", "no line 'index'"),
        ("c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA", "a hash is not in base64: 'extra AAAA'"),
        ("c2sp.org/tlog-proof@v1\nextra \nindex 0", "the line 'extra' is not in base64"),
        ("c2sp.org/tlog-proof@v1\nextra A&==\nindex 0", "the line 'extra' is not in base64"),
        ("c2sp.org/tlog-proof@v1\nextra é\nindex 0", "the line 'extra' is not in base64"),
        ("c2sp.org/tlog-proof@v1\nextra AAB=\nindex 0", "the line 'extra' is not in base64"),
        ("c2sp.org/tlog-proof@v1\nextra AAAA\nextra AAAA\nindex 0", "no line 'index'"),
        ("c2sp.org/tlog-proof@v1\nindex 0\nAAAA", "a hash has 3 bytes, not 32"),
        (
            "c2sp.org/tlog-proof@v1\nindex 0\n" + f"{HASH}\n" * (MAX_HASHES + 1) + HASH,
            "65 hashes, more than 63",
        ),
    ],
)
def test_what_is_no_proof(head: str, words: str) -> None:
    """It is refused, and said why."""
    with pytest.raises(ProofInvalid, match=words):
        TlogProof.parse(head.encode() + b"\n\n" + proof_of(0).note)


def test_a_proof_without_its_checkpoint_is_refused() -> None:
    """So is what is longer than any proof."""
    with pytest.raises(ProofInvalid, match="no checkpoint"):
        TlogProof.parse(b"c2sp.org/tlog-proof@v1\nindex 0\n")
    with pytest.raises(ProofInvalid, match="more than 2097152"):
        TlogProof.parse(bytes(MAX_PROOF_BYTES + 1))
