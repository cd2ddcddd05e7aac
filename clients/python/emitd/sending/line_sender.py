"""`LineSender`: sends batches of log lines until each line is accepted, dropped or spooled.

    Line ─> Item: serialised once ─> a call ─┬─> accepted
                                   ^         ├─> refused for good, or no time is left ─> drop_report, or spool
                                   └─────────┴─> worth another try

The report of drops goes with the lines.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from emitd.errors import EmitError, RecordRejected
from emitd.records.encoding import as_text, encode_attributes
from emitd.runtime.diagnostics import report_fault
from emitd.runtime.threads import TimeLeft
from emitd.sending.line_queue import Line
from emitd.sending.stats import ClientStats, Drop, DropReport, drop_record
from emitd.settings import ClientSettings
from emitd.spool.manager import SpoolManager
from emitd.transport.reply import Reply
from emitd.v1 import record_pb2 as pb

#: With `spool_records="all"`, log lines are spooled after this many tries.
TRIES_BEFORE_SPOOLING = 3
#: The field of a record that is not worth losing its line for.
ATTRIBUTES = "attributes_json"
#: So much is kept of attributes that the service refuses: for their size, their depth, or a key that stands twice.
MAX_REFUSED_CHARACTERS = 8_000


class Item(NamedTuple):
    """A log line on its way, serialised; or the line that reports a drop."""

    record: bytes
    level: int
    drop: Drop | None = None
    #: Its attributes were refused, and are a text now.
    is_mended: bool = False


class LineSender:
    """For any thread."""

    def __init__(
        self,
        settings: ClientSettings,
        send: Callable[[Sequence[bytes]], Reply],
        *,
        time_left: TimeLeft,
        stats: ClientStats,
        drop_report: DropReport,
        spool: SpoolManager,
        on_drop: Callable[..., None],
    ) -> None:
        """Drop by `on_drop`: with the cause, the level, and the error and the number of lines if they are given."""
        self._source = settings.source
        self._spools_lines = settings.spool_records == "all"
        self._backoff = settings.backoff
        self._send = send
        self._time = time_left
        self._stats = stats
        self._drop_report = drop_report
        self._spool = spool
        self._on_drop = on_drop

    def deliver(self, lines: Sequence[Line]) -> None:
        """Send the reports of drops, then lines; return when each line has its fate."""
        told = [Item(drop_record(drop, self._source), drop.level, drop) for drop in self._drop_report.take()]
        self._deliver([*told, *self._items(lines)])

    def give_up(self, lines: Sequence[Line], why: str) -> None:
        """Spool lines that no sender took, if lines are spooled; else drop them."""
        self._give_up(self._items(lines), why)

    def leave_word(self) -> None:
        """Put the reports of drops into the spool."""
        drops = self._drop_report.take()
        if not drops:
            return
        try:
            self._spool.append([drop_record(drop, self._source) for drop in drops])
        except EmitError:
            self._drop_report.put_back(drops)

    def _items(self, lines: Sequence[Line]) -> Sequence[Item]:
        """Return lines as items, but those that cannot be serialised, which are dropped."""
        items: list[Item] = []
        for line in lines:
            try:
                items.append(self._item(line))
            except Exception as error:
                report_fault("internal error, a record is dropped", error)
                self._on_drop("internal_error", line.level, repr(error))
        return items

    def _item(self, line: Line) -> Item:
        message = line.message
        try:
            message.encode()
        except UnicodeEncodeError:
            message = as_text(message)
        record = pb.LogRecord(
            record_id=line.record_id,
            time_unix_nano=line.time_unix_nano,
            level=line.level,  # type: ignore[arg-type]
            message=message,
            source=self._source,
            attributes_json=line.attributes_json,  # type: ignore[arg-type]
            trace_id=line.trace_id,
            span_id=line.span_id,
        )
        return Item(record.SerializeToString(), line.level)

    def _deliver(self, items: Sequence[Item]) -> None:
        attempts = 0
        while items:
            reply = self._try(items)
            if reply.divide is not None and len(items) == 1:
                self._refuse(items[0], reply.divide)
                return
            if reply.divide is not None:
                self._deliver(items[: len(items) // 2])
                self._deliver(items[len(items) // 2 :])
                return
            again = self._resolve(items, reply)
            attempts = attempts + 1 if len(again) == len(items) else 1
            items = again
            at_least = max([delay for _, delay in reply.again.values()], default=0.0)
            if items and not self._time.pause(self._backoff.pause(attempts, at_least)):
                self._give_up(items, next(iter(reply.again.values()))[0])
                return
            if attempts >= TRIES_BEFORE_SPOOLING and self._spool_lines(items):
                return

    def _try(self, items: Sequence[Item]) -> Reply:
        try:
            return self._send([item.record for item in items])
        except BaseException:  # a KeyboardInterrupt in a thread that sends for itself
            self._give_up(items, "interrupted")
            raise

    def _resolve(self, items: Sequence[Item], reply: Reply) -> Sequence[Item]:
        """Count what is resolved; return what is worth another try."""
        for index, error in reply.rejected.items():
            self._refuse(items[index], error)
        self._stats.add_accepted_lines(len(items) - len(reply.rejected) - len(reply.again))
        # Those that their sender lacks a right for do not wait here: they would hold up all others.
        if reply.denied and not self._spool_lines([items[index] for index in sorted(reply.denied)]):
            for index in reply.denied:
                self._refuse(items[index], RecordRejected(reply.again[index][0]))
        return [items[index] for index in reply.again if index not in reply.denied] if reply.again else ()

    def _refuse(self, item: Item, error: EmitError) -> None:
        if error.field == ATTRIBUTES and not item.is_mended:
            self._deliver([item._replace(record=_mended(item.record, error), is_mended=True)])
        elif item.drop is None:  # one that tells of a drop makes no other
            self._on_drop("refused", item.level, str(error))

    def _give_up(self, items: Sequence[Item], why: str) -> None:
        if self._spool_lines(items):
            return
        self._drop_report.put_back([item.drop for item in items if item.drop is not None])
        levels = Counter([item.level for item in items if item.drop is None])
        for level, count in levels.items():
            self._on_drop("at_close", level, why, count)

    def _spool_lines(self, items: Sequence[Item]) -> bool:
        """Spool lines, where these are spooled; return whether they are."""
        if not items or not self._spools_lines:
            return False
        try:
            self._spool.append([item.record for item in items])
        except EmitError:
            return False
        self._stats.add("spooled", len(items))
        return True


def _mended(record: bytes, error: EmitError) -> bytes:
    """Return a line with the beginning of its attributes as one text, and why the service refused them."""
    line = pb.LogRecord.FromString(record)
    told = {
        "attributes.refused": str(error),
        "attributes.text": line.attributes_json[:MAX_REFUSED_CHARACTERS],
    }
    line.attributes_json = encode_attributes(told)
    return line.SerializeToString()
