"""The settings of the service itself: the sections of `logging_config.yml` under `server:`.

Each section is an immutable struct, and the defaults are here. The settings of handlers are the handlers' own.
"""

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Self, TypeAlias

import msgspec

from emitd_handlers.paths import SettingInvalid, resolve_path
from emitd_handlers.settings import PositiveInt, PositiveSeconds, Seconds


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class LimitSettings(_Section, frozen=True, kw_only=True):
    """Larger requests are refused with INVALID_ARGUMENT naming the field. Sizes are in bytes of UTF-8."""

    #: What requests, queues, and replies not yet taken may hold in all; log lines are refused above 80 % of it.
    memory_bytes: PositiveInt = 256 * 1024 * 1024
    #: A whole request after decompression, and so a batch.
    max_request_bytes: PositiveInt = 4 * 1024 * 1024
    #: The records of one EmitBatch.
    max_batch_records: PositiveInt = 10_000
    #: One record: the sum of its strings.
    max_record_bytes: PositiveInt = 256 * 1024
    #: record_id and event_id.
    max_id_bytes: PositiveInt = 256
    #: source, event_name, user_id, job_id, job_type, failure_reason, and each label's key and value.
    max_name_bytes: PositiveInt = 256
    #: Labels of one job.
    max_labels: PositiveInt = 64
    #: details_json, attributes_json.
    max_json_bytes: PositiveInt = 64 * 1024
    #: How deep details_json and attributes_json may nest.
    max_json_depth: PositiveInt = 32


class WatchSettings(_Section, frozen=True, kw_only=True):
    """WatchJob and WatchJobs; heartbeat and stall also of TailAuditEvents; these two and `max_watchers` of TailLogs."""

    #: A watcher gets a heartbeat after this long without an update.
    heartbeat_seconds: PositiveSeconds = 15.0
    #: A stream whose reader takes nothing for this long ends with RESOURCE_EXHAUSTED.
    stall_seconds: PositiveSeconds = 60.0
    #: The least time between two messages that only have progress, unless the request sets it.
    min_interval_ms: PositiveInt = 100
    #: Watch streams open at once; more get RESOURCE_EXHAUSTED.
    max_watchers: PositiveInt = 10_000
    #: Jobs in one WatchJobs stream; more are refused.
    max_jobs: PositiveInt = 10_000


class AuditSettings(_Section, frozen=True, kw_only=True):
    """AuditService."""

    #: How much of a log is read for one page of ListAuditEvents; the page then ends early.
    max_scan_bytes: PositiveInt = 64 * 1024 * 1024
    #: TailAuditEvents streams open at once; more get RESOURCE_EXHAUSTED.
    max_tails: PositiveInt = 1000


class ShutdownSettings(_Section, frozen=True, kw_only=True):
    """What happens when the service is asked to stop."""

    #: How long to report NOT_SERVING before calls are refused, so that load balancers notice.
    not_serving_seconds: Seconds = 0.0
    #: How long calls and queues have to finish, after that.
    drain_seconds: Seconds = 10.0


class KeysPlace(str):
    """The path of a file, or an https URL."""

    @classmethod
    def resolve(cls, text: str, base_dir: Path) -> Self:
        """Return the place, a path as other settings have it. Raises SettingInvalid, which does not show the text."""
        if "://" not in text:
            return cls(resolve_path(text, base_dir))
        if not re.fullmatch(r"https://[A-Za-z0-9.:\[\]-]+(/[!-~]*)?", text):
            raise SettingInvalid(
                "it is neither a path nor a URL such as https://issuer.example/keys, without a user"
            )
        return cls(text)

    @property
    def is_url(self) -> bool:
        """Whether it is a URL."""
        return "://" in self


Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


class JwtSettings(_Section, frozen=True, kw_only=True):
    """JWT of one issuer, as callers send them."""

    #: What `iss` and `aud` must be.
    issuer: Text
    audience: Text
    #: The issuer's public keys, a JWKS: a file, or an https URL, which is asked every half minute.
    keys: KeysPlace
    #: The claim with the caller's groups, a list of texts; None: it has none.
    groups_claim: Text | None = None
    #: For the URL: a PEM file of the authorities that are trusted instead of the system's.
    ca_file: Path | None = None
    #: For the URL: a file with the bearer token to send.
    token_file: Path | None = None


class CertificateName(Enum):
    """The kind of subject alternative name that names the caller."""

    URI = "uri"
    DNS = "dns"
    EMAIL = "email"


class AccessSettings(_Section, frozen=True, kw_only=True):
    """Who calls."""

    #: The list of static tokens, which `emitd token` writes.
    tokens_file: Path | None = None
    jwt: JwtSettings | None = None
    #: What names a client certificate that has no SPIFFE id; None: only those with one are accepted.
    certificate_name: CertificateName | None = None


class ServerSettings(_Section, frozen=True, kw_only=True):
    """The service itself."""

    #: Host and port, or `unix:` and a path; port 0 picks a free one.
    listen: str = "127.0.0.1:50051"
    #: The mode of a Unix socket, in octal digits: who may connect.
    socket_mode: Annotated[str, msgspec.Meta(pattern="^0[0-7]{3}$")] = "0600"
    #: How many ids of senders each handler remembers, to recognise retries.
    idempotency_window: PositiveInt = 100_000
    #: How much memory the last log lines may take that TailLogs and ListLogs read; 0: none are kept.
    recent_lines_bytes: Annotated[int, msgspec.Meta(ge=0)] = 8 * 1024 * 1024
    #: Keys of attributes and details whose values are replaced before any handler sees them: `*` stands for any text.
    redact: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    #: An event loop blocked for longer is reported on standard error, with the line that blocks it.
    watchdog_seconds: PositiveSeconds = 0.5
    access: AccessSettings = AccessSettings()
    limits: LimitSettings = LimitSettings()
    watch: WatchSettings = WatchSettings()
    audit: AuditSettings = AuditSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
