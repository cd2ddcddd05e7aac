"""Converts messages to `LogRecord`s, with every check of a record, and outcomes to receipts.

All is done for whole columns; what is wrong with a record is found out only if something is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress, repeat
from typing import Any, TypeAlias

from msgspec.structs import asdict, replace

from emitd.v1 import log_service_pb2
from emitd.v1 import record_pb2 as pb
from emitd_handlers.columns import Columns, RecordColumns
from emitd_handlers.errors import EmitdError, RecordInvalid
from emitd_handlers.outcome import AuditReceipt, Committed, JobReceipt
from emitd_handlers.principal import Principal
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
from emitd_handlers.scope import ANYONE, Caller
from emitd_handlers.settings import Delivery
from emitd_handlers.text.json_object import check_json_object
from emitd_handlers.text.uuid7 import uuid7
from emitd_server.access.grants import RecordJudge
from emitd_server.convert.fields import Fields
from emitd_server.dispatch.redactor import Redactor
from emitd_server.dispatch.route import Route
from emitd_server.settings import LimitSettings

#: The first fault of each bad record, by its place.
Faults: TypeAlias = dict[int, EmitdError]

#: The fields that all kinds of records have; those of the context are in every fingerprint.
_CONTEXT = ("message", "source", "attributes_json", "trace_id", "span_id")
_COMMON = ("level", "record_id", "time_unix_nano", *_CONTEXT, "submitted_by")
#: By payload, what the numbers on the wire mean.
_LEVELS: Mapping[str, Mapping[int, Level]] = {
    "": {level.value: level for level in Level if level < Level.AUDIT},
    "audit": {0: Level.AUDIT, Level.AUDIT.value: Level.AUDIT},
    "job": {0: Level.JOB_STATUS, Level.JOB_STATUS.value: Level.JOB_STATUS},
}
_JOB_STATES = {state.value: state for state in JobState}
_MANDATORY = ("event_name", "user_id", "job_id")
_DELIVERIES = {
    Delivery.COMMITTED: log_service_pb2.DELIVERY_COMMITTED,
    Delivery.QUEUED: log_service_pb2.DELIVERY_QUEUED,
}
#: The most that a receipt takes besides the names and ids of its record: those of its log, its leaf hash, numbers.
RECEIPT_OVERHEAD_BYTES = 180
#: The `assigned` of a record: 1 if the time, and 2 more if the event's id was left to the server.
_ASSIGNED: Sequence[tuple[str, ...]] = ((), ("timestamp",), ("event_id",), ("timestamp", "event_id"))


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
        self._judge = RecordJudge()
        #: The receipt time of the request being read; job reports count on from it.
        self._received = 0

    def read_all(
        self,
        records: Sequence[pb.LogRecord],
        plain: bytes = b"",
        check: Callable[[int, pb.LogRecord], None] | None = None,
        *,
        sender: Caller = ANYONE,
    ) -> tuple[Sequence[LogRecord], Sequence[int], dict[int, EmitdError]]:
        """Return the good records, the index of each in `records`, and the errors of the others by index.

        A record that is not for `sender` to send is bad. `plain` is the request, as `parse_records` returns it, or
        empty. `check` may refuse a record, given with its index, by raising an EmitdError.
        """
        self._received = max(self._clock(), self._received + 1)
        bad: dict[int, EmitdError] = {}
        indexes: Sequence[int] = range(len(records))
        limit = self._limits.max_record_bytes
        if check is not None or not plain or len(plain) > limit:
            for index, record in enumerate(records):
                try:
                    if check is not None:
                        check(index, record)
                    if (size := record.ByteSize()) > limit:
                        raise RecordInvalid("", f"the record has {size} bytes, more than {limit}")
                except EmitdError as error:
                    bad[index] = error
            if bad:
                indexes = [index for index in indexes if index not in bad]
                records, plain = [records[index] for index in indexes], b""
        if not indexes:
            return (), (), bad
        refused = len(bad)
        parts, order = [], []
        for kind, places, fields in Fields(records, plain).by_kind():
            faults: Faults = {}
            parts.append(self._read(kind, fields, faults, sender))
            bad |= {indexes[places[row]]: error for row, error in faults.items()}
            order += [indexes[place] for place in places]
        good = parts[0].joined_with(parts[1:])
        if len(parts) == 1 and len(bad) == refused:
            return good, indexes, bad
        rows = [row for row in sorted(range(len(order)), key=order.__getitem__) if order[row] not in bad]
        return [good[row] for row in rows], [order[row] for row in rows], bad

    def _read(self, kind: str, records: Fields, faults: Faults, sender: Caller) -> RecordColumns:
        """Return the columns of records with the same payload; a bad record's values may be anything."""
        columns = records.columns(_COMMON)
        self._check_texts(faults, "", columns, "record_id", "source")
        for name, size in (("trace_id", 16), ("span_id", 8)):
            _check(faults, name, list(map(len, columns[name])), _size_problem, size)
        columns["attributes_json"] = self._keep_json(faults, "attributes_json", columns["attributes_json"])
        numbers = columns["level"]
        _check(faults, "level", numbers, _level_problem, kind)
        columns["level"] = list(map(_LEVELS[kind].get, numbers))
        times, context = columns["time_unix_nano"], [columns[name] for name in _CONTEXT]
        received: Sequence[int] = [self._received] * records.count
        sent_ids: Iterable[str] = repeat("only events have one")
        payloads: Sequence[Payload | None] = [None] * records.count
        fingerprints: Iterable[int] = map(hash, zip(numbers, *context, times, strict=True))
        if kind == "audit":
            event = records.columns(AuditEvent.__struct_fields__, "audit")
            self._check_texts(faults, "audit.", event, "event_id", "event_name", "user_id")
            _check(faults, "audit.source_ip", event["source_ip"], _address_problem)
            event["details_json"] = self._keep_json(faults, "audit.details_json", event["details_json"])
            fingerprints = map(audit_fingerprint, *context, *event.values(), times)
            sent_ids = event["event_id"]
            event["event_id"] = [event_id or uuid7() for event_id in sent_ids]
            payloads = Columns(AuditEvent, None, event)
        elif kind == "job":
            payloads, attempts = self._read_reports(records, faults)
            contents = map(job_content, zip(*context, strict=True), payloads, attempts, times)
            fingerprints = map(content_fingerprint, contents)
            received = range(self._received + 1, self._received + 1 + records.count)
            self._received = received[-1]
        columns["fingerprint"] = list(fingerprints)
        columns["payload"] = payloads
        left_out = [(not time) + 2 * (not sent) for time, sent in zip(times, sent_ids, strict=False)]
        columns["assigned"] = list(map(_ASSIGNED.__getitem__, left_out))
        columns["received_unix_nano"] = received
        columns["time_unix_nano"] = [time or now for time, now in zip(times, received, strict=True)]
        submitted_by = columns.pop("submitted_by")
        columns["sender"] = _senders(faults, submitted_by, sender)
        read = Columns(LogRecord, None, columns)
        for place, error in self._judge.refused(read, sender, submitted_by).items():
            faults.setdefault(place, error)
        return read

    def _read_reports(self, records: Fields, faults: Faults) -> tuple[Sequence[JobStatus], Sequence[int]]:
        """Return reports, and their attempts as they were sent."""
        columns = records.columns(JobStatus.__struct_fields__, "job")
        self._check_texts(faults, "job.", columns, "job_id", "job_type", "failure_reason")
        _check(faults, "job.status", columns["status"], _status_problem)
        is_percent = {None, *range(101)}.__contains__
        wrong = "{} is not a percentage from 0 to 100".format
        _check(faults, "job.progress", columns["progress"], lambda n: "" if is_percent(n) else wrong(n))
        attempts, labels = columns["attempt"], columns["labels"]
        if any(compress(attempts, columns["new_attempt"])):
            both = list(zip(attempts, columns["new_attempt"], strict=True))
            problem = "must be 0 if `new_attempt` asks for the next one"
            _check(faults, "job.attempt", both, lambda sent: problem if all(sent) else "")
        columns["status"] = list(map(_JOB_STATES.get, columns["status"]))
        columns["details_json"] = self._keep_json(faults, "job.details_json", columns["details_json"])
        columns["labels"] = [dict(each) if each else {} for each in labels]
        if any(labels):
            items = [tuple(each.items()) for each in columns["labels"]]
            _check(faults, "job.labels", items, self._labels_problem)
        columns["attempt"] = [attempt or 1 for attempt in attempts]
        return list(map(JobStatus, *columns.values())), attempts

    def _check_texts(
        self, faults: Faults, path: str, columns: Mapping[str, Sequence[str]], *names: str
    ) -> None:
        """Check names and ids: their lengths, and that they are there if they are mandatory."""
        for name in names:
            is_id, texts = name in ("record_id", "event_id"), columns[name]
            limit = self._limits.max_id_bytes if is_id else self._limits.max_name_bytes
            is_mandatory = name in _MANDATORY
            # However it is encoded, a text of a quarter of the characters is within the limit.
            if max(map(len, texts)) > limit // 4 or (is_mandatory and not all(texts)):
                _check(faults, path + name, texts, _text_problem, limit, is_mandatory)

    def _keep_json(self, faults: Faults, field: str, texts: Sequence[str]) -> Sequence[str]:
        """Return JSON as it is kept; only an event's details are mandatory."""
        is_mandatory = field == "audit.details_json"
        if not is_mandatory and not any(texts):
            return texts
        max_bytes, max_depth = self._limits.max_json_bytes, self._limits.max_json_depth
        root = "attributes" if field == "attributes_json" else "details"
        kept = []
        for place, text in enumerate(texts):
            try:
                if text or is_mandatory:
                    text = check_json_object(text, max_bytes=max_bytes, max_depth=max_depth)
                    # Before the fingerprint is taken: after a restart it is computed from what was kept.
                    if self._redactor is not None:
                        text = self._redactor.redact(root, text)
            except ValueError as error:
                faults.setdefault(place, RecordInvalid(field, str(error)))
            kept.append(text)
        return kept

    def _labels_problem(self, labels: Sequence[tuple[str, str]]) -> str:
        if len(labels) > self._limits.max_labels:
            return f"has {len(labels)} labels, more than {self._limits.max_labels}"
        if not all([key for key, _ in labels]):
            return "has an empty key"
        limit = self._limits.max_name_bytes
        return max([_text_problem(text, limit) for item in labels for text in item], default="")


def _check(
    faults: Faults, field: str, values: Sequence[Any], problem_of: Callable[..., str], *args: object
) -> None:
    """Note what is wrong with values, if it is their record's first fault; equal ones are looked at once."""
    problems = {value: problem for value in {*values} if (problem := problem_of(value, *args))}
    for place, value in enumerate(values if problems else ()):
        if value in problems:
            faults.setdefault(place, RecordInvalid(field, problems[value]))


def _senders(faults: Faults, submitted_by: Sequence[str], sender: Caller) -> Sequence[Caller]:
    """Return who sent each record: who calls, or whom a relay names."""
    if not any(submitted_by):
        return [sender] * len(submitted_by)
    senders = {"": sender}
    for place, name in enumerate(submitted_by):
        if name not in senders:
            try:
                senders[name] = replace(sender, principal=Principal(name, "relayed"))
            except ValueError as error:
                faults.setdefault(place, RecordInvalid("submitted_by", str(error)))
    return [senders.get(name, sender) for name in submitted_by]


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
            receipt.audit.CopyFrom(log_service_pb2.AuditReceipt(**asdict(audit)))
        case JobReceipt() as job:
            fields = {name: value for name, value in asdict(job).items() if name != "job_id"}
            receipt.job.CopyFrom(log_service_pb2.JobReceipt(**fields))
    return receipt


def receipt_bytes(record: LogRecord, route: Route) -> int:
    """Return the most that the receipt of a record takes in a message."""
    names = sum([len(name.encode()) + 8 for name, _ in route.deliveries])
    event = len(record.payload.event_id.encode()) if isinstance(record.payload, AuditEvent) else 0
    return RECEIPT_OVERHEAD_BYTES + len(record.record_id.encode()) + names + event


def _text_problem(text: str, limit: int, is_mandatory: bool = False) -> str:
    size = len(text.encode())
    if size > limit:
        return f"has {size} bytes, more than {limit}"
    return "is mandatory" if is_mandatory and not text else ""


def _size_problem(found: int, size: int) -> str:
    return "" if found in (0, size) else f"has {found} bytes; expected {size} or none"


def _address_problem(text: str) -> str:
    if is_source_ip(text):
        return ""
    if not text:
        return "is mandatory; write 'unknown' if there is no address"
    return f"{_shown(text)} is neither an IP address nor 'unknown'"


def _status_problem(number: int) -> str:
    if number in _JOB_STATES:
        return ""
    return f"{number} is not a job state; expected one of {_numbers(JobState)}" if number else "is mandatory"


def _level_problem(number: int, payload: str) -> str:
    if number in _LEVELS[payload]:
        return ""
    if payload:
        level = _LEVELS[payload][0]
        return f"{number} does not fit the payload `{payload}`; expected {level.value} ({level.name})"
    if number in (Level.AUDIT, Level.JOB_STATUS):
        return f"{Level(number).name} needs the payload `{'audit' if number == Level.AUDIT else 'job'}`"
    if number == 0:
        return "is mandatory for a record without payload"
    return f"{number} is not a level; expected one of {_numbers(Level)}"


def _numbers(members: Iterable[Level] | Iterable[JobState]) -> str:
    return ", ".join(f"{member.value} ({member.name})" for member in members)


def _shown(text: str) -> str:
    """Quote the beginning of a sender's text for an error message."""
    return repr(text if len(text) <= 64 else text[:64] + "…")
