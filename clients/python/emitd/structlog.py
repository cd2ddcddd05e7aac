"""`EmitdProcessor`: sends what a program logs by structlog, which this module does not need.

    structlog.configure(processors=[structlog.processors.add_log_level, EmitdProcessor(client), ConsoleRenderer()])

What an event says becomes:

    event                               the message
    level, or the name of the method    the level; one that is none of the five also stays as attribute `level`
    timestamp                           the time, if it can be read and says its zone; else an attribute
    exc_info                            attributes `exception.type`, `exception.message`, `exception.stacktrace`
    exception, stack                    texts made by earlier processors: `exception.stacktrace`, `code.stacktrace`
    logger                              attribute `logger.name`
    the rest                            attributes

As with `emitd.logging`, no call waits, and what the client's own threads log is left out.
"""

from collections.abc import Mapping, MutableMapping
from datetime import datetime
from typing import Any

from emitd.base_client import LogVerbs
from emitd.records.exceptions import exception_attributes, exception_of, stack_text
from emitd.records.levels import is_level, level_number
from emitd.runtime.threads import MAX_NESTING, is_sender, making

__all__ = ["EmitdProcessor"]

#: Further names of methods.
_METHODS: Mapping[str, str] = {
    "exception": "ERROR",
    "warn": "WARNING",
    "fatal": "CRITICAL",
    "err": "ERROR",
    "msg": "INFO",
}
#: Those of structlog's own for its way through `logging`.
_PRIVATE = frozenset({"_record", "_from_structlog"})
_RENAMED: Mapping[str, str] = {
    "logger": "logger.name",
    "exception": "exception.stacktrace",
    "stack": "code.stacktrace",
}


class EmitdProcessor:
    """For any thread. It changes no event, so that others may follow it."""

    def __init__(self, client: LogVerbs, *, final: bool = False) -> None:
        """Send by `client`, a LogClient or AsyncLogClient.

        `final` ends the chain here: nothing is logged by structlog itself. Else a renderer or so has to follow.
        """
        if not isinstance(client, LogVerbs):
            raise TypeError(f"client: must be a LogClient or an AsyncLogClient, not {type(client).__name__}")
        self._client = client
        self._end: type[BaseException] | None = None
        if final:
            from structlog import DropEvent

            self._end = DropEvent

    def __call__(
        self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Queue an event. Raises nothing but, if it is `final`, structlog's DropEvent."""
        depth = making.depth
        making.depth = depth + 1
        try:
            if not is_sender():
                self._send(method_name, event_dict, is_nested=depth >= MAX_NESTING)
        except Exception as error:
            self._client._engine.note_fault(level_number(method_name), error)
        finally:
            making.depth = depth
        if self._end is not None:
            raise self._end
        return event_dict

    def _send(self, method_name: str, event: Mapping[str, Any], *, is_nested: bool) -> None:
        asked = event.get("level") or method_name
        if isinstance(asked, str):
            asked = _METHODS.get(asked.lower(), asked)
        level = level_number(asked)
        if level < self._client._threshold:
            return
        if is_nested:
            self._client._engine.drop("nested", level)
            return
        moment = _time_unix_nano(event.get("timestamp"))
        self._client._engine.write(
            level,
            event.get("event", ""),
            {**self._client._bound, **_attributes(event, asked, has_time=moment > 0)},
            may_block=False,
            time_unix_nano=moment,
        )


def _attributes(event: Mapping[Any, Any], asked: object, *, has_time: bool) -> dict[str, object]:
    attributes: dict[str, object] = {}
    for name, value in event.items():
        if name in ("event", "level", "exc_info") or name in _PRIVATE or (name == "timestamp" and has_time):
            continue
        if name in _RENAMED and isinstance(value, str):
            name, value = _RENAMED[name], stack_text(value)
        attributes[name] = value
    if not is_level(asked.upper() if isinstance(asked, str) else asked):
        attributes["level"] = asked
    return {**exception_attributes(exception_of(event.get("exc_info"))), **attributes}


def _time_unix_nano(timestamp: object) -> int:
    """Return a timestamp as nanoseconds; 0 for none, or one that cannot be read.

    Without a zone it may be local time or UTC, by the settings of TimeStamper, and is left alone.
    """
    try:
        if isinstance(timestamp, str):
            timestamp = datetime.fromisoformat(timestamp)
        if isinstance(timestamp, datetime) and timestamp.tzinfo is not None:
            timestamp = timestamp.timestamp()
        moment = round(timestamp * 1e6) * 1000 if isinstance(timestamp, int | float) else 0
    except (ValueError, OverflowError, OSError):
        return 0
    return moment if 0 < moment < 1 << 63 else 0
