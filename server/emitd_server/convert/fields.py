"""`Fields`: the fields of a request's records, a column for each.

protobuf itself makes them: the bytes of the request are parsed once more, as a message in which all of its records are
one, and each of their fields is repeated. A parser merges a message that comes several times, and appends the values of
repeated fields. Measured: 0.05 µs a value, where the attribute of a message takes 0.1 and a message of its own 0.1.

A field that is empty is not among the bytes. So a merged column counts only if it has a value of every record, or none.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from emitd.v1 import record_pb2 as pb

_EMPTY = pb.LogRecord()
#: The fields that may be absent, which is None.
_OPTIONAL = ("progress", "lease_seconds")


class Fields:
    """Gives the columns of records."""

    def __init__(self, records: Sequence[pb.LogRecord], plain: bytes = b"") -> None:
        """`plain` is the request, if it is as protobuf here writes it: then no field comes twice in a record."""
        self.count = len(records)
        self._records = records
        self._merged: Any = _Merged.FromString(plain).records if plain else None  # type: ignore[attr-defined]

    def columns(self, names: Iterable[str], payload: str = "") -> dict[str, Sequence[Any]]:
        """Return the values of some fields of the records, or of the payload that all of them have."""
        merged, empty = self._merged, getattr(_EMPTY, payload) if payload else _EMPTY
        if payload and merged:
            merged = getattr(merged, payload)
        columns: dict[str, Sequence[Any]] = {}
        for name in names:
            values = () if merged is None else getattr(merged, name)
            if len(values) == self.count and name != "labels":  # which is a map
                columns[name] = values[:]
            elif merged is not None and not values:
                columns[name] = [None if name in _OPTIONAL else getattr(empty, name)] * self.count
            else:
                columns[name] = self._values_of_each(name, payload)
        return columns

    def _values_of_each(self, name: str, payload: str) -> Sequence[Any]:
        self._records = list(self._records)
        each: Sequence[Any] = self._records
        if payload:
            each = [getattr(record, payload) for record in each]
        if name in _OPTIONAL:
            return [getattr(message, name) if message.HasField(name) else None for message in each]
        return [getattr(message, name) for message in each]

    def by_kind(self) -> Sequence[tuple[str, Sequence[int], "Fields"]]:
        """Return the records of each kind: the payload that they have, if any, their places, their fields."""
        kinds: Sequence[str] = ()
        if self._merged is not None:
            counts = {"audit": len(self._merged.audit.event_name), "job": len(self._merged.job.job_id)}
            kinds = [kind for kind, count in counts.items() if count == self.count]
            if not (kinds or self._merged.HasField("audit") or self._merged.HasField("job")):
                kinds = ("",)
        places: dict[str, list[int]] = {}
        for place, record in enumerate(() if kinds else self._records):
            places.setdefault(record.WhichOneof("payload") or "", []).append(place)
        kinds = kinds or [*places]
        if len(kinds) == 1:
            return [(kinds[0], range(self.count), self)]
        return [(kind, of, Fields([self._records[place] for place in of])) for kind, of in places.items()]


def _merged_type() -> type[Message]:
    """Return a request in which all records are one: `LogRecord`, with its values repeated."""
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        message.ClearField("oneof_decl")
        for field in message.field:
            field.ClearField("oneof_index")
            field.ClearField("proto3_optional")
            if field.type != field.TYPE_MESSAGE:
                field.label = field.LABEL_REPEATED
    request = file.message_type.add(name="Request")
    request.field.add(name="records", number=1, label=1, type=11, type_name=".emitd.v1.LogRecord")
    pool = descriptor_pool.DescriptorPool()  # of its own: the names are those of the contract
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("emitd.v1.Request"))


_Merged = _merged_type()
