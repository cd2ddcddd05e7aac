"""Converts messages to `LogRecord`s, with every check of a record, and outcomes to receipts.

This runs for each record; only bad or unusual records need the helpers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

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
    audit_fingerprints,
    content_fingerprint,
    is_source_ip,
    job_content,
)
from emitd_handlers.settings import Delivery
from emitd_handlers.text.json_object import check_json_objects
from emitd_handlers.text.uuid7 import uuid7s
from emitd_server.dispatch.redactor import Redactor
from emitd_server.dispatch.route import Route
from emitd_server.settings import LimitSettings

_LOG_LEVELS = {level.value: level for level in Level if level < Level.AUDIT}
# An enum's members are slow to look up through the class.
_AUDIT = Level.AUDIT
_JOB_STATUS = Level.JOB_STATUS
_JOB_STATES = {state.value: state for state in JobState}
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
        self._readers = {"audit": self._read_events, "job": self._read_reports, None: self._read_lines}

    def read_all(
        self,
        records: Sequence[pb.LogRecord],
        request_bytes: int,
        check: Callable[[int, pb.LogRecord], None] | None = None,
    ) -> tuple[RecordColumns, Sequence[int], Mapping[int, EmitdError]]:
        """Return the good records, the index of each in `records`, and the errors of the others by index.

        `request_bytes` is the size of the request: a record cannot be larger than that. `check` may refuse a record,
        given with its index, by raising an EmitdError.
        """
        self._received = max(self._clock(), self._received + 1)
        bad: dict[int, EmitdError] = {}
        indexes: Sequence[int] = range(len(records))
        # A request that is small has no large record.
        if check is not None or request_bytes > self._limits.max_record_bytes:
            for index, record in enumerate(records):
                try:
                    if check is not None:
                        check(index, record)
                    if (size := record.ByteSize()) > self._limits.max_record_bytes:
                        limit = self._limits.max_record_bytes
                        raise RecordInvalid("", f"the record has {size} bytes, more than {limit}")
                except EmitdError as error:
                    bad[index] = error
            if bad:
                indexes = [index for index in indexes if index not in bad]
                records = [records[index] for index in indexes]
        good = RecordColumns.joined(self._sift(records, indexes, bad) if records else ())
        return good, [index for index in indexes if index not in bad] if bad else indexes, bad

    def _sift(
        self, records: Sequence[pb.LogRecord], indexes: Sequence[int], bad: dict[int, EmitdError]
    ) -> Sequence[RecordColumns]:
        """Read records; if one is bad, read them in parts, down to the bad one alone."""
        redacted = 0 if self._redactor is None else self._redactor.count
        try:
            return [self._read(records)]
        except RecordInvalid as error:
            if self._redactor is not None:
                self._redactor.count = redacted  # these records are read again
            if len(records) == 1:
                bad[indexes[0]] = error
                return ()
        # In sixteen parts, not two: a batch in which all are bad is gone through fewer times.
        parts = range(0, len(records), step := max(1, len(records) // 16))
        sifted = [self._sift(records[at : at + step], indexes[at : at + step], bad) for at in parts]
        return list(chain.from_iterable(sifted))

    def _read(self, records: Sequence[pb.LogRecord]) -> RecordColumns:
        """Return the columns of records that are all good. Raises RecordInvalid, for one record with what is wrong."""
        # Nearly always all are of one kind. Measured: asking each takes 0.2 µs.
        if records[0].HasField("audit"):
            try:
                return self._read_events(records)
            except RecordInvalid:
                if all([record.HasField("audit") for record in records]):
                    raise
        kinds = [record.WhichOneof("payload") for record in records]
        if kinds.count(kinds[0]) == len(kinds):
            return self._readers[kinds[0]](records)
        places: dict[str | None, list[int]] = {}
        for place, kind in enumerate(kinds):
            places.setdefault(kind, []).append(place)
        parts = [self._readers[kind]([records[place] for place in of]) for kind, of in places.items()]
        order = sorted(range(len(records)), key=list(chain(*places.values())).__getitem__)
        return RecordColumns.joined(parts).picked(order)

    def _read_events(self, records: Sequence[pb.LogRecord]) -> RecordColumns:
        numbers, ids, times, *context = self._read_context(records)
        self._check_levels(numbers, "audit", Level.AUDIT)
        sent_ids, names, users, addresses, details = zip(
            *[
                (event.event_id, event.event_name, event.user_id, event.source_ip, event.details_json)
                for event in [record.audit for record in records]
            ],
            strict=True,
        )
        self._check_lengths("audit.event_id", sent_ids, self._limits.max_id_bytes)
        self._check_lengths("audit.event_name", names, self._limits.max_name_bytes)
        self._check_lengths("audit.user_id", users, self._limits.max_name_bytes)
        if not (all(names) and all(users) and is_source_ip(*addresses)):
            raise _bad_event(names[0], users[0], addresses[0])
        kept_details = self._check_json("audit.details_json", details)
        sent = (*context, sent_ids, names, users, addresses, kept_details, times)
        fingerprints = audit_fingerprints(*sent)
        new_ids = iter(uuid7s(sent_ids.count("")))
        event_ids = [event_id or next(new_ids) for event_id in sent_ids]
        events = EventColumns([event_ids, names, users, addresses, kept_details])
        received = [self._received] * len(records)
        assigned = [_ASSIGNED[False, True]] * len(records)
        if any(sent_ids) or not all(times):
            assigned = [_ASSIGNED[not time, not sent] for time, sent in zip(times, sent_ids, strict=True)]
        return _columns(
            [_AUDIT] * len(records), ids, times, received, context, events, assigned, fingerprints
        )

    def _read_reports(self, records: Sequence[pb.LogRecord]) -> RecordColumns:
        numbers, ids, times, *context = self._read_context(records)
        self._check_levels(numbers, "job", Level.JOB_STATUS)
        sent = [record.job for record in records]
        reports = list(map(self._read_report, sent))
        fingerprints = [
            content_fingerprint(job_content(shared, report, job.attempt, time))
            for shared, report, job, time in zip(
                zip(*context, strict=True), reports, sent, times, strict=True
            )
        ]
        received = range(self._received + 1, self._received + 1 + len(records))
        self._received = received[-1]
        assigned = [_ASSIGNED[not time, False] for time in times]
        levels = [_JOB_STATUS] * len(records)
        return _columns(levels, ids, times, received, context, reports, assigned, fingerprints)

    def _read_lines(self, records: Sequence[pb.LogRecord]) -> RecordColumns:
        numbers, ids, times, *context = self._read_context(records)
        if not _LOG_LEVELS.keys() >= set(numbers):
            raise _bad_level(numbers[0])
        fingerprints = list(map(hash, zip(numbers, *context, times, strict=True)))
        received = [self._received] * len(records)
        assigned = [_ASSIGNED[not time, False] for time in times]
        levels = [_LOG_LEVELS[number] for number in numbers]
        payloads = [None] * len(records)
        return _columns(levels, ids, times, received, context, payloads, assigned, fingerprints)

    def _read_context(self, records: Sequence[pb.LogRecord]) -> Sequence[Any]:
        """Return the columns of the fields that records of all kinds have, checked."""
        numbers, ids, times, messages, sources, attributes, traces, spans = zip(
            *[
                (
                    record.level,
                    record.record_id,
                    record.time_unix_nano,
                    record.message,
                    record.source,
                    record.attributes_json,
                    record.trace_id,
                    record.span_id,
                )
                for record in records
            ],
            strict=True,
        )
        self._check_lengths("record_id", ids, self._limits.max_id_bytes)
        self._check_lengths("source", sources, self._limits.max_name_bytes)
        for field, values, size in (("trace_id", traces, 16), ("span_id", spans, 8)):
            if any(values) and not {0, size}.issuperset(map(len, values)):
                raise RecordInvalid(field, f"has {len(values[0])} bytes; expected {size} or none")
        if any(attributes):
            given = iter(self._check_json("attributes_json", list(filter(None, attributes))))
            attributes = tuple([text and next(given) for text in attributes])
        return numbers, ids, times, messages, sources, attributes, traces, spans

    def _read_report(self, job: pb.JobStatus) -> JobStatus:
        job_id = job.job_id
        job_type = job.job_type
        status = _JOB_STATES.get(job.status)
        details_json = job.details_json
        failure_reason = job.failure_reason
        progress = job.progress if job.HasField("progress") else None
        self._check_lengths("job.job_id", (job_id,), self._limits.max_name_bytes)
        self._check_lengths("job.job_type", (job_type,), self._limits.max_name_bytes)
        self._check_lengths("job.failure_reason", (failure_reason,), self._limits.max_name_bytes)
        if not job_id:
            raise RecordInvalid("job.job_id", "is mandatory")
        if status is None:
            raise _bad_status(job.status)
        if progress is not None and not 0 <= progress <= 100:
            raise RecordInvalid("job.progress", f"{progress} is not a percentage from 0 to 100")
        if job.attempt and job.new_attempt:
            raise RecordInvalid("job.attempt", "must be 0 if `new_attempt` asks for the next one")
        if details_json:
            (details_json,) = self._check_json("job.details_json", (details_json,))
        return JobStatus(
            job_id,
            job_type,
            status,
            progress,
            details_json,
            self._read_labels(job),
            failure_reason,
            job.failure_message,
            job.attempt or 1,
            job.new_attempt,
            job.lease_seconds if job.HasField("lease_seconds") else None,
        )

    def _check_levels(self, numbers: Sequence[int], payload: str, level: Level) -> None:
        if numbers.count(level.value) + numbers.count(0) < len(numbers):
            raise _wrong_level(numbers[0], payload, level)

    def _check_lengths(self, field: str, texts: Sequence[str], limit: int) -> None:
        # However it is encoded, a text of a quarter of the characters is within the limit.
        if max(map(len, texts)) > limit // 4:
            size = max([len(text.encode()) for text in texts])
            if size > limit:
                raise RecordInvalid(field, f"has {size} bytes, more than {limit}")

    def _check_json(self, field: str, texts: Sequence[str]) -> Sequence[str]:
        limits = self._limits
        try:
            texts = check_json_objects(
                texts, max_bytes=limits.max_json_bytes, max_depth=limits.max_json_depth
            )
        except ValueError as error:
            raise RecordInvalid(field, str(error)) from None
        # Before the fingerprint is taken: after a restart it is computed from what was kept.
        return (
            texts
            if self._redactor is None
            else [self._redactor.redact(_ROOTS[field], text) for text in texts]
        )

    def _read_labels(self, job: pb.JobStatus) -> dict[str, str]:
        if not job.labels:
            return {}
        if len(job.labels) > self._limits.max_labels:
            raise RecordInvalid(
                "job.labels", f"has {len(job.labels)} labels, more than {self._limits.max_labels}"
            )
        labels = dict(job.labels)
        if "" in labels:
            raise RecordInvalid("job.labels", "has an empty key")
        self._check_lengths("job.labels", [*labels, *labels.values()], self._limits.max_name_bytes)
        return labels


def _columns(
    levels: Sequence[Level],
    ids: Sequence[str],
    times: Sequence[int],
    received: Sequence[int],
    context: Sequence[Sequence[Any]],
    *rest: Sequence[Any],
) -> RecordColumns:
    """Return the columns of records; `context` and `rest` are those that stand together in `LogRecord`."""
    if not all(times):
        times = [time or now for time, now in zip(times, received, strict=True)]
    message, *others = context
    return RecordColumns([levels, message, ids, times, received, *others, *rest])


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


def _bad_event(event_name: str, user_id: str, source_ip: str) -> RecordInvalid:
    if not event_name:
        return RecordInvalid("audit.event_name", "is mandatory")
    if not user_id:
        return RecordInvalid("audit.user_id", "is mandatory")
    if not source_ip:
        return RecordInvalid("audit.source_ip", "is mandatory; write 'unknown' if there is no address")
    return RecordInvalid("audit.source_ip", f"{_shown(source_ip)} is neither an IP address nor 'unknown'")


def _bad_status(number: int) -> RecordInvalid:
    if number == 0:
        return RecordInvalid("job.status", "is mandatory")
    return RecordInvalid("job.status", f"{number} is not a job state; expected one of {_numbers(JobState)}")


def _bad_level(number: int) -> RecordInvalid:
    if number == 0:
        return RecordInvalid("level", "is mandatory for a record without payload")
    if number in (Level.AUDIT, Level.JOB_STATUS):
        payload = "audit" if number == Level.AUDIT else "job"
        return RecordInvalid("level", f"{Level(number).name} needs the payload `{payload}`")
    return RecordInvalid("level", f"{number} is not a level; expected one of {_numbers(Level)}")


def _wrong_level(number: int, payload: str, expected: Level) -> RecordInvalid:
    return RecordInvalid(
        "level", f"{number} does not fit the payload `{payload}`; expected {expected.value} ({expected.name})"
    )


def _numbers(members: Iterable[Level] | Iterable[JobState]) -> str:
    return ", ".join(f"{member.value} ({member.name})" for member in members)


def _shown(text: str) -> str:
    """Quote the beginning of a sender's text for an error message."""
    return repr(text if len(text) <= 64 else text[:64] + "…")
