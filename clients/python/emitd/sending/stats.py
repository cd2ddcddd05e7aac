"""What became of a client's records: `ClientStats` counts them by fate, `DropReport` reports what was dropped.

Each kind of drop becomes a log line when one can be sent. Drops are also reported on standard error, at most once in
`report_interval`.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from emitd.records.audit import next_record_id
from emitd.records.encoding import attributes_as_json
from emitd.records.levels import level_name
from emitd.runtime.diagnostics import report_line
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply
from emitd.v1 import record_pb2 as pb

__all__ = ["ClientStats", "Confirmations", "Drop", "DropReport", "drop_record"]


class ClientStats:
    """For any thread. docs/client.md explains the fates."""

    def __init__(self, settings: ClientSettings) -> None:
        # Reentrant: a finalizer that logs may run in a thread that is in here already.
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter(sent=0, unconfirmed=0)
        self._confirmations = Confirmations(settings.unconfirmed_seconds, settings.unconfirmed_records)
        self._has_one_server = "," not in settings.address and ":///" not in settings.address

    def add(self, fate: str, records: int) -> None:
        """Count records."""
        if records:
            with self._lock:
                self._counts[fate] += records

    def add_accepted_lines(self, lines: int) -> None:
        """Count lines that the service has, but may have in a queue only."""
        if lines:
            with self._lock:
                self._counts["sent"] += lines
                self._confirmations.accepted(lines)

    def note(self, reply: Reply, records: int) -> None:
        """Count what the answer to a call of `records` records, or its failure, says of earlier ones."""
        with self._lock:
            if reply.is_broken:
                at_risk = self._confirmations.broke()
            else:
                at_risk = self._confirmations.answered(reply.server_id, has_one_server=self._has_one_server)
            if reply.may_have_arrived:
                self._counts["resent"] += records
            self._counts["sent"] -= at_risk
            self._counts["unconfirmed"] += at_risk

    def counts(self) -> Mapping[str, int]:
        """Return all counts, by fate."""
        with self._lock:
            return dict(self._counts)


class Confirmations:
    """Counts the log lines that were accepted shortly before the server died: `unconfirmed`.

    An accepted line stands in a queue of the service; the client does not learn when it leaves. For one thread at a
    time.
    """

    def __init__(self, seconds: float, max_lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Lines are at risk for `seconds`; the last `max_lines` at most: what fits a server's queue."""
        self._seconds = seconds
        self._max_lines = max_lines
        self._clock = clock
        self._accepted: deque[tuple[float, int]] = deque()
        self._server_id = 0

    def accepted(self, lines: int) -> None:
        """Note that lines were accepted, now."""
        self._accepted.append((self._clock(), lines))
        self._forget_old()

    def answered(self, server_id: int, *, has_one_server: bool) -> int:
        """Note who answered; return how many lines are unconfirmed because another had answered before."""
        before, self._server_id = self._server_id, server_id or self._server_id
        if has_one_server and before and server_id and before != server_id:
            return self.broke()
        return 0

    def broke(self) -> int:
        """Return how many lines are unconfirmed because the connection broke, once."""
        self._forget_old()
        at_risk = min(sum(lines for _, lines in self._accepted), self._max_lines)
        self._accepted.clear()
        return at_risk

    def _forget_old(self) -> None:
        oldest = self._clock() - self._seconds
        while self._accepted and self._accepted[0][0] < oldest:
            self._accepted.popleft()


class Drop(NamedTuple):
    """Records of one level that were dropped for one cause."""

    cause: str
    level: int
    records: int
    first_unix_nano: int
    last_unix_nano: int
    #: The last error, where there was one.
    why: str


class DropReport:
    """What was dropped, until the service knows of it. For any thread."""

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
        """Report the drops that were not reported yet, if it is time, or `now`."""
        moment = time.monotonic()
        with self._lock:
            is_early = self._last_told is not None and moment - self._last_told < self._report_interval
            if not self._untold or (is_early and not now):
                return
            untold, self._untold = self._untold, {}
            self._last_told = moment
        for cause, (count, why) in untold.items():
            last = f" (last: {why})" if why else ""
            report_line(f"{self._source}: dropped {count} record{'s' * (count != 1)}: {cause}{last}")


def drop_record(drop: Drop, source: str) -> bytes:
    """Return the log line that reports a drop, serialised."""
    level = level_name(drop.level)
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


def _moment(unix_nano: int) -> str:
    return datetime.fromtimestamp(unix_nano / 1e9, UTC).isoformat(timespec="milliseconds")
