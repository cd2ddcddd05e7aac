"""`DropReport`: what a client dropped, and why, until the service knows of it.

Each kind of drop becomes a log line of its own when one can be sent. Drops are also told on standard error, but not
more often than `report_interval`.
"""

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from emitd.records.encoding import attributes_as_json
from emitd.records.ids import next_record_id
from emitd.v1 import record_pb2 as pb

__all__ = ["Drop", "DropReport", "drop_record"]


class Drop(NamedTuple):
    """So many records of one level that were dropped for one cause."""

    cause: str
    level: int
    records: int
    first_unix_nano: int
    last_unix_nano: int
    #: The last error, where there was one.
    why: str


class DropReport:
    """For any thread."""

    def __init__(self, source: str, report_interval: float) -> None:
        self._source = source
        self._report_interval = report_interval
        self._lock = threading.RLock()
        self._drops: dict[tuple[str, int], Drop] = {}
        #: By cause: how many, and the last error.
        self._untold: dict[str, tuple[int, str]] = {}
        self._last_told: float | None = None

    def add(self, cause: str, level: int, count: int = 1, why: str = "") -> None:
        """Note that records were dropped."""
        now = time.time_ns()
        self._merge(Drop(cause, level, count, now, now, why))
        with self._lock:
            untold, last = self._untold.get(cause, (0, ""))
            self._untold[cause] = (untold + count, why or last)
        self.tell()

    def _merge(self, drop: Drop) -> None:
        with self._lock:
            key = (drop.cause, drop.level)
            known = self._drops.get(key, drop._replace(records=0))
            self._drops[key] = Drop(
                drop.cause,
                drop.level,
                known.records + drop.records,
                min(known.first_unix_nano, drop.first_unix_nano),
                max(known.last_unix_nano, drop.last_unix_nano),
                drop.why or known.why,
            )

    def take(self) -> Sequence[Drop]:
        """Return what the service does not know yet. Give back with `put_back` what could not be sent."""
        if not self._drops:
            return ()
        with self._lock:
            drops = list(self._drops.values())
            self._drops.clear()
            return drops

    def put_back(self, drops: Sequence[Drop]) -> None:
        """Keep drops that were taken and not sent."""
        for drop in drops:
            self._merge(drop)

    def __bool__(self) -> bool:
        return bool(self._drops)

    def tell(self, *, now: bool = False) -> None:
        """Say on standard error what was dropped and not said yet, if it is time, or `now`."""
        moment = time.monotonic()
        with self._lock:
            is_early = self._last_told is not None and moment - self._last_told < self._report_interval
            if not self._untold or (is_early and not now):
                return
            untold, self._untold = self._untold, {}
            self._last_told = moment
        for cause, (count, why) in untold.items():
            last = f" (last: {_printable(why)})" if why else ""
            say(f"{self._source}: dropped {count} record{'s' * (count != 1)}: {cause}{last}")


def drop_record(drop: Drop, source: str) -> bytes:
    """Return the log line that tells of a drop, serialised."""
    level = pb.Level.Name(drop.level).removeprefix("LEVEL_")
    attributes = {
        "dropped.count": drop.records,
        "dropped.cause": drop.cause,
        "dropped.level": level,
        "dropped.source": source,
        "dropped.from": _moment(drop.first_unix_nano),
        "dropped.to": _moment(drop.last_unix_nano),
    }
    if drop.why:
        attributes["dropped.error"] = drop.why
    record = pb.LogRecord(
        record_id=next_record_id(),
        time_unix_nano=time.time_ns(),
        level=pb.LEVEL_WARNING,
        message=f"the client dropped {drop.records} {level} record{'s' * (drop.records != 1)}: {drop.cause}",
        source=source,
        attributes_json=attributes_as_json(attributes).decode(),
    )
    return record.SerializeToString()


def say(text: str) -> None:
    """Print one line on standard error, if there is one."""
    if sys.stderr is None:  # a daemon, or a window: `print` would take standard output instead
        return
    with suppress(OSError, ValueError, AttributeError):  # closed, or something of the program's own
        sys.stderr.write(f"emitd: {text}\n")  # in one go: several threads say something
        sys.stderr.flush()


def _printable(text: str) -> str:
    """Return an error, in which a record's own text may stand, without what would begin another line."""
    return "".join([sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text])


def _moment(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).isoformat(timespec="milliseconds")
