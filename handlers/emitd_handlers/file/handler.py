"""`FileHandler`: log lines in a file, one a line, which rotates by size and age.

The lines are appended to `path`. When it is due, the file gets the time of its rotation as a suffix, and a new one is
begun; the oldest beyond `rotate.keep` are removed. If something else moves the file away or cuts it, as logrotate does,
the handler goes on with what `path` leads to. With `delivery: committed` a reply waits until its lines are on the
medium. A write that fails is taken back, and its records are refused as retryable. Files in JSON can be read back:
see `read`.
"""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.durable.disk import Disk, write_all
from emitd_handlers.durable.file_identity import FileIdentity, make_folders
from emitd_handlers.errors import HandlerError, HandlerUnavailable
from emitd_handlers.file.read import BLOCK_BYTES, LineReader, old_files, rotated_name, scan
from emitd_handlers.log_source import LogPart, LogQuery
from emitd_handlers.outcome import Committed, Outcome
from emitd_handlers.record import LogRecord
from emitd_handlers.record_text import LineFormat, LineText, line_format
from emitd_handlers.settings import Delivery, HandlerSettings, PositiveInt, PositiveSeconds
from emitd_handlers.text.escape import escape_lines

NANOS_AN_HOUR = 3600 * 1_000_000_000
#: No file system takes a longer name.
MAX_NAME_BYTES = 255
#: A time of receipt that is later by more was not given by this service: an odd file must not move its clock.
MAX_SET_BACK_NANOS = 24 * NANOS_AN_HOUR
_COMMITTED = Committed()


class RotateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a file is rotated. It is looked at before each write."""

    #: A file that would become larger is rotated.
    bytes: PositiveInt = 32 * 1024 * 1024
    #: A file that was begun longer ago is rotated; None: only by size.
    hours: PositiveSeconds | None = None
    #: How many rotated files are kept.
    keep: Annotated[int, msgspec.Meta(ge=0)] = 10


class FileSettings(HandlerSettings, frozen=True, kw_only=True):
    """The keys of an entry of type `file`, besides the common ones."""

    #: The file. Missing folders are made with mode 0700, files with 0600.
    path: Path
    #: `json` with every field, or `text` as the console writes it, which cannot be read back.
    format: LineFormat = LineFormat.JSON
    #: With `text`: the time zone that times are shown in, by its IANA name.
    timezone: str = "UTC"
    rotate: RotateSettings = RotateSettings()

    def __post_init__(self) -> None:
        """Raise ValueError if `timezone` is unknown, or the name of a rotated file would be too long."""
        LineText(self.timezone, attributes=True)
        size = len(os.fsencode(rotated_name(self.path, 0).name))
        if size > MAX_NAME_BYTES:
            raise ValueError(
                f"path: the name of a rotated file would have {size} bytes, more than {MAX_NAME_BYTES}"
            )


class FileHandler(BaseLogHandler):
    """Appends records to a file, one a line. It keeps log lines to read, if they are in JSON (a `LogSource`)."""

    Settings: ClassVar[type[HandlerSettings]] = FileSettings
    settings: FileSettings
    emit = BaseLogHandler.emit_by_batch
    joins_calls = True

    def __init__(self, settings: FileSettings, *, name: str = "", disk: Disk | None = None) -> None:
        super().__init__(settings, name=name)
        #: Where the file is, to which the name in the settings may be a symbolic link.
        self._path = settings.path
        self._disk = disk or Disk()
        self._reader = LineReader(self._path)
        self._line = line_format(settings.format, settings.timezone, attributes=True)
        self._is_synced = self.delivery.kind is Delivery.COMMITTED
        self._fd = -1
        self._identity: FileIdentity | None = None
        #: When the file was begun, as far as one rotated before or its first line says; else when it was opened.
        self._begun_unix_nano = 0

    @property
    def keeps_lines(self) -> bool:
        """Whether its lines can be read back."""
        return self.settings.format is LineFormat.JSON

    def format(self, record: LogRecord) -> str:
        """Return the record's line, without a newline. Pure."""
        return self._line(record)

    async def start(self) -> None:
        """Open the file. Raises HandlerUnavailable if another process writes it, or it cannot be opened."""
        await super().start()
        try:
            await self.run_in_thread(self._open)
        except OSError as error:
            raise HandlerUnavailable(f"cannot open '{self._path}': {error.strerror or error}") from error

    async def stop(self) -> None:
        """Write what is under way, and close the file."""
        await super().stop()
        self._close()

    async def emit_batch(self, records: Sequence[LogRecord]) -> Sequence[Outcome]:
        """Write the records with one write."""
        self.refuse_if_stopped()
        lines: list[str] = []
        outcomes: list[Outcome] = []
        for record in records:
            try:
                lines.append(self.format(record))
            except Exception as error:
                outcomes.append(self.refusal(error))
            else:
                outcomes.append(_COMMITTED)
        try:
            await self.run_in_thread(self._append, escape_lines(lines))
        except OSError as error:
            problem = f"cannot write '{self._path}': {error.strerror or error}"
            self.report_health(problem)
            raise HandlerUnavailable(f"handler '{self.name}' {problem}") from error
        except HandlerError as error:
            self.report_health(str(error))
            raise
        self.report_health("")
        return outcomes

    async def read_lines(self, query: LogQuery) -> AsyncGenerator[LogPart, None]:
        """As `LogSource` says, from this file and those rotated before it."""
        try:
            async with aclosing(self._reader.read_parts(query)) as parts:
                async for part in parts:
                    yield part
        except OSError as error:
            raise HandlerUnavailable(f"cannot read '{self._path}': {error.strerror or error}") from error

    def _append(self, data: bytes) -> None:
        self._follow_name()
        size = self._disk.state(self._fd).size
        if size and self._is_due(size + len(data)):
            self._rotate()
            size = self._disk.state(self._fd).size
        if size and self._disk.read(self._fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # a line that a kill or a cut left without its end stays by itself
        try:
            write_all(self._disk, self._fd, data)
            if self._is_synced:
                self._disk.sync(self._fd)
        except OSError:
            with suppress(OSError):
                self._disk.truncate(self._fd, min(size, self._disk.state(self._fd).size))
            raise

    def _follow_name(self) -> None:
        """Open the file again if its name leads to another one, or to none."""
        # By the name as it was given: a link may lead elsewhere now.
        named = FileIdentity.of(self.settings.path, self._disk)
        if self._fd < 0 or named is None or named._replace(path=self._path) != self._identity:
            self._close()
            self._open()

    def _open(self) -> None:
        self._path = self._reader.path = Path(os.path.realpath(self.settings.path))
        make_folders(self._disk, self._path.parent)
        is_new = self._disk.state_at(self._path) is None
        fd = self._disk.open(self._path)
        if not self._disk.lock(fd):
            self._disk.close(fd)
            raise HandlerUnavailable(f"another process writes '{self._path}'")
        state = self._disk.state(fd)
        self._fd, self._identity = fd, FileIdentity(self._path, state.device, state.inode)
        if is_new:
            self._disk.sync_directory(self._path.parent)
        rotated = [stamp for stamp, _ in old_files(self._path)[-1:]]
        first = rotated or [block.first_unix_nano for block in islice(scan(fd, 0, state.size), 1)]
        last = [block.last_unix_nano for block in scan(fd, max(0, state.size - BLOCK_BYTES), state.size)]
        # No line is to come before those kept because the wall clock was set back since.
        now = self.clock.now()
        self.clock.resume(
            max([each for each in rotated + last if each < now + MAX_SET_BACK_NANOS], default=0)
        )
        self._begun_unix_nano = min([*first, now]) if state.size else now

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)

    def _is_due(self, size: int) -> bool:
        rotate = self.settings.rotate
        age = self.clock.now() - self._begun_unix_nano
        return size > rotate.bytes or (rotate.hours is not None and age > rotate.hours * NANOS_AN_HOUR)

    def _rotate(self) -> None:
        try:
            os.rename(self._path, rotated_name(self._path, self.clock.now()))
        except OSError as error:
            raise HandlerUnavailable(f"cannot rotate '{self._path}': {error.strerror or error}") from error
        self._close()
        self._open()
        rotated = old_files(self._path)
        for _, path in rotated[: max(0, len(rotated) - self.settings.rotate.keep)]:
            with suppress(OSError):  # it is tried again at the next rotation
                self._disk.remove(path)
