"""`SpoolManager`: a client's spools in one process, its own and those it adopted, and the thread that sends from them.

A spool is made for the first record that needs one. It is replayed in order, one batch at a time; a record that the
service refuses for good is put aside. What is left when the client is closed is sent by the next process.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from google.protobuf.message import DecodeError

from emitd.errors import Unavailable
from emitd.runtime import fork_guards
from emitd.runtime.backoff import Backoff
from emitd.runtime.diagnostics import report_fault, report_line
from emitd.runtime.threads import Senders, TimeLeft
from emitd.settings import ClientSettings, expand_home
from emitd.spool.database import Spooled
from emitd.spool.files import SpoolError, SpoolFull, default_folder
from emitd.spool.spool import Spool, adopt_orphans
from emitd.transport.reply import Reply
from emitd.v1 import record_pb2 as pb

OFF = "off"
#: The longest pause between two tries.
REPLAY_PAUSE_SECONDS = 5.0
#: How often records are tried again that their sender lacks a right for. Until then the others pass them.
DENIED_SECONDS = 30.0
#: How often to look for what other processes left behind.
ADOPT_INTERVAL_SECONDS = 60.0

Send: TypeAlias = Callable[[Sequence[bytes]], Reply]
#: Called for each record that the service refused for good, with cause, level and error.
OnDrop: TypeAlias = Callable[[str, int, str], None]


class SpoolManager:
    """For any thread."""

    def __init__(self, settings: ClientSettings, send: Send, on_drop: OnDrop, time_left: TimeLeft) -> None:
        self._settings = settings
        self._send = send
        self._on_drop = on_drop
        self._time = time_left
        self._backoff = Backoff(settings.backoff_initial, max(settings.backoff_max, REPLAY_PAUSE_SECONDS))
        self._lock = threading.RLock()
        self._own: Spool | None = None
        self._adopted: list[Spool] = []
        self._replay = Senders("emitd-replay", self._run, 1)
        self._closing = threading.Event()
        #: Something may have come to be sent.
        self._woken = threading.Event()
        #: What was said of spools that cannot be used, so that it is said once.
        self._said: set[str] = set()
        #: Of each spool, the number up to which all that wait were denied, and how many they are; and until when.
        self._passed: dict[Spool, tuple[int, int]] = {}
        self._pass_until = 0.0
        self._is_paused = False
        self._has_said_without = False
        self._replayed = 0

    def start(self) -> bool:
        """Send what earlier processes left behind, if they did; return False if it has to be tried again."""
        folder = self._folder()
        return folder is None or not os.path.isdir(folder) or self._replay.start()

    def append(self, records: Sequence[bytes]) -> None:
        """Put records on the disk. Raises Unavailable if that cannot be."""
        try:
            spool = self._open()
            try:
                spool.append(records)
            except SpoolFull:
                raise
            except SpoolError:  # such as one whose file was cleaned away
                self._replace(spool).append(records)
        except Unavailable:
            raise
        except Exception as error:  # a SpoolError, or no memory
            raise Unavailable(str(error) or repr(error)) from error
        if not self._closing.is_set():
            self._woken.set()
            self._replay.start()

    def stats(self) -> Mapping[str, int]:
        """Return what waits on the disk, and how many records were sent from there."""
        spools = self._spools()
        return {
            "replayed": self._replayed,
            "spool_records": sum([len(spool) for spool in spools]),
            "spool_bytes": sum([spool.size_bytes for spool in spools]),
            "spool_rejected": sum([spool.rejected_count for spool in spools]),
        }

    def close_replay(self) -> None:
        """Send what there is while the service takes it and there is time, and then end."""
        self._closing.set()
        self._woken.set()

    def join(self, deadline: float) -> bool:
        """Wait until all is sent or the service takes no more, or until the deadline (monotonic); return which."""
        return self._replay.join(deadline)

    def close(self) -> None:
        """Close the files. What is in them waits for the next process, as does what is appended even later."""
        with self._lock:
            self._adopted, self._own = list(self._spools()), None
        for spool in self._adopted:
            spool.close()

    def pause(self, seconds: float) -> None:
        """Keep all threads out of SQLite for the time of a fork."""
        self._is_paused = fork_guards.sqlite_gate.acquire(timeout=seconds)

    def resume(self) -> None:
        """End the pause, in the parent."""
        if self._is_paused:
            fork_guards.sqlite_gate.release()

    def leave_to_parent(self) -> None:
        """Have nothing to do with the files, in a forked child."""
        for spool in self._spools():
            spool.leave_to_parent()

    def _spools(self) -> Sequence[Spool]:
        own = self._own
        return [*self._adopted, *(() if own is None else (own,))]

    def _folder(self) -> Path | None:
        if self._settings.spool == OFF:
            return None
        try:
            given = expand_home(self._settings.spool)
            return Path(given) if given else default_folder(os.environ)
        except SpoolError as error:
            self._do_without(error)
            return None

    def _open(self) -> Spool:
        """Return this process's own spool. Raises Unavailable where there can be none."""
        with self._lock:
            folder = None if self._own is not None else self._folder()
            if folder is not None:
                try:
                    self._own = Spool.create(folder, self._settings.address, self._settings.max_spool_bytes)
                except SpoolError as error:
                    self._do_without(error)
            if self._own is None:
                raise Unavailable("there is no spool")
            return self._own

    def _replace(self, spool: Spool) -> Spool:
        """Return another spool of this process for one that takes no more records; those it has are still sent."""
        with self._lock:
            if self._own is spool:
                self._own = None
                self._adopted.append(spool)
            new = self._open()
            if spool.is_displaced():
                self._move(spool, new)
            return new

    def _move(self, spool: "Spool", new: "Spool") -> None:
        """Move the records of a spool that no process would find into another one; what does not fit stays there."""
        count = 0
        with suppress(SpoolError):
            while batch := spool.first(self._settings.batch_records, self._settings.batch_bytes):
                new.append([record for _, record in batch])
                spool.delete([number for number, _ in batch])
                count += len(batch)
        self._say_once(
            f"the spool {spool.path} was deleted or replaced: its {count} records are now in {new.path}"
        )

    def _do_without(self, error: Exception) -> None:
        if not self._has_said_without:
            self._has_said_without = True
            report_line(f"{self._settings.source}: there is no spool: {error}")

    def _run(self) -> None:
        """Adopt what is orphaned and send until nothing waits, whenever something came, and now and then.

        Once it is closing, the first try that brings nothing ends it.
        """
        while True:
            self._woken.clear()
            pause = ADOPT_INTERVAL_SECONDS
            try:
                self._adopt()
                self._send_all()
            except Exception as error:
                report_fault("internal error while the spool is sent", error)
                pause = REPLAY_PAUSE_SECONDS
            if self._closing.is_set():
                return
            self._woken.wait(min(pause, DENIED_SECONDS) if self._passed else pause)

    def _send_all(self) -> None:
        attempts = 0
        if time.monotonic() >= self._pass_until:
            self._passed.clear()
            self._pass_until = time.monotonic() + DENIED_SECONDS
        while self._time.seconds() > 0 and (spool := self._next()) is not None:
            pause = self._send_batch(spool, attempts)
            attempts = 0 if pause is None else attempts + 1
            if pause is not None and self._closing.wait(min(pause, threading.TIMEOUT_MAX)):
                return

    def _adopt(self) -> None:
        folder = self._folder()
        if folder is None or not os.path.isdir(folder):
            return
        target, max_bytes = self._settings.address, self._settings.max_spool_bytes
        try:
            found = adopt_orphans(folder, target, max_bytes, self._say_once)
        except SpoolError as error:
            self._say_once(str(error))
            return
        with self._lock:
            self._adopted += found

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            report_line(f"{self._settings.source}: {line}")

    def _next(self) -> Spool | None:
        """Return a spool with something to send; close the adopted ones that have nothing more."""
        with self._lock:
            own = self._own
            if own is not None and len(own) and own.is_displaced():
                with suppress(OSError, SpoolError, Unavailable):  # they are still sent from where they are
                    self._replace(own)
            for spool in list(self._adopted):
                if not len(spool):
                    self._adopted.remove(spool)
                    spool.close()
        return next(
            (spool for spool in self._spools() if len(spool) > self._passed.get(spool, (0, 0))[1]), None
        )

    def _send_batch(self, spool: Spool, attempts: int) -> float | None:
        """Send the oldest records; return how long to wait before the next try, None: it went well."""
        try:
            after = self._passed.get(spool, (0, 0))[0]
            batch = spool.first(self._settings.batch_records, self._settings.batch_bytes, after)
            return self._exchange(spool, batch, attempts)
        except SpoolError as error:
            self._say_once(str(error))
            return self._backoff.pause(attempts + 1)

    def _exchange(self, spool: Spool, batch: Sequence[Spooled], attempts: int) -> float | None:
        reply = self._send([spooled.record for spooled in batch])
        if reply.divide is not None:
            if len(batch) > 1:  # the rest comes with the next batch
                return self._exchange(spool, batch[: len(batch) // 2], attempts)
            reply = Reply(rejected={0: reply.divide})
        if reply.is_call_refused:  # until the service, or this client, is configured as it should be
            self._say_once(f"the spool waits: {reply.rejected[0]}")
            return self._backoff.pause(attempts + 1)
        for index, error in reply.rejected.items():
            spool.reject(batch[index].number, str(error))
            self._on_drop("refused", _level_of(batch[index].record), str(error))
        resolved = reply.again.keys() | reply.rejected.keys()
        accepted = [spooled.number for index, spooled in enumerate(batch) if index not in resolved]
        spool.delete(accepted)
        self._replayed += len(accepted)
        if not reply.again:
            return None
        if reply.denied == reply.again.keys():
            self._passed[spool] = batch[-1].number, self._passed.get(spool, (0, 0))[1] + len(reply.denied)
            return None if accepted else 0.0
        return self._backoff.pause(attempts + 1, max([delay for _, delay in reply.again.values()]))


def _level_of(record: bytes) -> int:
    try:
        message = pb.LogRecord.FromString(record)
    except DecodeError:  # which may be why it was refused
        return pb.LEVEL_UNSPECIFIED
    match message.WhichOneof("payload"):
        case "audit":
            return pb.LEVEL_AUDIT
        case "job":
            return pb.LEVEL_JOB_STATUS
        case _:
            return message.level
