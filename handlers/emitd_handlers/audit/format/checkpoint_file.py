"""The file of a log's checkpoints: signed notes, oldest first, a blank line after each."""

from collections.abc import Iterator

__all__ = ["frame_note", "split_notes"]

#: What a signature line begins with.
_SIGNATURE = "— ".encode()


def frame_note(note: bytes) -> bytes:
    """Return a note as it stands in the file."""
    return note + b"\n"


def split_notes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield each note in a part of the file, with its offset; `offset` is that of the part's first byte.

    What cannot be a note is yielded like one, so that nothing is passed over: it will not parse. So is what stands
    after the last blank line, where the last note is torn.
    """
    start = 0
    while start < len(data):
        end = _end_of_note(data, start)
        yield offset + start, data[start:end]
        start = end + 1


def _end_of_note(data: bytes, start: int) -> int:
    """Return where the note from `start` on ends: after its last signature line, before the blank line."""
    blank = data.find(b"\n\n", start)
    while blank >= 0:
        line = data.rfind(b"\n", start, blank) + 1
        if data.startswith(_SIGNATURE, max(line, start)):
            return blank + 1
        blank = data.find(b"\n\n", blank + 1)
    return len(data)
