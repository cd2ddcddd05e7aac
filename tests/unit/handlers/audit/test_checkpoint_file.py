"""The file of checkpoints: how notes are told apart in it, also where some of it is torn or no note at all."""

from base64 import b64encode

import pytest

from emitd_handlers.audit.format.files import frame_note, split_notes

ROOT = b64encode(bytes(32)).decode()
NOTES = [f"log\n{size}\n{ROOT}\n\n— log AAAAAAAA\n".encode() for size in (1, 22, 333)]
FILE = b"".join(map(frame_note, NOTES))


def test_notes_are_read_as_they_were_written() -> None:
    """Each comes with its offset, in order."""
    assert list(split_notes(FILE)) == [(FILE.index(note), note) for note in NOTES]
    assert list(split_notes(b"")) == []


def test_offsets_count_from_where_the_part_begins() -> None:
    """Of a part that begins with the second note."""
    start = FILE.index(NOTES[1])
    assert list(split_notes(FILE[start:], start)) == list(split_notes(FILE))[1:]


def test_a_note_with_several_signatures_stays_whole() -> None:
    """A witness may sign as well; the blank line within the note does not end it."""
    note = NOTES[0] + "— witness BBBBBBBB\n".encode()
    assert list(split_notes(frame_note(note) + FILE)) == [
        (0, note),
        *((offset + len(note) + 1, each) for offset, each in split_notes(FILE)),
    ]


@pytest.mark.parametrize("cut", range(1, len(NOTES[2]) + 1))
def test_a_torn_note_is_yielded_like_one(cut: int) -> None:
    """Wherever the file ends within the last note: those before are whole, and what is left of it comes last."""
    torn = FILE[: -1 - cut]
    (*whole, last) = split_notes(torn) if cut < len(NOTES[2]) else [*split_notes(torn), (0, b"")]
    assert [note for _, note in whole] == NOTES[:2]
    assert last[1] == NOTES[2][:-cut]


def test_nothing_is_passed_over() -> None:
    """What somebody else wrote in between comes out with a note, and the notes after it as they are."""
    parts = [note for _, note in split_notes(frame_note(NOTES[0]) + b"foreign\n\n" + FILE)]
    assert parts == [NOTES[0], b"foreign\n\n" + NOTES[0], NOTES[1], NOTES[2]]
