from emitd.v1 import job_pb2 as _job_pb2
from emitd.v1 import log_line_pb2 as _log_line_pb2
from emitd.v1 import record_pb2 as _record_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_UNSPECIFIED: _ClassVar[Delivery]
    DELIVERY_COMMITTED: _ClassVar[Delivery]
    DELIVERY_QUEUED: _ClassVar[Delivery]
DELIVERY_UNSPECIFIED: Delivery
DELIVERY_COMMITTED: Delivery
DELIVERY_QUEUED: Delivery

class EmitRequest(_message.Message):
    __slots__ = ("record",)
    RECORD_FIELD_NUMBER: _ClassVar[int]
    record: _record_pb2.LogRecord
    def __init__(self, record: _Optional[_Union[_record_pb2.LogRecord, _Mapping]] = ...) -> None: ...

class EmitResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: Receipt
    def __init__(self, receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class EmitBatchRequest(_message.Message):
    __slots__ = ("records", "want_receipts")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    WANT_RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[_record_pb2.LogRecord]
    want_receipts: bool
    def __init__(self, records: _Optional[_Iterable[_Union[_record_pb2.LogRecord, _Mapping]]] = ..., want_receipts: bool = ...) -> None: ...

class EmitBatchResponse(_message.Message):
    __slots__ = ("accepted_count", "duplicate_count", "errors", "job_notices", "receipts", "server_id")
    ACCEPTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    JOB_NOTICES_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    accepted_count: int
    duplicate_count: int
    errors: _containers.RepeatedCompositeFieldContainer[RecordError]
    job_notices: _containers.RepeatedCompositeFieldContainer[JobNotice]
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    server_id: int
    def __init__(self, accepted_count: _Optional[int] = ..., duplicate_count: _Optional[int] = ..., errors: _Optional[_Iterable[_Union[RecordError, _Mapping]]] = ..., job_notices: _Optional[_Iterable[_Union[JobNotice, _Mapping]]] = ..., receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ..., server_id: _Optional[int] = ...) -> None: ...

class RecordError(_message.Message):
    __slots__ = ("index", "status", "retryable")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    index: int
    status: _status_pb2.Status
    retryable: bool
    def __init__(self, index: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., retryable: bool = ...) -> None: ...

class JobNotice(_message.Message):
    __slots__ = ("index", "job_id", "stale_reason", "current_attempt", "cancel_requested")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STALE_REASON_FIELD_NUMBER: _ClassVar[int]
    CURRENT_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    index: int
    job_id: str
    stale_reason: str
    current_attempt: int
    cancel_requested: bool
    def __init__(self, index: _Optional[int] = ..., job_id: _Optional[str] = ..., stale_reason: _Optional[str] = ..., current_attempt: _Optional[int] = ..., cancel_requested: bool = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("record_id", "duplicate", "handlers", "audit", "job")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    HANDLERS_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    record_id: str
    duplicate: bool
    handlers: _containers.RepeatedCompositeFieldContainer[HandlerReceipt]
    audit: AuditReceipt
    job: JobReceipt
    def __init__(self, record_id: _Optional[str] = ..., duplicate: bool = ..., handlers: _Optional[_Iterable[_Union[HandlerReceipt, _Mapping]]] = ..., audit: _Optional[_Union[AuditReceipt, _Mapping]] = ..., job: _Optional[_Union[JobReceipt, _Mapping]] = ...) -> None: ...

class HandlerReceipt(_message.Message):
    __slots__ = ("handler", "delivery")
    HANDLER_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    handler: str
    delivery: Delivery
    def __init__(self, handler: _Optional[str] = ..., delivery: _Optional[_Union[Delivery, str]] = ...) -> None: ...

class AuditReceipt(_message.Message):
    __slots__ = ("log_id", "event_id", "leaf_index", "leaf_hash")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    LEAF_INDEX_FIELD_NUMBER: _ClassVar[int]
    LEAF_HASH_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    event_id: str
    leaf_index: int
    leaf_hash: bytes
    def __init__(self, log_id: _Optional[str] = ..., event_id: _Optional[str] = ..., leaf_index: _Optional[int] = ..., leaf_hash: _Optional[bytes] = ...) -> None: ...

class JobReceipt(_message.Message):
    __slots__ = ("revision", "attempt", "applied", "stale_reason", "cancel_requested")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    STALE_REASON_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    attempt: int
    applied: bool
    stale_reason: str
    cancel_requested: bool
    def __init__(self, revision: _Optional[int] = ..., attempt: _Optional[int] = ..., applied: bool = ..., stale_reason: _Optional[str] = ..., cancel_requested: bool = ...) -> None: ...
