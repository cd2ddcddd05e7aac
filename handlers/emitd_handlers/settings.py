"""The keys that every handler's entry in `logging_config.yml` takes, in addition to its own."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, ClassVar, TypeAlias

import msgspec
from msgspec import Meta

from emitd_handlers.record import Level

__all__ = [
    "CommittedSettings",
    "Delivery",
    "DeliverySettings",
    "HandlerSettings",
    "OverflowPolicy",
    "PositiveInt",
    "PositiveSeconds",
    "QueuedSettings",
    "Seconds",
    "flat_keys",
]

#: Types for settings: the loader of the configuration checks their bounds.
PositiveInt: TypeAlias = Annotated[int, Meta(ge=1)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0)]
PositiveSeconds: TypeAlias = Annotated[float, Meta(gt=0)]


class Delivery(Enum):
    """How a handler takes records."""

    #: The reply to the sender waits until the handler has committed, and reports its failure.
    COMMITTED = "committed"
    #: Records go through a bounded queue to the handler; the reply does not wait.
    QUEUED = "queued"


class OverflowPolicy(Enum):
    """What happens to a record that finds its handler's queue full."""

    #: The sender waits for room, at most `block_seconds`; then the record is dropped and counted.
    BLOCK = "block"
    DROP_NEWEST = "drop_newest"
    DROP_OLDEST = "drop_oldest"


class CommittedSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="committed"
):
    """The keys of `delivery: {kind: committed, ...}`."""

    kind: ClassVar[Delivery] = Delivery.COMMITTED

    #: How long a reply waits for the handler, in seconds.
    timeout_seconds: PositiveSeconds = 10.0
    #: Requests that wait are joined up to this, if the handler joins any; one that has more goes by itself.
    max_group_records: PositiveInt = 1024
    max_group_bytes: PositiveInt = 1024 * 1024
    #: How long a group waits for the senders that were just answered, at most, in milliseconds.
    linger_ms: Annotated[float, Meta(ge=0)] = 2.0


class QueuedSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="queued"
):
    """The keys of `delivery: {kind: queued, ...}`."""

    kind: ClassVar[Delivery] = Delivery.QUEUED

    #: How many records the queue holds.
    max_records: PositiveInt = 10_000
    #: How many bytes of memory the queued records take, with those that the handler has just been offered.
    max_bytes: PositiveInt = 64 * 1024 * 1024
    #: What happens to a record that finds the queue full.
    overflow: OverflowPolicy = OverflowPolicy.DROP_NEWEST
    #: With `overflow: block`: how long a sender waits for room, in seconds.
    block_seconds: Seconds = 1.0
    #: The most records that the handler gets at once.
    batch_size: PositiveInt = 512
    #: How often a record that the handler refused as retryable is offered again before it is dropped.
    max_retries: Annotated[int, Meta(ge=0)] = 5
    #: The wait before the first retry, in seconds; it doubles with each, up to `retry_max_seconds`.
    retry_initial_seconds: PositiveSeconds = 0.1
    #: The longest wait before a retry, in seconds.
    retry_max_seconds: PositiveSeconds = 10.0


DeliverySettings: TypeAlias = CommittedSettings | QueuedSettings


class HandlerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every entry takes. A handler with settings of its own derives its struct from this one."""

    #: False keeps the entry in the file and the handler out of the service.
    enabled: bool = True
    #: Whether the service is ready only while this handler works; None: as its class says.
    required: bool | None = None
    #: Which levels the handler takes; None: its class's `default_levels`.
    levels: tuple[Level, ...] | None = None
    #: Only records whose source matches one of these patterns: `*` stands for any text; None: of any source.
    sources: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    #: No records whose source matches one of these patterns.
    exclude_sources: tuple[str, ...] = ()
    #: A word, `committed` or `queued`, or a mapping with `kind` and its keys; None: its class's `default_delivery`.
    delivery: Delivery | DeliverySettings | None = None


def flat_keys(kind: type[DeliverySettings]) -> Mapping[str, str]:
    """Return the keys of a kind as entries wrote them next to `delivery:`, the old form, each with its name now."""
    return {"queue_size" if name == "max_records" else name: name for name in kind.__struct_fields__}
