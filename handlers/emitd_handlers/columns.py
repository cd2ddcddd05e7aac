"""`RecordColumns`: a batch as a column for each field, and as a sequence of `LogRecord`s.

Work on a column is a few calls into C for the whole batch; work on records is some for each. A handler that does not
know of columns takes the sequence as any other: its records are made when it asks for the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Self, TypeVar, overload

import msgspec

from emitd_handlers.record import AuditEvent, LogRecord

T = TypeVar("T", bound=msgspec.Struct)


class Columns(Sequence[T]):
    """Structs of one type, made of columns, or columns made of structs, when they are asked for. Do not change any."""

    struct: ClassVar[type[msgspec.Struct]]

    def __init__(self, items: Sequence[T] | None, columns: Mapping[str, Sequence[Any]] = {}) -> None:
        """Take the structs, or a column for each field of the struct, in the order of its fields."""
        self._items = items
        self.__dict__.update(columns)
        self._count = len(next(iter(columns.values())) if items is None else items)

    @classmethod
    def of(cls, items: Sequence[T]) -> Self:
        """Return a sequence in this form."""
        return items if isinstance(items, cls) else cls(items)

    @classmethod
    def joined(cls, parts: Sequence[Sequence[T]]) -> Self:
        """Return the structs of all parts as one sequence, in order."""
        if len(parts) == 1:
            return cls.of(parts[0])
        if not all([isinstance(part, cls) and part._items is None for part in parts]):
            return cls(list(chain.from_iterable(parts)))
        return cls(None, {name: _joined([getattr(part, name) for part in parts]) for name in cls._fields()})

    def picked(self, places: Sequence[int]) -> Self:
        """Return the structs at some places, in the order of `places`."""
        if self._items is not None:
            return type(self)([self._items[place] for place in places])
        columns = [(name, getattr(self, name)) for name in self._fields()]
        return type(self)(None, {name: list(map(column.__getitem__, places)) for name, column in columns})

    @classmethod
    def _fields(cls) -> Sequence[str]:
        return cls.struct.__struct_fields__

    def __getattr__(self, name: str) -> Any:
        if name not in self._fields():
            raise AttributeError(name)
        column = self.__dict__[name] = [getattr(item, name) for item in self._made()]
        return column

    def __len__(self) -> int:
        return self._count

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
            columns = [self.__dict__[name] for name in self._fields()]
            self._items = list(map(self.struct, *columns))  # type: ignore[arg-type]
        return self._items


class EventColumns(Columns[AuditEvent]):
    """Audit events that came by the server's edge, or are to be looked at as if."""

    struct = AuditEvent


class RecordColumns(Columns[LogRecord]):
    """Records; their payloads are `EventColumns` if all are audit events that came by the server's edge."""

    struct = LogRecord


def _joined(columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
    is_events = {*map(type, columns)} == {EventColumns}
    return EventColumns.joined(columns) if is_events else list(chain.from_iterable(columns))
