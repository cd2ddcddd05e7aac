"""`RecordColumns`: the records of a batch, a column for each field, as a sequence of `LogRecord`s.

Work on a column is a few calls into C for the whole batch; work on records is some for each. A handler that does not
know of columns takes the sequence as any other: its records are made when it asks for the first.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar, Self, TypeVar, overload

import msgspec
from msgspec.structs import astuple

from emitd_handlers.record import AuditEvent, Level, LogRecord, Payload

T = TypeVar("T", bound=msgspec.Struct)


class Columns(Sequence[T]):
    """Structs of one type; nothing in it may be changed."""

    struct: ClassVar[type[msgspec.Struct]]

    def __init__(self, columns: Sequence[Sequence[Any]], items: Sequence[T] | None = None) -> None:
        """Take a column for each field of the struct, in the order of its fields; `items`, if they are made already."""
        self.columns = columns
        self.__dict__.update(zip(self.struct.__struct_fields__, columns, strict=True))
        self._items = items

    @classmethod
    def of(cls, items: Sequence[T]) -> Self:
        """Return a sequence in this form."""
        if isinstance(items, cls):
            return items
        rows = list(map(astuple, items))
        return cls(list(zip(*rows, strict=True)) or [()] * len(cls.struct.__struct_fields__), items)

    @classmethod
    def joined(cls, parts: Sequence[Sequence[T]]) -> Self:
        """Return the structs of all parts as one sequence, in order."""
        parts = [part for part in parts if part] or [()]
        if len(parts) == 1:
            return cls.of(parts[0])
        return cls(
            [_joined(columns) for columns in zip(*[cls.of(part).columns for part in parts], strict=True)]
        )

    def picked(self, places: Sequence[int]) -> Self:
        """Return the structs at some places, in the order of `places`."""
        return type(self)([list(map(column.__getitem__, places)) for column in self.columns])

    def __len__(self) -> int:
        return len(self.columns[0])

    def __iter__(self) -> Iterator[T]:
        return iter(self._made())

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._made()[index]

    def _made(self) -> Sequence[T]:
        if self._items is None:
            self._items = list(map(self.struct, *self.columns))  # type: ignore[arg-type]
        return self._items


class EventColumns(Columns[AuditEvent]):
    """Audit events."""

    struct = AuditEvent
    event_id: Sequence[str]
    event_name: Sequence[str]
    user_id: Sequence[str]
    source_ip: Sequence[str]
    details_json: Sequence[str]


class RecordColumns(Columns[LogRecord]):
    """Records; their payloads are `EventColumns` if all are audit events that came by the server's edge."""

    struct = LogRecord
    level: Sequence[Level]
    message: Sequence[str]
    record_id: Sequence[str]
    time_unix_nano: Sequence[int]
    received_unix_nano: Sequence[int]
    source: Sequence[str]
    attributes_json: Sequence[str]
    trace_id: Sequence[bytes]
    span_id: Sequence[bytes]
    payload: Sequence[Payload | None]
    assigned: Sequence[tuple[str, ...]]
    fingerprint: Sequence[int]


def _joined(columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
    if set(map(type, columns)) == {EventColumns}:
        return EventColumns.joined(columns)
    return list(chain.from_iterable(columns))
