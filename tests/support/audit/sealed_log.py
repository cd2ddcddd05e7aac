"""A sealed audit log on disk, made without the handler: lines, hashes, checkpoints, keys, index."""

from collections.abc import Sequence
from pathlib import Path

from emitd_handlers.audit.format.files import AuditPaths, Entry, frame_note, pack_entry
from emitd_handlers.audit.format.line import encode_line
from emitd_handlers.audit.write.identity import new_key_pem, read_key
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.key_list import ListedKey, vouch
from emitd_handlers.tlog.merkle import Frontier, leaf_hash
from emitd_handlers.tlog.note import Signer

LOG_ID = "emitd.test/log"
TIME = 1_795_405_140_000_000_000


def make_line(
    number: int, *, user: str = "", time: int | None = None, source: str = "test", is_assigned: bool = False
) -> bytes:
    """Return the line of a made-up event, without its newline."""
    received = TIME + number * 1_000_000 if time is None else time
    event = AuditEvent(
        f"event-{number:06}",
        ("user.login.success", "user.login.failure", "playlist.create")[number % 3],
        user or f"user-{number % 7}",
        f"192.0.2.{number % 250}",
        f'{{"n":{number}}}',
    )
    return encode_line(
        LogRecord(
            Level.AUDIT,
            record_id=f"record-{number:06}",
            time_unix_nano=received,
            received_unix_nano=received,
            source=source,
            payload=event,
            assigned=("event_id",) if is_assigned else (),
        )
    )


class SealedLog:
    """Grows a log as the service would: lines, then their hashes, then a checkpoint."""

    def __init__(self, path: Path, *, log_id: str = LOG_ID, index_every: int = 16) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.paths = AuditPaths.of(path)
        self.log_id = log_id
        self.lines: list[bytes] = []
        #: The checkpoints so far, as notes.
        self.notes: list[bytes] = []
        self.signers: list[Signer] = []
        #: The newest private key; no file has it.
        self.key_pem = b""
        self._frontier = Frontier()
        self._index_every = index_every
        self._offset = 0
        self.paths.log_id.write_text(f"{log_id}\n")
        path.touch()
        self.rotate_key()

    @property
    def vkeys(self) -> list[str]:
        """The public keys, the newest last."""
        return [signer.verifier.vkey for signer in self.signers]

    def rotate_key(self, *, is_vouched: bool = True) -> None:
        """Sign with a new key from now on; the one before vouches for it, unless told otherwise."""
        pem = new_key_pem()
        signer = Signer(self.log_id, read_key(pem))
        is_first = not self.signers
        key = ListedKey(signer.verifier) if is_first or not is_vouched else vouch(self.signers[-1], signer)
        self.signers.append(signer)
        self.key_pem = pem
        with self.paths.vkey.open("w" if is_first else "a") as file:
            file.write(f"{key.line}\n")

    def append(self, lines: Sequence[bytes], *, hashes: bool = True) -> None:
        """Append lines, and their hashes unless told otherwise."""
        entries = []
        for line in lines:
            if hashes and len(self.lines) and len(self.lines) % self._index_every == 0:
                entries.append(Entry(len(self.lines), self._offset))
            self.lines.append(line)
            self._offset += len(line) + 1
        with self.path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))
        if hashes:
            with self.paths.hashes.open("ab") as file:
                file.write(b"".join(self._frontier.extend([leaf_hash(line) for line in lines])))
        if entries:
            with self.paths.index.open("ab") as file:
                file.write(b"".join(map(pack_entry, entries)))

    def checkpoint(self) -> bytes:
        """Sign the log as it stands; return the note."""
        checkpoint = Checkpoint(self.log_id, self._frontier.size, self._frontier.root())
        note = self.signers[-1].sign(checkpoint.text())
        self.notes.append(note)
        with self.paths.checkpoints.open("ab") as file:
            file.write(frame_note(note))
        return note

    def root(self) -> bytes:
        """Return the root of the tree over all lines whose hashes are stored."""
        return self._frontier.root()

    @classmethod
    def make(cls, path: Path, *sizes: int) -> "SealedLog":
        """Return a log with a checkpoint at each of the sizes."""
        log = cls(path)
        for size in sizes:
            log.append([make_line(number) for number in range(len(log.lines), size)])
            log.checkpoint()
        return log
