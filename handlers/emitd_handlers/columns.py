"""`Columns`: a batch as a column for each field, and as a sequence of structs, such as `LogRecord`s.

Work on a column is a few calls into C for the whole batch; work on records is some for each. A handler that does not
know of columns takes the sequence as any other: its records are made when it asks for the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import msgspec

from emitd_handlers.record import LogRecord

T = TypeVar("T", bound=msgspec.Struct)


class Columns(Sequence[T]):
    """Structs of one type; nothing in it may be changed. A field's column is an attribute of the field's name.

    Columns are made of the structs, or the structs of the columns, when they are asked for.
    """

    def __init__(
        self, struct: type[T], items: Sequence[T] | None, columns: Mapping[str, Sequence[Any]] = {}
    ) -> None:
        """Take the structs, or a column for each field."""
        self._struct = struct
        self._items = items
        self._count = len(next(iter(columns.values())) if items is None else items)
        self.__dict__.update(columns)

    def __getattr__(self, name: str) -> Any:
        if name not in self._struct.__struct_fields__:
            raise AttributeError(name)
        column = self.__dict__[name] = [getattr(item, name) for item in self._made()]
        return column

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return iter(self._made())

    def __getitem__(self, index: Any) -> Any:
        return self._made()[index]

    def _made(self) -> Sequence[T]:
        if self._items is None:
            columns = [self.__dict__[name] for name in self._struct.__struct_fields__]
            self._items = list(map(self._struct, *columns))
        return self._items

    def joined_with(self, others: "Sequence[Columns[T]]") -> "Columns[T]":
        """Return these structs and those of others, in order."""
        parts = (self, *others)
        columns: dict[str, Sequence[Any]] = {}
        for name in self._struct.__struct_fields__ if others else ():
            first, *rest = [getattr(part, name) for part in parts]
            are_columns = all([isinstance(column, Columns) for column in (first, *rest)])
            columns[name] = first.joined_with(rest) if are_columns else [*chain(first, *rest)]
        return Columns(self._struct, None, columns) if others else self


#: Records; their payloads are columns if all are audit events that came by the server's edge.
RecordColumns: TypeAlias = Columns[LogRecord]


def columns_of(records: Sequence[LogRecord]) -> RecordColumns:
    """Return records as columns."""
    return records if isinstance(records, Columns) else Columns(LogRecord, records)
