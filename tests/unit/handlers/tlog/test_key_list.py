"""The list of a log's keys: which key vouches for which, and what is no statement."""

from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.key_list import (
    ListedKey,
    newer_and_older,
    read_key_list,
    read_listed_key,
    vouch,
)
from emitd_handlers.tlog.note import Note, NoteInvalid, Signer
from support.audit.log_reader import open_note


def signer(number: int, name: str = "example.com/log") -> Signer:
    return Signer(name, Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)))


SIGNERS = [signer(number) for number in range(4)]
VERIFIERS = [each.verifier for each in SIGNERS]
#: Each vouches for the next.
KEYS = [ListedKey(VERIFIERS[0]), *(vouch(old, new) for old, new in pairwise(SIGNERS))]
TEXT = "".join(f"{key.line}\n" for key in KEYS)


def vkeys(keys: list[ListedKey]) -> list[str]:
    return [key.verifier.vkey for key in keys]


def test_a_list_is_read_as_it_was_written() -> None:
    """Keys, who vouches for them, and the statements."""
    keys = read_key_list(TEXT)
    assert vkeys(keys) == [verifier.vkey for verifier in VERIFIERS]
    assert [key.before.vkey for key in keys if key.before] == [verifier.vkey for verifier in VERIFIERS[:-1]]
    assert [key.statement for key in keys] == [key.statement for key in KEYS]
    assert [key.line for key in keys] == TEXT.splitlines()


def test_a_statement_is_a_note_that_both_signed() -> None:
    """Any reader of signed notes can check it; it cannot be taken for a checkpoint."""
    text = open_note(KEYS[1].statement, VERIFIERS[:1])
    assert text == f"emitd audit key rotation\n{VERIFIERS[0].vkey}\n{VERIFIERS[1].vkey}\n"
    assert Note.parse(KEYS[1].statement).verify(VERIFIERS) == VERIFIERS[:2]
    with pytest.raises(NoteInvalid):
        Checkpoint.parse(text)


def test_the_list_of_an_earlier_version() -> None:
    """Vkeys alone, with any space between them: nothing vouches for any of them."""
    vkey_texts = [verifier.vkey for verifier in VERIFIERS]
    for text in ("\n".join(vkey_texts), " ".join(vkey_texts), "\r\n".join([*vkey_texts, ""])):
        keys = read_key_list(text)
        assert (vkeys(keys), [key.before for key in keys]) == (vkey_texts, [None] * 4)
    assert vkeys(read_key_list(TEXT.replace("\n", "\r\n"))) == vkey_texts


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (vouch(signer(9), signer(8)), "does not stand above it"),
        (vouch(signer(8), signer(8)), "does not stand above it"),
        (vouch(signer(0, "example.com/other"), signer(8)), "does not stand above it"),
        # The statement of another key, of another pair, and with the signatures of one or in the other order.
        (ListedKey(signer(8).verifier, VERIFIERS[0], KEYS[1].statement), "is wrong|not signed by both"),
        (
            ListedKey(signer(8).verifier, VERIFIERS[0], vouch(SIGNERS[0], signer(7)).statement),
            "is wrong|both",
        ),
        (ListedKey(signer(8).verifier, VERIFIERS[0], SIGNERS[0].sign("x\n")), "is wrong"),
    ],
)
def test_who_does_not_have_the_key_before_cannot_vouch(added: ListedKey, words: str) -> None:
    """The line is no line of the list, whatever stands around it."""
    with pytest.raises(NoteInvalid, match=words):
        read_key_list(f"{TEXT}{added.line}\n")


def test_both_must_sign() -> None:
    """The key before alone could claim any key, and the new one alone is an attacker's."""
    new = signer(8)
    vkey, old_line, new_line = vouch(SIGNERS[0], new).line.replace(" —", "\n—").split("\n")
    for lines in ([old_line], [new_line], [new_line, old_line], [old_line, old_line]):
        with pytest.raises(NoteInvalid):
            read_listed_key(" ".join([vkey, *lines]), KEYS)
    assert read_listed_key(" ".join([vkey, old_line, new_line]), KEYS).before == VERIFIERS[0]


def test_trust_goes_forwards_from_a_key_and_backwards_from_it() -> None:
    """Never backwards and then forwards: a thief of the first key cannot come in between by a key of his own."""
    thief = vouch(SIGNERS[0], signer(9))
    listed = read_key_list(f"{TEXT}{thief.line}\n{signer(8).verifier.vkey}\n")
    for place, verifier in enumerate(VERIFIERS):
        newer, older = newer_and_older([verifier], listed)
        expected = [*VERIFIERS[place + 1 :], *([signer(9).verifier] if place == 0 else [])]
        assert [key.vkey for key in newer] == [key.vkey for key in expected]
        assert [key.vkey for key in older] == [key.vkey for key in VERIFIERS[:place][::-1]]
    assert newer_and_older([signer(8).verifier], listed) == ([], [])


@pytest.mark.parametrize("size", range(0, len(TEXT), 7))
def test_what_a_crash_leaves_of_a_list(size: int) -> None:
    """The keys before the torn line, and the torn one if its vkey is whole. As a kept file it is refused."""
    keys = read_key_list(TEXT[:size], may_be_torn=True)
    whole = TEXT[:size].count("\n")
    assert vkeys(keys)[:whole] == [verifier.vkey for verifier in VERIFIERS[:whole]]
    assert len(keys) <= whole + 1


@pytest.mark.parametrize("bit", range(7))
def test_a_flipped_bit_is_found(bit: int) -> None:
    """Anywhere in the list: it is refused, or the keys' lines are not those that stand there."""
    for place, character in enumerate(TEXT):
        changed = chr(ord(character) ^ 1 << bit)
        text = TEXT[:place] + changed + TEXT[place + 1 :]
        try:
            lines = [key.line for key in read_key_list(text)]
        except NoteInvalid:
            continue
        assert "".join(f"{line}\n" for line in lines) != text, (place, character, changed)


@given(st.text(max_size=200))
def test_any_text_is_a_list_or_is_refused(text: str) -> None:
    """With one kind of error."""
    for words in (text, f"{TEXT}{VERIFIERS[0].vkey} — {text}", f"{VERIFIERS[0].vkey} — a b — {text}"):
        try:
            read_key_list(words)
        except NoteInvalid:
            continue
