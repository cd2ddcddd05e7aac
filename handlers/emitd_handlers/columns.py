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
    """Structs of one type; nothing in it may be changed. Each field's column is an attribute of the field's name.

    Columns are made of the structs, or the structs of the columns, when they are asked for.
    """

    struct: ClassVar[type[msgspec.Struct]]

    def __init__(self, items: Sequence[T] | None, columns: Mapping[str, Sequence[Any]] = {}) -> None:
        """Take the structs, or a column for each field."""
        self._items = items
        self._count = len(next(iter(columns.values())) if items is None else items)
        self.__dict__.update(columns)

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
        columns = {}
        for name in cls.struct.__struct_fields__:
            found = [getattr(part, name) for part in parts]
            are_events = {*map(type, found)} == {EventColumns}
            columns[name] = EventColumns.joined(found) if are_events else list(chain.from_iterable(found))
        return cls(None, columns)

    def __getattr__(self, name: str) -> Any:
        if name not in self.struct.__struct_fields__:
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
            columns = [self.__dict__[name] for name in self.struct.__struct_fields__]
            self._items = list(map(self.struct, *columns))  # type: ignore[arg-type]
        return self._items


class EventColumns(Columns[AuditEvent]):
    """Audit events."""

    struct = AuditEvent


class RecordColumns(Columns[LogRecord]):
    """Records; their payloads are `EventColumns` if all are audit events that came by the server's edge."""

    struct = LogRecord
