from emitd.v1 import record_pb2 as _record_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Job(_message.Message):
    __slots__ = ("job_id", "job_type", "status", "ended", "progress", "message", "details_json", "labels", "source", "attempt", "revision", "create_time_unix_nano", "update_time_unix_nano", "lease_expire_time_unix_nano", "failure_reason", "failure_message", "cancel_requested", "start_time_unix_nano", "end_time_unix_nano", "cancel_reason", "owner")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    LEASE_EXPIRE_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    START_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    END_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REASON_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    job_type: str
    status: _record_pb2.JobState
    ended: bool
    progress: int
    message: str
    details_json: str
    labels: _containers.ScalarMap[str, str]
    source: str
    attempt: int
    revision: int
    create_time_unix_nano: int
    update_time_unix_nano: int
    lease_expire_time_unix_nano: int
    failure_reason: str
    failure_message: str
    cancel_requested: bool
    start_time_unix_nano: int
    end_time_unix_nano: int
    cancel_reason: str
    owner: str
    def __init__(self, job_id: _Optional[str] = ..., job_type: _Optional[str] = ..., status: _Optional[_Union[_record_pb2.JobState, str]] = ..., ended: bool = ..., progress: _Optional[int] = ..., message: _Optional[str] = ..., details_json: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., source: _Optional[str] = ..., attempt: _Optional[int] = ..., revision: _Optional[int] = ..., create_time_unix_nano: _Optional[int] = ..., update_time_unix_nano: _Optional[int] = ..., lease_expire_time_unix_nano: _Optional[int] = ..., failure_reason: _Optional[str] = ..., failure_message: _Optional[str] = ..., cancel_requested: bool = ..., start_time_unix_nano: _Optional[int] = ..., end_time_unix_nano: _Optional[int] = ..., cancel_reason: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class JobTransition(_message.Message):
    __slots__ = ("revision", "attempt", "status", "progress", "time_unix_nano", "failure_reason", "failure_message", "progress_only")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_ONLY_FIELD_NUMBER: _ClassVar[int]
    revision: int
    attempt: int
    status: _record_pb2.JobState
    progress: int
    time_unix_nano: int
    failure_reason: str
    failure_message: str
    progress_only: bool
    def __init__(self, revision: _Optional[int] = ..., attempt: _Optional[int] = ..., status: _Optional[_Union[_record_pb2.JobState, str]] = ..., progress: _Optional[int] = ..., time_unix_nano: _Optional[int] = ..., failure_reason: _Optional[str] = ..., failure_message: _Optional[str] = ..., progress_only: bool = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("job_type", "statuses", "updated_after_unix_nano", "page_size", "page_token", "job_ids", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AFTER_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    job_type: str
    statuses: _containers.RepeatedScalarFieldContainer[_record_pb2.JobState]
    updated_after_unix_nano: int
    page_size: int
    page_token: str
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    def __init__(self, job_type: _Optional[str] = ..., statuses: _Optional[_Iterable[_Union[_record_pb2.JobState, str]]] = ..., updated_after_unix_nano: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., job_ids: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListJobTransitionsRequest(_message.Message):
    __slots__ = ("job_id", "after_revision", "page_size", "page_token")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    after_revision: int
    page_size: int
    page_token: str
    def __init__(self, job_id: _Optional[str] = ..., after_revision: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListJobTransitionsResponse(_message.Message):
    __slots__ = ("transitions", "next_page_token", "history_truncated")
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    transitions: _containers.RepeatedCompositeFieldContainer[JobTransition]
    next_page_token: str
    history_truncated: bool
    def __init__(self, transitions: _Optional[_Iterable[_Union[JobTransition, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., history_truncated: bool = ...) -> None: ...

class RequestCancelRequest(_message.Message):
    __slots__ = ("job_id", "reason")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reason: str
    def __init__(self, job_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RequestCancelResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class WatchJobsRequest(_message.Message):
    __slots__ = ("job_type", "statuses", "job_ids", "labels", "min_interval_ms")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    job_type: str
    statuses: _containers.RepeatedScalarFieldContainer[_record_pb2.JobState]
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    min_interval_ms: int
    def __init__(self, job_type: _Optional[str] = ..., statuses: _Optional[_Iterable[_Union[_record_pb2.JobState, str]]] = ..., job_ids: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., min_interval_ms: _Optional[int] = ...) -> None: ...

class WatchJobsResponse(_message.Message):
    __slots__ = ("changes", "snapshot_end", "heartbeat")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_END_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[JobChange]
    snapshot_end: bool
    heartbeat: bool
    def __init__(self, changes: _Optional[_Iterable[_Union[JobChange, _Mapping]]] = ..., snapshot_end: bool = ..., heartbeat: bool = ...) -> None: ...

class JobChange(_message.Message):
    __slots__ = ("job", "left_filter")
    JOB_FIELD_NUMBER: _ClassVar[int]
    LEFT_FILTER_FIELD_NUMBER: _ClassVar[int]
    job: Job
    left_filter: bool
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., left_filter: bool = ...) -> None: ...

class WatchJobRequest(_message.Message):
    __slots__ = ("job_id", "after_revision", "wait_for_creation", "follow", "min_interval_ms")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_CREATION_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    after_revision: int
    wait_for_creation: bool
    follow: bool
    min_interval_ms: int
    def __init__(self, job_id: _Optional[str] = ..., after_revision: _Optional[int] = ..., wait_for_creation: bool = ..., follow: bool = ..., min_interval_ms: _Optional[int] = ...) -> None: ...

class WatchJobResponse(_message.Message):
    __slots__ = ("job", "transitions", "coalesced_count", "heartbeat", "history_truncated", "has_more")
    JOB_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    COALESCED_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    job: Job
    transitions: _containers.RepeatedCompositeFieldContainer[JobTransition]
    coalesced_count: int
    heartbeat: bool
    history_truncated: bool
    has_more: bool
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ..., transitions: _Optional[_Iterable[_Union[JobTransition, _Mapping]]] = ..., coalesced_count: _Optional[int] = ..., heartbeat: bool = ..., history_truncated: bool = ..., has_more: bool = ...) -> None: ...
