"""An audit log as a whole: its lines, and the tree and checkpoints that prove them.

`AuditLog.open` takes over what the last process left:

    lock the lines ─> last checkpoint, the hashes below it, the end of its lines ─> repair and count the lines after it
    ─> the log's id ─> its key ─> sign all lines, before the first new one comes
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import astuple

from emitd_handlers.audit.format.files import AuditPaths, Entry
from emitd_handlers.audit.write.file import AuditFile
from emitd_handlers.audit.write.identity import open_signer, read_verifiers
from emitd_handlers.audit.write.tree import AuditTree
from emitd_handlers.diagnostics import Report
from emitd_handlers.durable.append_file import reason_of
from emitd_handlers.durable.disk import Disk, FileState
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.tlog.note import Signer


class _Loss(NamedTuple):
    """A log at the time when lines of it were destroyed."""

    problem: str
    end: Entry
    log_id: str


class _Refusal(NamedTuple):
    """The files that were found in the place of such a log and refused, and why."""

    states: Sequence[FileState | None]
    reason: str


class AuditLog:
    """One log, on disk. Its methods block; `write_checkpoint` may be called from another thread than the others.

    Only `write_checkpoint` and `check` must not be called at the same time.
    """

    def __init__(
        self, path: Path, disk: Disk, report: Report, *, log_id: str = "", key: Path | None = None
    ) -> None:
        """Name the log's file; an empty `log_id` and no `key` mean those next to it."""
        self.file = AuditFile(path, disk, report, log_id=log_id)
        self.paths = AuditPaths.of(self.file.path)
        self.tree = AuditTree(self.paths, disk, report)
        self._key = key
        self._disk = disk
        self._report = report
        self._signer: Signer | None = None
        #: None: no lines were lost, or all of them are there again.
        self._loss: _Loss | None = None
        self._refusal: _Refusal | None = None

    @property
    def problem(self) -> str:
        """Why the log takes no records now, or cannot be signed; empty: all is well."""
        return self.file.problem or self.tree.problem

    @property
    def vkey(self) -> str:
        """The public key that checkpoints are signed with."""
        assert self._signer is not None
        return self._signer.verifier.vkey

    def open(self) -> None:
        """Open all files, or make them. Raises HandlerUnavailable with one line that says what is wrong."""
        try:
            self._refuse_orphaned_checkpoints()
            self.file.open()
            covered_end = self.tree.open(self.file.read, read_verifiers(self._disk, self.paths.vkey))
            if self._loss is not None:
                self.tree.check_lines(self.file.read)
            log_id = self.file.recover(covered_end)
            self._refuse_lacking_lines(log_id)
            self._signer = open_signer(
                self._disk, self.paths, self._key, log_id, is_signed=self.tree.checkpoint is not None
            )
            if self.file.line_count == 0:  # a log that has lines has come by here before its first
                self.file.sync_names()
            self.tree.begin(self._signer, covered_end, self.file.read)
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
        if not self.file.is_lost:
            self.tree.write_checkpoint()

    def check(self, *, at_once: bool = False) -> None:
        """Look whether the log is in order; mend it if not, or say in `problem` why that cannot be done."""
        self.file.check(at_once=at_once)
        if self.file.is_lost:
            self._open_again()

    def close(self) -> None:
        """Close all files. Idempotent."""
        self.tree.close()
        self.file.close()

    def _refuse_orphaned_checkpoints(self) -> None:
        checkpoints = self._disk.state_at(self.paths.checkpoints)
        if checkpoints is not None and checkpoints.size and self._disk.state_at(self.paths.lines) is None:
            raise HandlerUnavailable(
                f"audit log '{self.paths.lines}' is not there, but its checkpoints are: put it back, or move all "
                "that is named like it away to begin a new log"
            )

    def _refuse_lacking_lines(self, log_id: str) -> None:
        """Refuse the log that lost lines if it still lacks signed ones."""
        if self._loss is None or self._loss.log_id != log_id:
            return
        lacking = self._loss.end.leaf_index - self.tree.covered
        if lacking > 0:
            raise HandlerUnavailable(
                f"audit log '{self.paths.lines}' lacks {lacking} lines that were signed as '{log_id}'"
            )

    def _open_again(self) -> None:
        """Go on with the files put in the place of a log that lost lines, or begin a new log.

        Files that lack an acknowledged line are refused: all of those are signed first, for the tree still knows their
        hashes.
        """
        file = self.file
        if self._loss is None:
            self.tree.write_checkpoint()
            if self.tree.uncovered:
                return
            self._loss = _Loss(file.problem, file.end, file.log_id)
        states = [self._disk.state_at(path) for path in astuple(self.paths)]
        if self._refusal is not None and self._refusal.states == states:
            return
        self.close()
        try:
            if states[0] is None and any(states):
                raise HandlerUnavailable("not all that is named like it was moved away")
            self.open()
        except HandlerUnavailable as error:
            file.lose(*self._loss)
            self._refuse(states, str(error))
            return
        self._loss = self._refusal = None
        self._report(
            f"audit log '{file.path}' goes on as '{file.log_id}', with {file.line_count} lines, signed as {self.vkey}"
        )

    def _refuse(self, states: Sequence[FileState | None], reason: str) -> None:
        """Remember the refused files; report a new reason, but not the first: that is about the damaged log itself."""
        if self._refusal is not None and self._refusal.reason != reason:
            self._report(
                f"the files now in the place of audit log '{self.file.path}' are not taken: {reason}"
            )
        self._refusal = _Refusal(states, reason)
