from emitd.v1 import record_pb2 as _record_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogLine(_message.Message):
    __slots__ = ("receive_time_unix_nano", "record")
    RECEIVE_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    receive_time_unix_nano: int
    record: _record_pb2.LogRecord
    def __init__(self, receive_time_unix_nano: _Optional[int] = ..., record: _Optional[_Union[_record_pb2.LogRecord, _Mapping]] = ...) -> None: ...

class LogFilter(_message.Message):
    __slots__ = ("min_level", "sources", "text", "job_id", "trace_id")
    MIN_LEVEL_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    min_level: _record_pb2.Level
    sources: _containers.RepeatedScalarFieldContainer[str]
    text: str
    job_id: str
    trace_id: bytes
    def __init__(self, min_level: _Optional[_Union[_record_pb2.Level, str]] = ..., sources: _Optional[_Iterable[str]] = ..., text: _Optional[str] = ..., job_id: _Optional[str] = ..., trace_id: _Optional[bytes] = ...) -> None: ...

class ListLogsRequest(_message.Message):
    __slots__ = ("filter", "received_after_unix_nano", "received_before_unix_nano", "newest_first", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AFTER_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BEFORE_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: LogFilter
    received_after_unix_nano: int
    received_before_unix_nano: int
    newest_first: bool
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[_Union[LogFilter, _Mapping]] = ..., received_after_unix_nano: _Optional[int] = ..., received_before_unix_nano: _Optional[int] = ..., newest_first: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLogsResponse(_message.Message):
    __slots__ = ("lines", "next_page_token", "history_truncated")
    LINES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    next_page_token: str
    history_truncated: bool
    def __init__(self, lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., history_truncated: bool = ...) -> None: ...

class TailLogsRequest(_message.Message):
    __slots__ = ("filter", "received_after_unix_nano", "last", "resume_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AFTER_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: LogFilter
    received_after_unix_nano: int
    last: int
    resume_token: str
    def __init__(self, filter: _Optional[_Union[LogFilter, _Mapping]] = ..., received_after_unix_nano: _Optional[int] = ..., last: _Optional[int] = ..., resume_token: _Optional[str] = ...) -> None: ...

class TailLogsResponse(_message.Message):
    __slots__ = ("lines", "missed_count", "heartbeat", "resume_token", "history_truncated")
    LINES_FIELD_NUMBER: _ClassVar[int]
    MISSED_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    missed_count: int
    heartbeat: bool
    resume_token: str
    history_truncated: bool
    def __init__(self, lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ..., missed_count: _Optional[int] = ..., heartbeat: bool = ..., resume_token: _Optional[str] = ..., history_truncated: bool = ...) -> None: ...
