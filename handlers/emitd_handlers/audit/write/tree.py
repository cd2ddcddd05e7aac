"""What proves an audit log: the tree over its lines, and the checkpoints that sign it.

    lines on the medium ─> add ─> write_checkpoint: hashes, stored and synced ─> a checkpoint, signed, stored, synced

Lines come here only when they are on the medium, and a checkpoint is shown only when it is. So neither can outlive
what it proves. After a crash the tree behind the last checkpoint is computed from the lines again: the lines are the
log. Memory holds only the tree's right edge and the leaves that wait for `write_checkpoint`.
"""

from collections.abc import Iterator, Sequence
from threading import Lock

from emitd_handlers.audit.format.files import (
    ENTRY_BYTES,
    FIRST,
    AuditPaths,
    Entry,
    ReadBytes,
    count_entries,
    frame_note,
    line_blocks,
    pack_entry,
    read_entry,
    split_notes,
)
from emitd_handlers.audit.write.recovery import MAX_GROUP_BYTES
from emitd_handlers.diagnostics import Report
from emitd_handlers.durable.append_file import DurableFile, FileDisplaced, reason_of
from emitd_handlers.durable.disk import Disk
from emitd_handlers.durable.file_identity import Displacement
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import (
    HASH_BYTES,
    Frontier,
    leaf_hash,
    root_hash,
    stored_count,
    stored_index,
)
from emitd_handlers.tlog.note import Note, NoteInvalid, Signer, UnknownKey, Verifier

#: An entry of the index comes with the first group of lines after this many bytes.
INDEX_INTERVAL_BYTES = 256 * 1024
#: There is no more between two of them: an index with larger gaps is not the log's.
MAX_UNINDEXED_BYTES = 4 * (INDEX_INTERVAL_BYTES + MAX_GROUP_BYTES)
#: How much is read at once to hash lines again.
BLOCK_BYTES = 4 * 1024 * 1024
#: Far more than the last two checkpoints take.
LAST_NOTES_BYTES = 64 * 1024


class AuditTree:
    """One log's tree, on disk.

    Its methods block. `write_checkpoint` may be called from another thread than the others, at the same time as `add`.
    """

    def __init__(self, paths: AuditPaths, disk: Disk, report: Report) -> None:
        self.paths = paths
        #: The last checkpoint on the medium, as a note, and what it says; before the first one: b"", None.
        self.note = b""
        self.checkpoint: Checkpoint | None = None
        #: The key that had signed the last one when the files were opened.
        self.signed_by: Verifier | None = None
        #: Why the last `write_checkpoint` failed; empty: it did not.
        self.problem = ""
        self._report = report
        self._hashes = DurableFile(disk, paths.hashes)
        self._checkpoints = DurableFile(disk, paths.checkpoints)
        self._index = DurableFile(disk, paths.index)
        self.files = (self._hashes, self._checkpoints, self._index)
        self._signer: Signer | None = None
        #: The tree of the lines whose hashes are stored.
        self._frontier = Frontier()
        #: What `add` brought since.
        self._lock = Lock()
        self._leaves: list[bytes] = []
        self._entries: list[Entry] = []
        self._last_entry = FIRST

    @property
    def covered(self) -> int:
        """How many lines the last checkpoint covers."""
        return 0 if self.checkpoint is None else self.checkpoint.size

    @property
    def uncovered(self) -> int:
        """How many lines wait for the next checkpoint."""
        return self._frontier.size + len(self._leaves) - self.covered

    def open(self, read_lines: ReadBytes, verifiers: Sequence[Verifier]) -> Entry:
        """Open the files, and return the end of the lines that the last checkpoint covers.

        Missing or damaged hashes are rebuilt from the lines. Raises HandlerUnavailable if the lines are not those that
        the checkpoint was signed over, or it was not signed by one of `verifiers`; OSError.
        """
        self.problem = ""
        for file in self.files:
            file.open()
        self._checkpoints.ensure_synced()
        self._find_last_checkpoint(verifiers)
        self._leaves, self._entries = [], []
        size = 0 if self.checkpoint is None else self.checkpoint.size
        end = self._find_end(read_lines, size)
        if end is None:
            return self._rebuild(read_lines, size)
        self._hashes.cut(stored_count(size) * HASH_BYTES)
        self._frontier = Frontier(size, self._read_hash)
        return end

    def state(self) -> tuple[int, bytes]:
        """Return the number of all added lines, and the root of their tree, stored or not."""
        with self._lock:
            frontier, leaves = self._frontier.copy(), list(self._leaves)
        frontier.extend(leaves)
        return frontier.size, frontier.root()

    def first_leaf(self) -> bytes:
        """Return the hash of the first line; empty if it is not known."""
        return self._read_hash(0) if self._frontier.size else b"".join(self._leaves[:1])

    def begin(self, signer: Signer, end: Entry, read_lines: ReadBytes) -> None:
        """Sign with `signer` from now on, and cover the lines from `end` on, as far as they can be read.

        Raises HandlerUnavailable if the checkpoints are those of a log with another name.
        """
        origin = signer.verifier.name if self.checkpoint is None else self.checkpoint.origin
        if origin != signer.verifier.name:
            raise HandlerUnavailable(
                f"'{self.paths.checkpoints}' has checkpoints of the log '{origin}', but the log is "
                f"'{signer.verifier.name}': set `log_id` to the former, or put the right files together"
            )
        self._signer = signer
        for start, lines in _blocks(read_lines, end):
            self.add(*start, list(map(leaf_hash, lines)))
            self.write_checkpoint()  # one a block: a long log that was never signed does not fit into memory

    def add(self, first_index: int, offset: int, leaves: Sequence[bytes]) -> None:
        """Take the leaves of lines that are on the medium, in order; the first begins at `offset`."""
        with self._lock:
            if offset - self._last_entry.offset >= INDEX_INTERVAL_BYTES:
                self._last_entry = Entry(first_index, offset)
                self._entries.append(self._last_entry)
            self._leaves += leaves

    def write_checkpoint(self) -> None:
        """Store the hashes of all added lines, and sign them; if that fails, say so in `problem`."""
        if not self.uncovered:
            return
        try:
            if self._leaves:
                self._store_hashes()
            self._sign()
        except OSError as error:
            self._set_problem(f"cannot be signed: {reason_of(error)}")
        except FileDisplaced as error:
            # All but a file that may not be written is for the next check, which saves all files.
            is_reported = error.displacement is Displacement.PROTECTED
            self._set_problem(f"cannot be signed: {error}", is_reported=is_reported)
        else:
            self._set_problem("")

    def close(self) -> None:
        """Close the files. Idempotent."""
        for file in self.files:
            file.close()

    def _store_hashes(self) -> None:
        with self._lock:
            leaves, entries = list(self._leaves), list(self._entries)
        if entries:
            self._index.append(b"".join(map(pack_entry, entries)))
            del self._entries[: len(entries)]
        frontier = self._frontier.copy()
        self._hashes.append(b"".join(frontier.extend(leaves)))
        with self._lock:
            del self._leaves[: len(leaves)]
            self._frontier = frontier

    def _sign(self) -> None:
        assert self._signer is not None
        checkpoint = Checkpoint(self._signer.verifier.name, self._frontier.size, self._frontier.root())
        note = self._signer.sign(checkpoint.text())
        self._checkpoints.append(frame_note(note))
        self.checkpoint, self.note = checkpoint, note

    def _set_problem(self, problem: str, *, is_reported: bool = True) -> None:
        problem = problem and f"audit log '{self.paths.lines}' {problem}"
        if problem and problem != self.problem:
            if is_reported:
                self._report(problem)
        elif self.problem and not problem:
            self._report(f"audit log '{self.paths.lines}' is signed again, up to line {self.covered}")
        self.problem = problem

    def _find_last_checkpoint(self, verifiers: Sequence[Verifier]) -> None:
        """Find the last checkpoint that is whole; one that a crash has torn is cut off."""
        self.note, self.checkpoint, self.signed_by = b"", None, None
        start = max(0, self._checkpoints.size - LAST_NOTES_BYTES)
        notes = list(split_notes(self._checkpoints.read(LAST_NOTES_BYTES, start), start))
        if start > 0:
            del notes[:1]  # it may begin before
        for offset, note in reversed(notes[-2:]):
            if self._take_over(offset, note, verifiers):
                self._cut_torn(offset + len(note) + 1)
                return
        if start > 0 or len(notes) > 1 or (notes and not verifiers):
            raise self._damaged(notes[-1][0] if notes else start)
        self._cut_torn(0)

    def _take_over(self, offset: int, note: bytes, verifiers: Sequence[Verifier]) -> bool:
        """Take a checkpoint for the last one, if it is whole and signed by one of `verifiers`."""
        if offset + len(note) >= self._checkpoints.size:  # without the blank line after it
            return False
        try:
            parsed = Note.parse(note)
            self.signed_by = parsed.verify(verifiers)[0]
            self.checkpoint = Checkpoint.parse(parsed.text)
        except UnknownKey:  # it is whole
            raise self._damaged(offset) from None
        except NoteInvalid:
            return False
        self.note = note
        return True

    def _cut_torn(self, offset: int) -> None:
        """Cut off a checkpoint that a crash has torn; it was never shown."""
        torn = self._checkpoints.size - offset
        if torn > 0:
            self._report(f"'{self.paths.checkpoints}': its last {torn} bytes were torn, and are cut off")
            self._checkpoints.cut(offset)

    def _find_end(self, read_lines: ReadBytes, size: int) -> Entry | None:
        """Return where line `size` begins; None if hashes, index or lines do not fit the last checkpoint.

        Reads the lines after the last entry of the index, and none before it. Raises HandlerUnavailable if the first
        line of a log without an index was changed.
        """
        if self._hashes.size < stored_count(size) * HASH_BYTES:
            return None
        if self.checkpoint is not None and root_hash(size, self._read_hash) != self.checkpoint.root:
            return None
        count = self._index.size // ENTRY_BYTES
        count = count_entries(self._index.read, count, lambda entry: entry.leaf_index < size)
        self._index.cut(count * ENTRY_BYTES)
        start = self._last_entry = read_entry(self._index.read, count - 1) if count else FIRST
        if size == 0:
            return FIRST
        for first, lines in _blocks(read_lines, start):
            if first == start and leaf_hash(lines[0]) != self._read_hash(stored_index(0, start.leaf_index)):
                if (
                    start == FIRST
                ):  # the stored hashes are those that were signed; `verify` finds the line by them
                    raise self._changed(size)
                return None
            if first.leaf_index + len(lines) >= size:
                return _after(first, lines[: size - first.leaf_index])
            if first.offset - start.offset > MAX_UNINDEXED_BYTES:
                return None
        return None

    def _rebuild(self, read_lines: ReadBytes, size: int) -> Entry:
        """Rebuild the hashes and the index of the first `size` lines; return where those end."""
        if sum(len(lines) for _, lines in _blocks(read_lines, FIRST)) < size:
            raise HandlerUnavailable(
                f"audit log '{self.paths.lines}' has fewer lines than the {size} that its last checkpoint was signed "
                "over: something else cut it. Put a whole copy in its place, or move it away with all that is named "
                "like it to begin a new log"
            )
        self._report(
            f"audit log '{self.paths.lines}': its hashes and its index are rebuilt from {size} lines"
        )
        if self._hashes.size:
            self._hashes.save("damaged")
        self._hashes.cut(0)
        self._index.cut(0)
        self._frontier, end = Frontier(), FIRST
        for first, lines in _blocks(read_lines, FIRST):
            lines = lines[: size - first.leaf_index]
            if not lines:
                break
            self._hashes.append(b"".join(self._frontier.extend(list(map(leaf_hash, lines)))))
            if first != FIRST:
                self._index.append(pack_entry(first))
            self._last_entry, end = first, _after(first, lines)
        if self.checkpoint is not None and self._frontier.root() != self.checkpoint.root:
            self._hashes.cut(0)  # else the next try would save them as damaged, and so on
            raise self._changed(size)
        return end

    def _changed(self, size: int) -> HandlerUnavailable:
        return HandlerUnavailable(
            f"audit log '{self.paths.lines}' was changed: its first {size} lines are not those that its last "
            "checkpoint was signed over. `emitd audit verify` says more. Put a good copy in its place, or move it "
            "away with all that is named like it to begin a new log"
        )

    def _damaged(self, offset: int) -> HandlerUnavailable:
        return HandlerUnavailable(
            f"'{self.paths.checkpoints}' is damaged at byte {offset}, or a key is missing in '{self.paths.vkey}': no "
            "crash does that. `emitd audit verify` says more"
        )

    def _read_hash(self, number: int) -> bytes:
        return self._hashes.read(HASH_BYTES, number * HASH_BYTES)


def _blocks(read_lines: ReadBytes, start: Entry) -> Iterator[tuple[Entry, list[bytes]]]:
    for block, data in line_blocks(read_lines, start, BLOCK_BYTES):
        yield block, data[:-1].split(b"\n")


def _after(start: Entry, lines: Sequence[bytes]) -> Entry:
    """Return where the line after some lines begins."""
    return Entry(start.leaf_index + len(lines), start.offset + sum(map(len, lines)) + len(lines))
