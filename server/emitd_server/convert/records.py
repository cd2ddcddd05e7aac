"""Converts messages to `LogRecord`s, with every check of a record, and outcomes to receipts.

All is done for whole columns; what is wrong with a record is found out only if something is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress, repeat
from typing import Any, TypeAlias

from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb
from emitd_handlers.columns import EventColumns, RecordColumns
from emitd_handlers.errors import EmitdError, RecordInvalid
from emitd_handlers.outcome import AuditReceipt, Committed, JobReceipt
from emitd_handlers.record import (
    AuditEvent,
    JobState,
    JobStatus,
    Level,
    LogRecord,
    Payload,
    audit_fingerprint,
    content_fingerprint,
    is_source_ip,
    job_content,
)
from emitd_handlers.settings import Delivery
from emitd_handlers.text.json_object import check_json_object
from emitd_handlers.text.uuid7 import uuid7s
from emitd_server.convert.fields import Fields
from emitd_server.dispatch.redactor import Redactor
from emitd_server.dispatch.route import Route
from emitd_server.settings import LimitSettings

#: The first fault of each bad record, by its place.
Faults: TypeAlias = dict[int, RecordInvalid]

#: The fields that all kinds of records have; those from `message` on are in every fingerprint.
_COMMON = (
    "level",
    "record_id",
    "time_unix_nano",
    "message",
    "source",
    "attributes_json",
    "trace_id",
    "span_id",
)
#: By payload, what the numbers on the wire mean.
_LEVELS: Mapping[str | None, Mapping[int, Level]] = {
    None: {level.value: level for level in Level if level < Level.AUDIT},
    "audit": {0: Level.AUDIT, Level.AUDIT.value: Level.AUDIT},
    "job": {0: Level.JOB_STATUS, Level.JOB_STATUS.value: Level.JOB_STATUS},
}
_JOB_STATES = {state.value: state for state in JobState}
_PROGRESS = {None, *range(101)}
_DELIVERIES = {
    Delivery.COMMITTED: log_service_pb2.DELIVERY_COMMITTED,
    Delivery.QUEUED: log_service_pb2.DELIVERY_QUEUED,
}
#: The most that a receipt takes besides the names and ids of its record: those of its log, its leaf hash, numbers.
RECEIPT_OVERHEAD_BYTES = 180
#: Where a redactor's paths begin.
_ROOTS = {"attributes_json": "attributes", "audit.details_json": "details", "job.details_json": "details"}
#: The `assigned` of a record, by whether the time and whether the event's id were left to the server.
_ASSIGNED: Mapping[tuple[bool, bool], tuple[str, ...]] = {
    (False, False): (),
    (True, False): ("timestamp",),
    (False, True): ("event_id",),
    (True, True): ("timestamp", "event_id"),
}


class RecordReader:
    """Reads the records of requests into `RecordColumns`, and reports what is wrong with them.

    `clock` gives nanoseconds since 1970-01-01T00:00:00Z. Receipt times never decrease, and no two requests and
    no two job reports have the same, so that reports without a time keep their order.
    """

    def __init__(
        self, limits: LimitSettings, clock: Callable[[], int], redactor: Redactor | None = None
    ) -> None:
        self._limits = limits
        self._redactor = redactor
        self._clock = clock
        #: The receipt time of the request being read; job reports count on from it.
        self._received = 0

    def read_all(
        self,
        records: Sequence[pb.LogRecord],
        request_bytes: int,
        check: Callable[[int, pb.LogRecord], None] | None = None,
        plain: bytes = b"",
    ) -> tuple[Sequence[LogRecord], Sequence[int], dict[int, EmitdError]]:
        """Return the good records, the index of each in `records`, and the errors of the others by index.

        `request_bytes` is the size of the request: a record cannot be larger than that. `check` may refuse a record,
        given with its index, by raising an EmitdError. `plain` is the request, if `parse_records` says that it is.
        """
        self._received = max(self._clock(), self._received + 1)
        bad: dict[int, EmitdError] = {}
        indexes: Sequence[int] = range(len(records))
        if check is not None or request_bytes > self._limits.max_record_bytes:
            for index, record in enumerate(records):
                try:
                    if check is not None:
                        check(index, record)
                    self._check_size(record)
                except EmitdError as error:
                    bad[index] = error
            if bad:
                indexes = [index for index in indexes if index not in bad]
                records, plain = [records[index] for index in indexes], b""
        if not indexes:
            return (), (), bad
        refused = len(bad)
        parts, order = [], []
        for kind, places, fields in Fields.of(records, plain).by_kind():
            faults: Faults = {}
            parts.append(self._read(kind, fields, faults))
            bad |= {indexes[places[row]]: error for row, error in faults.items()}
            order += [indexes[place] for place in places]
        good = RecordColumns.joined(parts)
        if len(parts) == 1 and len(bad) == refused:
            return good, indexes, bad
        rows = [row for row in sorted(range(len(order)), key=order.__getitem__) if order[row] not in bad]
        return good.picked(rows), [order[row] for row in rows], bad

    def _read(self, kind: str | None, records: Fields, faults: Faults) -> RecordColumns:
        """Return the columns of records with the same payload; a bad record's values may be anything."""
        columns = self._read_common(kind, records, faults)
        times, context = columns["time_unix_nano"], [columns[name] for name in _COMMON[3:]]
        received: Sequence[int] = [self._received] * records.count
        sent_ids: Iterable[str] = repeat("only events have one")
        payloads: Sequence[Payload | None] = [None] * records.count
        fingerprints: Iterable[int]
        if kind == "audit":
            event = self._read_events(records.payload(kind), faults)
            sent_ids = event["event_id"]
            fingerprints = map(audit_fingerprint, *context, *event.values(), times)
            new_ids = iter(uuid7s(event["event_id"].count("")))
            event["event_id"] = [event_id or next(new_ids) for event_id in sent_ids]
            payloads = EventColumns(None, event)
        elif kind == "job":
            payloads, attempts = self._read_reports(records.payload(kind), faults)
            contents = map(job_content, zip(*context, strict=True), payloads, attempts, times)
            fingerprints = map(content_fingerprint, contents)
            received = range(self._received + 1, self._received + 1 + records.count)
            self._received = received[-1]
        else:
            fingerprints = map(hash, zip(columns["level"], *context, times, strict=True))
        columns["fingerprint"] = list(fingerprints)
        columns["payload"] = payloads
        columns["assigned"] = [
            _ASSIGNED[not time, not sent] for time, sent in zip(times, sent_ids, strict=False)
        ]
        columns["received_unix_nano"] = received
        columns["time_unix_nano"] = [time or now for time, now in zip(times, received, strict=True)]
        return RecordColumns(None, columns)

    def _read_common(self, kind: str | None, records: Fields, faults: Faults) -> dict[str, Sequence[Any]]:
        columns = records.columns(_COMMON)
        self._check_lengths(faults, "", columns, ("record_id", "source"))
        for name, size in (("trace_id", 16), ("span_id", 8)):
            if not {0, size}.issuperset(map(len, columns[name])):
                _note(faults, [_fault_of_size(name, len(value), size) for value in columns[name]])
        columns["attributes_json"] = self._keep_json(faults, "attributes_json", columns["attributes_json"])
        numbers, levels = columns["level"], _LEVELS[kind]
        if not levels.keys() >= {*numbers}:
            _note(faults, [None if number in levels else _fault_of_level(number, kind) for number in numbers])
        columns["level"] = [levels.get(number) for number in numbers]
        return columns

    def _read_events(self, events: Fields, faults: Faults) -> dict[str, Sequence[Any]]:
        columns = events.columns(AuditEvent.__struct_fields__)
        self._check_lengths(faults, "audit.", columns, ("event_id", "event_name", "user_id"))
        mandatory = columns["event_name"], columns["user_id"], columns["source_ip"]
        if not (all(mandatory[0]) and all(mandatory[1]) and all(map(is_source_ip, mandatory[2]))):
            _note(faults, map(_fault_of_event, *mandatory))
        columns["details_json"] = self._keep_json(faults, "audit.details_json", columns["details_json"])
        return columns

    def _read_reports(self, jobs: Fields, faults: Faults) -> tuple[Sequence[JobStatus], Sequence[int]]:
        """Return reports, and their attempts as they were sent."""
        columns = jobs.columns(JobStatus.__struct_fields__)
        self._check_lengths(faults, "job.", columns, ("job_id", "job_type", "failure_reason"))
        checked = [columns[name] for name in ("job_id", "status", "progress", "attempt", "new_attempt")]
        job_ids, states, progress, attempts, are_new = checked
        are_good = all(job_ids) and _JOB_STATES.keys() >= {*states} and _PROGRESS.issuperset(progress)
        if not are_good or any(compress(attempts, are_new)):
            _note(faults, map(_fault_of_report, *checked))
        columns["status"] = [_JOB_STATES.get(state) for state in states]
        columns["details_json"] = self._keep_json(faults, "job.details_json", columns["details_json"])
        columns["labels"] = [dict(labels) if labels else {} for labels in columns["labels"]]
        if any(columns["labels"]):
            _note(faults, map(self._fault_of_labels, columns["labels"]))
        columns["attempt"] = [attempt or 1 for attempt in attempts]
        return list(map(JobStatus, *columns.values())), attempts

    def _check_size(self, record: pb.LogRecord) -> None:
        size = record.ByteSize()
        if size > self._limits.max_record_bytes:
            raise RecordInvalid("", f"the record has {size} bytes, more than {self._limits.max_record_bytes}")

    def _check_lengths(
        self, faults: Faults, path: str, columns: Mapping[str, Sequence[str]], names: Iterable[str]
    ) -> None:
        for name in names:
            is_id = name in ("record_id", "event_id")
            limit = self._limits.max_id_bytes if is_id else self._limits.max_name_bytes
            # However it is encoded, a text of a quarter of the characters is within the limit.
            if max(map(len, columns[name])) > limit // 4:
                _note(faults, [_fault_of_length(path + name, (text,), limit) for text in columns[name]])

    def _keep_json(self, faults: Faults, field: str, texts: Sequence[str]) -> Sequence[str]:
        """Return JSON as it is kept; only an event's details are mandatory."""
        is_mandatory = field == "audit.details_json"
        if not is_mandatory and not any(texts):
            return texts
        max_bytes, max_depth = self._limits.max_json_bytes, self._limits.max_json_depth
        kept = []
        for place, text in enumerate(texts):
            try:
                if text or is_mandatory:
                    text = check_json_object(text, max_bytes=max_bytes, max_depth=max_depth)
                    # Before the fingerprint is taken: after a restart it is computed from what was kept.
                    if self._redactor is not None:
                        text = self._redactor.redact(_ROOTS[field], text)
            except ValueError as error:
                faults.setdefault(place, RecordInvalid(field, str(error)))
            kept.append(text)
        return kept

    def _fault_of_labels(self, labels: Mapping[str, str]) -> RecordInvalid | None:
        if len(labels) > self._limits.max_labels:
            return RecordInvalid(
                "job.labels", f"has {len(labels)} labels, more than {self._limits.max_labels}"
            )
        if "" in labels:
            return RecordInvalid("job.labels", "has an empty key")
        return _fault_of_length("job.labels", (*labels, *labels.values()), self._limits.max_name_bytes)


def _note(faults: Faults, found: Iterable[RecordInvalid | None]) -> None:
    """Note what was found in each record, if it is its first fault."""
    for place, fault in enumerate(found):
        if fault:
            faults.setdefault(place, fault)


def receipt_to_wire(record: LogRecord, outcome: Committed, route: Route) -> log_service_pb2.Receipt:
    """Return the receipt's message for an accepted record."""
    receipt = log_service_pb2.Receipt(
        record_id=record.record_id,
        duplicate=outcome.duplicate,
        handlers=[
            log_service_pb2.HandlerReceipt(handler=name, delivery=_DELIVERIES[delivery])
            for name, delivery in route.deliveries
        ],
    )
    match outcome.receipt:
        case AuditReceipt() as audit:
            receipt.audit.log_id = audit.log_id
            receipt.audit.event_id = audit.event_id
            receipt.audit.leaf_index = audit.leaf_index
            receipt.audit.leaf_hash = audit.leaf_hash
        case JobReceipt() as job:
            receipt.job.revision = job.revision
            receipt.job.attempt = job.attempt
            receipt.job.applied = job.applied
            receipt.job.stale_reason = job.stale_reason
            receipt.job.cancel_requested = job.cancel_requested
    return receipt


def receipt_bytes(record: LogRecord, route: Route) -> int:
    """Return the most that the receipt of a record takes in a message."""
    names = sum([len(name.encode()) + 8 for name, _ in route.deliveries])
    event = len(record.payload.event_id.encode()) if isinstance(record.payload, AuditEvent) else 0
    return RECEIPT_OVERHEAD_BYTES + len(record.record_id.encode()) + names + event


def _fault_of_length(field: str, texts: Sequence[str], limit: int) -> RecordInvalid | None:
    size = max([len(text.encode()) for text in texts], default=0)
    return RecordInvalid(field, f"has {size} bytes, more than {limit}") if size > limit else None


def _fault_of_size(field: str, found: int, size: int) -> RecordInvalid | None:
    return None if found in (0, size) else RecordInvalid(field, f"has {found} bytes; expected {size} or none")


def _fault_of_event(event_name: str, user_id: str, source_ip: str) -> RecordInvalid | None:
    if not event_name:
        return RecordInvalid("audit.event_name", "is mandatory")
    if not user_id:
        return RecordInvalid("audit.user_id", "is mandatory")
    if not source_ip:
        return RecordInvalid("audit.source_ip", "is mandatory; write 'unknown' if there is no address")
    if is_source_ip(source_ip):
        return None
    return RecordInvalid("audit.source_ip", f"{_shown(source_ip)} is neither an IP address nor 'unknown'")


def _fault_of_report(
    job_id: str, state: int, progress: int | None, attempt: int, is_new: bool
) -> RecordInvalid | None:
    if not job_id:
        return RecordInvalid("job.job_id", "is mandatory")
    if state == 0:
        return RecordInvalid("job.status", "is mandatory")
    if state not in _JOB_STATES:
        known = _numbers(JobState)
        return RecordInvalid("job.status", f"{state} is not a job state; expected one of {known}")
    if progress not in _PROGRESS:
        return RecordInvalid("job.progress", f"{progress} is not a percentage from 0 to 100")
    if attempt and is_new:
        return RecordInvalid("job.attempt", "must be 0 if `new_attempt` asks for the next one")
    return None


def _fault_of_level(number: int, payload: str | None) -> RecordInvalid:
    if payload is not None:
        level = _LEVELS[payload][0]
        expected = f"{level.value} ({level.name})"
        return RecordInvalid("level", f"{number} does not fit the payload `{payload}`; expected {expected}")
    if number == 0:
        return RecordInvalid("level", "is mandatory for a record without payload")
    if number in (Level.AUDIT, Level.JOB_STATUS):
        payload = "audit" if number == Level.AUDIT else "job"
        return RecordInvalid("level", f"{Level(number).name} needs the payload `{payload}`")
    return RecordInvalid("level", f"{number} is not a level; expected one of {_numbers(Level)}")


def _numbers(members: Iterable[Level] | Iterable[JobState]) -> str:
    return ", ".join(f"{member.value} ({member.name})" for member in members)


def _shown(text: str) -> str:
    """Quote the beginning of a sender's text for an error message."""
    return repr(text if len(text) <= 64 else text[:64] + "…")
