from emitd.v1 import record_pb2 as _record_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuditEntry(_message.Message):
    __slots__ = ("leaf_index", "line", "leaf_hash", "receive_time_unix_nano", "record")
    LEAF_INDEX_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    LEAF_HASH_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_TIME_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    leaf_index: int
    line: bytes
    leaf_hash: bytes
    receive_time_unix_nano: int
    record: _record_pb2.LogRecord
    def __init__(self, leaf_index: _Optional[int] = ..., line: _Optional[bytes] = ..., leaf_hash: _Optional[bytes] = ..., receive_time_unix_nano: _Optional[int] = ..., record: _Optional[_Union[_record_pb2.LogRecord, _Mapping]] = ...) -> None: ...

class GetCheckpointRequest(_message.Message):
    __slots__ = ("log_id",)
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    def __init__(self, log_id: _Optional[str] = ...) -> None: ...

class GetCheckpointResponse(_message.Message):
    __slots__ = ("log_id", "checkpoint", "tree_size", "root_hash", "vkeys")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_HASH_FIELD_NUMBER: _ClassVar[int]
    VKEYS_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    checkpoint: bytes
    tree_size: int
    root_hash: bytes
    vkeys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, log_id: _Optional[str] = ..., checkpoint: _Optional[bytes] = ..., tree_size: _Optional[int] = ..., root_hash: _Optional[bytes] = ..., vkeys: _Optional[_Iterable[str]] = ...) -> None: ...

class GetInclusionProofRequest(_message.Message):
    __slots__ = ("log_id", "leaf_index", "event_id", "tree_size", "source")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    LEAF_INDEX_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    leaf_index: int
    event_id: str
    tree_size: int
    source: str
    def __init__(self, log_id: _Optional[str] = ..., leaf_index: _Optional[int] = ..., event_id: _Optional[str] = ..., tree_size: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class GetInclusionProofResponse(_message.Message):
    __slots__ = ("log_id", "leaf_index", "leaf_hash", "line", "tree_size", "hashes", "checkpoint")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    LEAF_INDEX_FIELD_NUMBER: _ClassVar[int]
    LEAF_HASH_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    leaf_index: int
    leaf_hash: bytes
    line: bytes
    tree_size: int
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    checkpoint: bytes
    def __init__(self, log_id: _Optional[str] = ..., leaf_index: _Optional[int] = ..., leaf_hash: _Optional[bytes] = ..., line: _Optional[bytes] = ..., tree_size: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ..., checkpoint: _Optional[bytes] = ...) -> None: ...

class GetConsistencyProofRequest(_message.Message):
    __slots__ = ("log_id", "old_size", "new_size")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEW_SIZE_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    old_size: int
    new_size: int
    def __init__(self, log_id: _Optional[str] = ..., old_size: _Optional[int] = ..., new_size: _Optional[int] = ...) -> None: ...

class GetConsistencyProofResponse(_message.Message):
    __slots__ = ("log_id", "old_size", "new_size", "hashes", "checkpoint")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEW_SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    old_size: int
    new_size: int
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    checkpoint: bytes
    def __init__(self, log_id: _Optional[str] = ..., old_size: _Optional[int] = ..., new_size: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ..., checkpoint: _Optional[bytes] = ...) -> None: ...

class ListAuditEventsRequest(_message.Message):
    __slots__ = ("log_id", "received_after_unix_nano", "received_before_unix_nano", "event_name_prefix", "user_id", "source_ip", "event_id", "newest_first", "page_size", "page_token", "source")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AFTER_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BEFORE_UNIX_NANO_FIELD_NUMBER: _ClassVar[int]
    EVENT_NAME_PREFIX_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IP_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    received_after_unix_nano: int
    received_before_unix_nano: int
    event_name_prefix: str
    user_id: str
    source_ip: str
    event_id: str
    newest_first: bool
    page_size: int
    page_token: str
    source: str
    def __init__(self, log_id: _Optional[str] = ..., received_after_unix_nano: _Optional[int] = ..., received_before_unix_nano: _Optional[int] = ..., event_name_prefix: _Optional[str] = ..., user_id: _Optional[str] = ..., source_ip: _Optional[str] = ..., event_id: _Optional[str] = ..., newest_first: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class ListAuditEventsResponse(_message.Message):
    __slots__ = ("log_id", "entries", "next_page_token")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    next_page_token: str
    def __init__(self, log_id: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class TailAuditEventsRequest(_message.Message):
    __slots__ = ("log_id", "from_index", "event_name_prefix", "user_id", "source_ip")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_INDEX_FIELD_NUMBER: _ClassVar[int]
    EVENT_NAME_PREFIX_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IP_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    from_index: int
    event_name_prefix: str
    user_id: str
    source_ip: str
    def __init__(self, log_id: _Optional[str] = ..., from_index: _Optional[int] = ..., event_name_prefix: _Optional[str] = ..., user_id: _Optional[str] = ..., source_ip: _Optional[str] = ...) -> None: ...

class TailAuditEventsResponse(_message.Message):
    __slots__ = ("log_id", "entries", "heartbeat", "next_index")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    heartbeat: bool
    next_index: int
    def __init__(self, log_id: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ..., heartbeat: bool = ..., next_index: _Optional[int] = ...) -> None: ...
