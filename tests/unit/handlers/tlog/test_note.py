"""Signed notes and their keys: what is written, what is verified, and what is refused with which words."""

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emitd_handlers.tlog.note import (
    MAX_NOTE_BYTES,
    Note,
    NoteInvalid,
    Signer,
    UnknownKey,
    Verifier,
    is_key_name,
)
from support.audit.log_reader import open_note

#: The example that the documentation of golang.org/x/mod/sumdb/note gives.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
GO_NOTE = f"{GO_TEXT}\n— PeterNeumann {GO_SIGNATURE}\n".encode()
TEXT = "example.com/log\n1\nroot\n"


def signer(name: str = "example.com/log", number: int = 1) -> Signer:
    return Signer(name, Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)))


def test_a_note_that_go_signed_is_verified() -> None:
    """The text comes out as it was signed, and the key as it was written."""
    verifier = Verifier.from_vkey(GO_VKEY)
    assert open_note(GO_NOTE, [verifier]) == GO_TEXT
    assert (verifier.vkey, verifier.name, verifier.key_id.hex()) == (GO_VKEY, "PeterNeumann", "c74f20a3")


def test_what_was_signed_is_verified() -> None:
    """By the signer's own key, and by its vkey, with spaces around it."""
    note = signer().sign(TEXT)
    assert open_note(note, [signer().verifier]) == TEXT
    assert open_note(note, [Verifier.from_vkey(f" {signer().verifier.vkey}\n")]) == TEXT


def test_the_signers_are_told() -> None:
    """Of two signatures the keys that are known, in the note's order; others are passed over."""
    first, second, third = signer(number=1), signer(number=2), signer(number=3)
    note = first.sign(TEXT) + second.sign(TEXT).rpartition(b"\n\n")[2]
    known = [third.verifier, second.verifier, first.verifier]
    assert Note.parse(note).verify(known) == [first.verifier, second.verifier]
    assert Note.parse(note).verify([second.verifier]) == [second.verifier]


def test_a_note_of_an_unknown_key_is_told_apart_from_a_forged_one() -> None:
    """The one says which keys signed it, the other that a known key did not."""
    note = signer().sign(TEXT)
    with pytest.raises(
        UnknownKey, match=r"signed by example.com/log\+[0-9a-f]{8}, and by no key that is known"
    ):
        open_note(note, [signer(number=2).verifier, signer("example.com/other").verifier])
    with pytest.raises(
        NoteInvalid, match=r"the signature of example\.com/log\+[0-9a-f]{8} is wrong"
    ) as caught:
        open_note(note.replace(b"\n1\n", b"\n2\n"), [signer().verifier])
    assert not isinstance(caught.value, UnknownKey)


def test_a_good_signature_does_not_make_up_for_a_wrong_one() -> None:
    """A note with a wrong signature of a known key is refused, whoever else signed it."""
    first, second = signer(number=1), signer(number=2)
    wrong = second.sign("another text\n").rpartition(b"\n\n")[2]
    with pytest.raises(NoteInvalid, match="is wrong"):
        open_note(first.sign(TEXT) + wrong, [first.verifier, second.verifier])


def test_a_text_may_have_empty_lines() -> None:
    """The last one parts the text from the signatures."""
    text = "a\n\n— not a signature\n\nb\n"
    assert open_note(signer().sign(text), [signer().verifier]) == text


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (b"", "no signature lines"),
        (b"text\n", "no signature lines"),
        (GO_NOTE[:-1], "no signature lines"),
        (b"text\n\n\n", "no signature lines"),
        (GO_NOTE + b"\n", "no signature lines"),
        ("text\n\n\n— name AAAAAAAA\n\n— name AAAA\n".encode(), "malformed signature line"),
        (b"text\n\nnot a signature\n", "malformed signature line: 'not a signature'"),
        ("text\n\n— name\n".encode(), "malformed signature line"),
        ("text\n\n— na+me AAAAAAAA\n".encode(), "malformed signature line"),
        ("text\n\n— name A&==\n".encode(), "malformed signature line"),
        ("text\n\n— name AAAA\n".encode(), "malformed signature line"),
        (b"text\xff\n\n", "not UTF-8"),
        (b"te\rxt\n\n", "control characters"),
        (b"te\x00xt\n\n", "control characters"),
        (b"text\n\n" + "— name AAAAAAAA\n".encode() * 101, "101 signatures"),
        (b"x" * (MAX_NOTE_BYTES + 1), "more than"),
    ],
)
def test_what_is_no_note(note: bytes, words: str) -> None:
    """It is refused, and said why, before any key is looked at."""
    with pytest.raises(NoteInvalid, match=words):
        Note.parse(note)


@pytest.mark.parametrize(
    ("vkey", "words"),
    [
        ("", "not the vkey of an Ed25519 key"),
        ("name", "not the vkey"),
        ("name+00000000+AAAA", "not the vkey"),
        ("name+00000000+A&", "not the vkey"),
        (GO_VKEY[:-4], "not the vkey"),
        (f"name+00000000+{b64encode(bytes([2] + [0] * 32)).decode()}", "not the vkey"),
        (
            GO_VKEY.replace("c74f20a3", "c74f20a4"),
            "the vkey of 'PeterNeumann' is damaged: its id is c74f20a4",
        ),
        (GO_VKEY.replace("Peter", "Pieter"), "is damaged"),
        (GO_VKEY.replace("c2Qc", "c2Qd"), "is damaged"),
        (GO_VKEY.replace("PeterNeumann", ""), "the key name '' is empty"),
        (GO_VKEY.replace("PeterNeumann", "Peter Neumann"), "has a space"),
    ],
)
def test_what_is_no_vkey(vkey: str, words: str) -> None:
    """A letter changed anywhere is noticed, and so is another kind of key."""
    with pytest.raises(NoteInvalid, match=words):
        Verifier.from_vkey(vkey)


def test_a_key_of_another_length_is_refused() -> None:
    """An Ed25519 key has 32 bytes."""
    with pytest.raises(NoteInvalid, match="has 31 bytes, not 32"):
        Verifier("name", bytes(31))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\tb", "a\u00a0b", "a\u200bb"])
def test_what_is_no_name_of_a_key(name: str) -> None:
    """Empty, with a space of any kind, with a plus sign, or with what cannot be seen."""
    assert not is_key_name(name)
    with pytest.raises(NoteInvalid, match="key name"):
        signer(name)


@pytest.mark.parametrize("name", ["a", "emitd.local/0197a5c0", "zoë"])
def test_what_is_a_name_of_a_key(name: str) -> None:
    """Anything else, also beyond ASCII, and notes are signed with it."""
    assert is_key_name(name)
    assert open_note(signer(name).sign(TEXT), [signer(name).verifier]) == TEXT
