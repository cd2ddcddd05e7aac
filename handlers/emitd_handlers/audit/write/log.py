"""An audit log as a whole: its lines, and the tree and checkpoints that prove them.

`AuditLog.open` takes over what the last process left:

    lock the lines ─> last checkpoint, the hashes below it, the end of its lines ─> repair and count the lines after it
    ─> the log's id ─> its key ─> sign all lines, before the first new one comes
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import astuple

from emitd_handlers.audit.format.files import FIRST, AuditPaths, line_blocks
from emitd_handlers.audit.format.line import encode_line
from emitd_handlers.audit.write.file import AuditFile
from emitd_handlers.audit.write.identity import open_signer, read_keys, read_log_id, rotation_events
from emitd_handlers.audit.write.tree import AuditTree
from emitd_handlers.diagnostics import Report
from emitd_handlers.durable.append_file import DurableFile, FileDisplaced, reason_of
from emitd_handlers.durable.disk import Disk
from emitd_handlers.durable.file_identity import Displacement, Recovery
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.tlog.merkle import Frontier, leaf_hash
from emitd_handlers.tlog.note import Signer, Verifier

BLOCK_BYTES = 4 * 1024 * 1024


class AuditLog:
    """One log, on disk. Its methods block; `write_checkpoint` may be called from another thread than the others.

    Only `write_checkpoint` and `check` must not be called at the same time. If another process displaces one of the
    files, the log goes down: `check` saves all of them into a recovery folder and closes them. `open` succeeds again
    once the operator has moved the folder's files, or all files, to their places.
    """

    def __init__(
        self, path: Path, disk: Disk, report: Report, *, log_id: str = "", key: Path | None = None
    ) -> None:
        """Name the log's file; an empty `log_id` and no `key` mean those next to it."""
        self.file = AuditFile(path, disk, report, log_id=log_id)
        self.paths = AuditPaths.of(self.file.path)
        self.tree = AuditTree(self.paths, disk, report)
        self._configured_id = log_id
        self._key = key
        self._disk = disk
        self._signer: Signer | None = None
        self._recovery = Recovery(f"audit log '{self.paths.lines}'", astuple(self.paths), disk)
        self._recovery_folder: Path | None = None
        #: The key, the list of keys and the id, as far as they are kept next to the log.
        self._names: list[DurableFile] = []
        #: A log that went down: its id, the number of its lines, and the root of their tree.
        self._acknowledged: tuple[str, int, bytes] | None = None

    @property
    def problem(self) -> str:
        """Why the log takes no records now, or cannot be signed; empty: all is well."""
        return self.file.problem or self.tree.problem

    @property
    def is_down(self) -> bool:
        """Whether its files were displaced, saved and closed."""
        return self._acknowledged is not None

    @property
    def vkey(self) -> str:
        """The public key that checkpoints are signed with."""
        assert self._signer is not None
        return self._signer.verifier.vkey

    def open(self) -> None:
        """Open all files, or make them. Raises HandlerUnavailable with one line that says what is wrong."""
        try:
            if self.is_down and self._recovery.pending() is not None:
                raise HandlerUnavailable(self.problem)  # in the same words as before
            self._recovery.refuse_if_pending()
            self._refuse_orphans()
            self.file.open()
            verifiers = [key.verifier for key in read_keys(self._disk, self.paths.vkey)]
            covered_end = self.tree.open(self.file.read, verifiers)
            self._refuse_other_lines()
            log_id = self.file.recover(covered_end)
            is_signed = self.tree.checkpoint is not None
            self._signer = open_signer(self._disk, self.paths, self._key, log_id, is_signed=is_signed)
            self._write_rotation(self.tree.signed_by, self._signer.verifier)
            if self.file.line_count == 0:  # a log that has lines has come by here before its first
                self.file.sync_names()
            self.tree.begin(self._signer, covered_end, self.file.read)
            self._watch_names()
            self._acknowledged = None
        except OSError as error:
            self.close()
            raise HandlerUnavailable(
                f"audit log '{self.paths.lines}' cannot be opened: {reason_of(error)}"
            ) from error
        except BaseException:
            self.close()
            raise

    def append(self, lines: bytes, leaves: Sequence[bytes]) -> int:
        """Append whole lines, newlines included, with their leaf hashes; return the index of the first.

        On return they are on the medium. Raises HandlerUnavailable otherwise.
        """
        offset = self.file.size
        first = self.file.append(lines, len(leaves))
        self.tree.add(first, offset, leaves)
        return first

    def write_checkpoint(self) -> None:
        """Sign all lines; if that fails, `tree.problem` says so."""
        if not self.is_down:
            self.tree.write_checkpoint()

    def check(self) -> None:
        """Look whether the log is in order; if not, refuse lines, save what was acknowledged, say so in `problem`."""
        if self.is_down:
            return
        try:
            if (displaced := self._find_displaced()) is not None:
                self._take_down(*displaced)
            else:
                self.file.check()
        except OSError as error:
            self.file.refuse(f"cannot be written: {reason_of(error)}")
        except FileDisplaced as error:  # between two looks; the next check saves all files
            self.file.refuse(f"takes no records: {error}", is_reported=False)

    def close(self) -> None:
        """Close all files. Idempotent."""
        for file in self._names:
            file.close()
        self.tree.close()
        self.file.close()

    def _write_rotation(self, old: Verifier | None, new: Verifier) -> None:
        """Write events if another key signs from now on, but those that a start that crashed has written already."""
        if old is None or old.vkey == new.vkey:
            return
        listed = read_keys(self._disk, self.paths.vkey)
        written = [line for _, _, line in self.file.last_lines(len(listed))]
        for event in rotation_events(listed, old, new):
            if any(event.details_json.encode() in line for line in written):
                continue
            now = self.file.last_received_unix_nano = max(time.time_ns(), self.file.last_received_unix_nano)
            message = "the log is signed with another key from here on"
            record = LogRecord(Level.AUDIT, message, event.event_id, now, now, "emitd", payload=event)
            self.file.append(encode_line(record) + b"\n", 1)

    def _refuse_orphans(self) -> None:
        """Refuse checkpoints without lines, and after the log went down any of its files without them."""
        states = map(self._disk.state_at, astuple(self.paths) if self.is_down else [self.paths.checkpoints])
        if self._disk.state_at(self.paths.lines) is None and any(state and state.size for state in states):
            raise HandlerUnavailable(
                f"audit log '{self.paths.lines}' is not there, but files next to it are: put it back, or move all "
                "that is named like it away to begin a new log"
            )

    def _refuse_other_lines(self) -> None:
        """Refuse files under the id of the log that went down, unless they have every line that it acknowledged."""
        if self._acknowledged is None:
            return
        log_id, count, root = self._acknowledged
        if (self._configured_id or read_log_id(self._disk, self.paths.log_id)) != log_id:
            return
        frontier = Frontier()
        for _, data in line_blocks(self.file.read, FIRST, BLOCK_BYTES):
            lines = data[:-1].split(b"\n")[: count - frontier.size]
            frontier.extend(list(map(leaf_hash, lines)))
        if (frontier.size, frontier.root()) != (count, root):
            raise HandlerUnavailable(
                f"audit log '{self.paths.lines}' is not the one that was displaced: '{log_id}' has {count} "
                f"acknowledged lines, and these are {frontier.size}, or others"
            )

    def _watch_names(self) -> None:
        paths = [self.paths.vkey]
        paths += [self.paths.key] if self._key is None else []
        paths += [] if self._configured_id else [self.paths.log_id]
        self._names = [DurableFile(self._disk, path) for path in paths]
        for file in self._names:
            file.open()

    def _find_displaced(self) -> tuple[DurableFile, Displacement] | None:
        """Return a file that another process has displaced; the first are the lines."""
        return next(_displaced((self.file.lines, *self._companions())), None)

    def _companions(self) -> Sequence[DurableFile]:
        return (*self._names, *self.tree.files)

    def _take_down(self, file: DurableFile, displacement: Displacement) -> None:
        """Save all files, and close them."""
        problem = f"takes no records: {displacement.value}"
        if file is not self.file.lines:
            problem += f" ('{file.path}')"
        self.file.refuse(problem, is_reported=False)
        if displacement is Displacement.CUT:
            self.tree.write_checkpoint()  # so that a start too finds that lines are missing
        try:
            advice = self._save()
        except OSError as error:
            self.file.refuse(f"{problem}, and its recovery cannot be written: {reason_of(error)}")
            return
        self._acknowledged = (self.file.log_id, *self.tree.state())
        self.file.refuse(f"{problem}. {advice}", is_reported=False)  # by the handler, which goes down
        self.close()

    def _save(self) -> str:
        """Save what was acknowledged into the recovery folder; return what to tell the operator. Raises OSError."""
        lines = self.file.lines
        if lines.displacement() is not Displacement.CUT:
            return self._recovery.advice(self._save_into_folder(lines))
        copy, lacking = self._find_copy()
        if copy is not None and not lacking:
            source = DurableFile(self._disk, copy)
            source.open()
            source.take_over(lines.size)
            source.path = lines.path
            try:
                advice = self._recovery.advice(self._save_into_folder(source))
            finally:
                source.close()
            return f"It looks like logrotate's copytruncate, and the likely copy '{copy}' has all lines. {advice}"
        is_more_displaced = next(_displaced(self._companions()), None) is not None
        folder = self._save_into_folder() if is_more_displaced else None
        advice = self._recovery.advice(folder, () if copy is None else (copy,))
        if copy is None:
            return f"Acknowledged lines are lost, and no copy was found next to it. {advice}"
        return (
            f"It looks like logrotate's copytruncate. The likely copy is '{copy}', but lines of {lacking} bytes that "
            f"came between copy and cut are lost. {advice}"
        )

    def _save_into_folder(self, *lines: DurableFile) -> Path:
        folder = self._recovery_folder
        if folder is None or self._disk.state_at(folder) is None:
            folder = self._recovery_folder = self._recovery.make()
        for file in (*self._companions(), *lines):
            with suppress(FileExistsError):  # saved by a try before
                file.save_into(folder)
        self._recovery.sync(folder)
        self._recovery_folder = None
        return folder

    def _find_copy(self) -> tuple[Path | None, int]:
        """Return a copy of the lines next to a log that was cut, and how many bytes it lacks."""
        lines = self.file.lines
        first = self.tree.first_leaf()
        found: list[tuple[int, Path]] = []
        for name in self._disk.names(self.paths.lines.parent):
            path = self.paths.lines.with_name(name)
            if path in astuple(self.paths) or not name.startswith(self.paths.lines.name):
                continue
            file = DurableFile(self._disk, path)
            with suppress(OSError):
                file.open()
                data = file.read(BLOCK_BYTES, 0)
                if leaf_hash(data[: data.find(b"\n")]) == first:
                    lacking = 0 if lines.is_tail_of(file) else max(1, lines.size - file.size)
                    found.append((lacking, path))
            file.close()
        lacking, copy = min(found, default=(0, None))
        return copy, lacking


def _displaced(files: Iterable[DurableFile]) -> Iterator[tuple[DurableFile, Displacement]]:
    """Yield the files that another process has displaced. One that may not be written is not among them."""
    for file in files:
        displacement = file.displacement()
        if displacement is not None and displacement is not Displacement.PROTECTED:
            yield file, displacement
