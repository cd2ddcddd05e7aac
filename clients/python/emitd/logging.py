"""`EmitdHandler`: sends what a program logs by Python's `logging`.

    logging.getLogger().addHandler(EmitdHandler(source="shop"))             # with a client of its own
    logging.getLogger().addHandler(EmitdHandler(client))                    # with yours
    queue_handler.addFilter(keep_context)                                   # behind a QueueHandler

docs/client.md has a table of what each part of a record becomes. Attributes of `emitd.log_context` and the current span
of OpenTelemetry come with it. No call waits: a record for which the queue has no room is dropped and counted, also
where the client's direct calls would block.
"""

import copy
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Unpack

import msgspec

from emitd.base_client import LogVerbs, MoreSettings
from emitd.client import LogClient
from emitd.context import current_attributes, current_span
from emitd.records.encoding import as_text
from emitd.records.exceptions import exception_attributes, exception_of, stack_text
from emitd.records.levels import level_number
from emitd.runtime import process_hooks
from emitd.runtime.threads import MAX_NESTING, is_sender, making
from emitd.settings import ClientSettings

__all__ = ["EmitdHandler", "keep_context"]

_FIVE: Mapping[object, int] = {level: level for level in (10, 20, 30, 40, 50)}
#: What every record has, in this order; and what formatters add.
_STANDARD = tuple(logging.LogRecord("", 0, "", 0, "", None, None).__dict__)
_BEFORE_LAST, _LAST = len(_STANDARD) - 1, _STANDARD[-1]
#: Where `keep_context` keeps it.
_KEPT = "emitd_context"
_FORMATTED = frozenset({"message", "asctime", _KEPT})
_OWN = _FORMATTED.union(_STANDARD)


def keep_context(record: logging.LogRecord) -> bool:
    """Keep, as a filter of a QueueHandler, what only the thread that makes a record knows: for the EmitdHandler behind.

    That is the attributes of `log_context`, the span, the exception, and the message without it. Lets all records pass.
    """
    with suppress(Exception):  # arguments that do not fit: the QueueHandler says so
        kept = {**current_attributes(), **dict(_stacks(record))}
        record.__dict__.setdefault(_KEPT, (record.getMessage(), kept, current_span()))
    return True


class EmitdHandler(logging.Handler):
    """For any logger and any thread.

    Formatters of the class `logging.Formatter` are not used, `basicConfig` gives one to every handler: what they would
    write into the text are fields of their own. One of another class makes the message, without the exception.

    Records made by the client's own threads are left out, or sending would make more to send.
    """

    def __init__(
        self,
        client: LogVerbs | None = None,
        *,
        level: int | str = logging.NOTSET,
        location: bool = False,
        thread: bool = False,
        address: str | None = None,
        source: str | None = None,
        **settings: Unpack[MoreSettings],
    ) -> None:
        """Send by `client`, a LogClient or AsyncLogClient; None: by one of its own, shared by handlers alike.

        That takes its settings from the arguments, else from the environment, else the defaults, as LogClient does.
        `location` adds where the call stands (`code.file.path`, `code.line.number`, `code.function.name`), `thread`
        adds `thread.name`. Raises ValueError naming a setting that is wrong, TypeError for settings next to a client.
        """
        given = {"address": address, "source": source, **settings}
        if client is not None:
            _refuse_both(client, given)
        self._settings = ClientSettings.read(given) if client is None else None
        # Not before: at its end `logging` flushes and closes every handler that it knows, also one that was refused.
        super().__init__(level)
        self._has_more = location or thread
        self._location = location
        self._thread = thread
        self._shared: SharedClient | None = None
        if self._settings is not None:
            self._join(self._settings)
        elif client is not None:
            self._use(client)

    @property
    def client(self) -> LogVerbs:
        """The client that sends, such as for its `stats`."""
        return self._client

    def createLock(self) -> None:  # noqa: N802
        """Have no lock: the client's queue has its own."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Send a record that the filters let pass. Returns whether they did."""
        depth = making.depth
        if is_sender():
            return False
        if depth >= MAX_NESTING:
            self._engine.drop("nested", level_number(record.levelno))
            return False
        making.depth = depth + 1
        try:
            if self.filters:
                passed = self.filter(record)
                if not passed:
                    return False
                if isinstance(passed, logging.LogRecord):  # from Python 3.12 on
                    record = passed
            self.emit(record)
            return True
        finally:
            making.depth = depth

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. Never raises."""
        try:
            level = _FIVE.get(record.levelno) or level_number(record.levelno)
            if level < self._threshold:
                return
            if self._settings is not None and self._engine.is_closed:
                self._join(self._settings)
            attributes = self._attributes(record)
            formatter = self.formatter
            kept, span = record.__dict__.get(_KEPT), None
            try:
                if kept is not None:
                    message, context, span = kept
                    attributes = {**context, **attributes}
                elif formatter is None or type(formatter) is logging.Formatter:
                    message = record.getMessage()
                else:
                    message = _format_bare(formatter, record)
            except Exception:  # arguments that do not fit, or somebody's __str__
                self._complain(record)
                message = as_text(record.msg)
                attributes["args"] = record.args
            self._engine.write(
                level, message, attributes, may_block=False, time_unix_nano=_time_unix_nano(record), span=span
            )
        except Exception:
            self._complain(record)

    def flush(self) -> None:
        """Have the queue sent now. Does not wait: that is what the client's `flush` is for."""
        self._engine.lines.wake_if_free()

    def close(self) -> None:
        """Let an own client end, in the background. Does not wait: that is what the end of the program is for.

        A handler that is used nevertheless goes on, as files do: `dictConfig` also closes those that it leaves be.
        """
        self.flush()
        if self._shared is not None:
            self._shared.leave(self)
        super().close()

    def _join(self, settings: ClientSettings) -> None:
        self._shared = SharedClient.join(settings, self)
        self._use(self._shared.client)

    def _use(self, client: LogVerbs) -> None:
        self._bound = client._bound
        self._threshold = client._threshold
        self._client = client
        self._engine = client._engine

    def _attributes(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the attributes of a record. The names of its caller win."""
        members = record.__dict__
        attributes: dict[str, object] = {"logger.name": record.name, **self._bound}
        if record.exc_info or record.exc_text or record.stack_info:
            attributes.update(_stacks(record))
        if record.levelno not in _FIVE:
            attributes["level"] = record.levelname
        if self._has_more:
            attributes.update(self._more(record))
        for name in _further(members):
            attributes[name] = members[name]
        return attributes

    def _more(self, record: logging.LogRecord) -> Iterator[tuple[str, object]]:
        if self._location:
            yield "code.file.path", record.pathname
            yield "code.line.number", record.lineno
            yield "code.function.name", record.funcName
        if self._thread:
            yield "thread.name", record.threadName

    def _complain(self, record: logging.LogRecord) -> None:
        """Say what is wrong as `logging.raiseExceptions` wants it."""
        with suppress(Exception):  # its own way to print a record that cannot be printed
            self.handleError(record)


def _refuse_both(client: object, given: Mapping[str, object]) -> None:
    if not isinstance(client, LogVerbs):
        raise TypeError(f"client: must be a LogClient or an AsyncLogClient, not {type(client).__name__}")
    if names := [name for name, value in given.items() if value is not None]:
        raise TypeError(f"{names[0]}: is a setting of the client, which is given")


def _format_bare(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the text of a record without its exception and stack, which are attributes."""
    bare = copy.copy(record)
    bare.exc_info = bare.exc_text = bare.stack_info = None
    return formatter.format(bare)


def _further(members: Mapping[str, object]) -> Iterable[str]:
    """Return the names that came by `extra`, or from filters and record factories."""
    # Hot path: as long as the standard ones are the first, which is nearly always, it takes a third of the time.
    names = islice(members, _BEFORE_LAST, None)
    if next(names, None) == _LAST:
        return [name for name in names if name not in _FORMATTED]
    return [name for name in members if name not in _OWN]


def _time_unix_nano(record: logging.LogRecord) -> int:
    """Return when a record was made; 0, for now, where it says nothing that makes sense."""
    try:
        moment = int(record.created * 1e6 + 0.5) * 1000
    except (TypeError, ValueError, OverflowError):
        return 0
    return moment if 0 < moment < 1 << 63 else 0


def _stacks(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    error = exception_of(record.exc_info)
    if error is not None:
        yield from exception_attributes(error).items()
    elif record.exc_text:  # from a QueueHandler or a socket, which leave the exception itself behind
        yield "exception.stacktrace", stack_text(record.exc_text)
    if record.stack_info:
        yield "code.stacktrace", stack_text(record.stack_info)


#: How long a client is kept that has no user: for the next configuration, and for records on their way to it.
IDLE_SECONDS = 1.0

_shared: dict[ClientSettings, "SharedClient"] = {}


class SharedClient:
    """A client that handlers make for themselves: one for all handlers with the same settings. For forked children too.

    `dictConfig` closes all handlers while it holds the lock of `logging`, and then makes others. So a handler leaves
    its client without waiting, and a client without users is closed a while later, in the background. A handler that is
    used even then, because `dictConfig` left its logger alone, gets another client.

    Nothing here takes a lock: a thread that holds one may log, and then wait for that of `logging`. If threads meet,
    there is a client too many, or a closed one; both are noticed.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.client = LogClient(**msgspec.structs.asdict(settings))
        self._users: set[int] = set()

    @classmethod
    def join(cls, settings: ClientSettings, user: object) -> "SharedClient":
        """Return the open client of these settings, for this user too."""
        shared = _shared.get(settings)
        if shared is None or shared.client.state == "closed":
            shared = _shared[settings] = cls(settings)
        shared._users.add(id(user))
        return shared

    def leave(self, user: object) -> None:
        """Note that a user needs it no more. Waits for nothing."""
        self._users.discard(id(user))
        if not self._users and not process_hooks.is_ending():  # where it is, all clients are flushed
            closer = threading.Timer(IDLE_SECONDS, self._close_if_left)
            closer.daemon, closer.name = True, "emitd-closing"
            with suppress(Exception):  # too many threads: then the end of the program closes it
                closer.start()

    def _close_if_left(self) -> None:
        if self._users or process_hooks.is_ending():
            return
        if _shared.get(self._settings) is self:
            del _shared[self._settings]
        self.client.close()
