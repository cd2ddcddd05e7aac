"""The settings of the service itself: the sections of `logging_config.yml` under `server:`.

Each section is an immutable struct, and the defaults are here. The settings of handlers are the handlers' own.
"""

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Self, TypeAlias

import msgspec

from emitd_handlers.paths import SettingInvalid, resolve_path
from emitd_handlers.principal import GROUP, check_name
from emitd_handlers.record import Level
from emitd_handlers.scope import ANY
from emitd_handlers.settings import PositiveInt, PositiveSeconds, Seconds
from emitd_handlers.text.address import UNIX

_Patterns: TypeAlias = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)
]


class Role(Enum):
    """What a grant lets its principals do."""

    #: Send records.
    WRITER = "writer"
    #: Read jobs and log lines.
    WATCHER = "watcher"
    #: Read the audit trail and its proofs.
    AUDITOR = "auditor"
    #: Ask for the end of jobs, and read as a watcher.
    OPERATOR = "operator"


#: Auto: uvloop if it is installed, otherwise asyncio's own.
LoopKind = Enum("LoopKind", {"AUTO": "auto", "ASYNCIO": "asyncio", "UVLOOP": "uvloop"})


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Identity(Enum):
    """How the callers of a listener are known."""

    #: They are not, or all are the `principal` of the entry.
    NONE = "none"
    TOKEN = "token"
    #: A client certificate.
    CERTIFICATE = "certificate"


class TlsSettings(_Section, frozen=True, kw_only=True):
    """The files of a listener with TLS, all PEM. They are read again when they change."""

    #: The certificate of the server, followed by those between it and the authority.
    cert_file: Path
    #: Its private key, without a passphrase.
    key_file: Path
    #: The authorities whose client certificates are accepted.
    client_ca_file: Path | None = None


class ListenEntry(_Section, frozen=True, kw_only=True):
    """A listener: one address, who may connect, and how callers are known."""

    #: Host and port, or `unix:` and a path; port 0 picks a free one.
    address: str
    tls: TlsSettings | None = None
    identity: Identity = Identity.NONE
    #: A Unix socket: the name of all who connect; the socket's mode is the check.
    principal: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    #: Beyond loopback without TLS or without identity.
    insecure: bool = False
    #: Only the health service is served.
    health_only: bool = False

    def __post_init__(self) -> None:
        """Raise SettingInvalid if the keys do not go together."""
        wants_certificate = self.identity is Identity.CERTIFICATE
        has_authorities = self.tls is not None and self.tls.client_ca_file is not None
        is_named = self.principal is not None
        problems = {
            "a Unix socket has no TLS: server.socket_mode says who may connect": self.is_unix and self.tls,
            "'identity: certificate' needs tls.client_ca_file": wants_certificate and not has_authorities,
            "tls.client_ca_file needs 'identity: certificate'": has_authorities and not wants_certificate,
            "'principal' is only for a Unix socket": is_named and not self.is_unix,
            "'principal' names every caller, and so does 'identity': remove one": is_named
            and self.identity is not Identity.NONE,
            "'health_only' asks no caller who it is: remove 'identity' and 'principal'": self.health_only
            and (is_named or self.identity is not Identity.NONE),
            "'insecure' is not needed: remove it": self.insecure and (self.is_guarded or self.is_unix),
        }
        if found := [text for text, is_so in problems.items() if is_so]:
            raise SettingInvalid("; ".join(found))

    @property
    def is_guarded(self) -> bool:
        """Whether the listener may be reached from other machines."""
        return self.health_only or (self.tls is not None and self.identity is not Identity.NONE)

    @property
    def is_unix(self) -> bool:
        """Whether the address is that of a Unix socket."""
        return self.address.startswith(UNIX)


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
    #: Audit events are refused rather than leave less of their disk free, or less than a sixteenth of a small one, so
    #: that all else can still be written, and the service stop cleanly.
    min_free_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024 * 1024
    #: What each principal may send a second, on average and at once; a record costs at least 256. None: any.
    bytes_per_second: PositiveInt | None = None
    #: Streams that each principal may have open.
    max_streams_per_principal: PositiveInt = 1000


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


class GrantSettings(_Section, frozen=True, kw_only=True):
    """What some principals may do: one role, for the records that match every respect. `*` stands for any text."""

    #: Names of principals, and groups as `group:NAME`.
    to: Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)]
    role: Role
    #: None: all.
    levels: tuple[Level, ...] | None = None
    sources: _Patterns = ANY
    #: Of audit events.
    event_names: _Patterns = ANY
    #: Of jobs.
    job_types: _Patterns = ANY
    #: A writer may pass on what others sent: their `submitted_by`, and events and lines of another emitd itself.
    relay: bool = False

    def __post_init__(self) -> None:
        for name in self.to:
            check_name(name.removeprefix(GROUP), "'to': a name")
            if "*" in name:
                raise ValueError("'to' has names, and groups as 'group:NAME', but no patterns")
        if self.levels == ():
            raise ValueError("'levels' is empty; leave it out for all")
        if self.relay and self.role is not Role.WRITER:
            raise ValueError("relay is for the role writer")


class AccessSettings(_Section, frozen=True, kw_only=True):
    """Who calls, and who may do what at listeners that ask. What no grant allows is denied."""

    #: The list of static tokens, which `emitd token` writes.
    tokens_file: Path | None = None
    jwt: JwtSettings | None = None
    #: What names a client certificate that has no SPIFFE id; None: only those with one are accepted.
    certificate_name: CertificateName | None = None
    #: Whether audit lines have the address that a caller with a name connects from.
    peer_address: bool = False
    grants: tuple[GrantSettings, ...] = ()


class ServerSettings(_Section, frozen=True, kw_only=True):
    """The service itself."""

    #: One address, or the listeners.
    listen: str | tuple[ListenEntry, ...] = "127.0.0.1:50051"
    #: The mode of a Unix socket, in octal digits: who may connect.
    socket_mode: Annotated[str, msgspec.Meta(pattern="^0[0-7]{3}$")] = "0600"
    #: How many ids of senders each handler remembers, to recognise retries.
    idempotency_window: PositiveInt = 100_000
    #: How much memory the last log lines may take that TailLogs and ListLogs read; 0: none are kept.
    recent_lines_bytes: Annotated[int, msgspec.Meta(ge=0)] = 8 * 1024 * 1024
    #: Keys of attributes and details whose values are replaced before any handler sees them: `*` stands for any text.
    redact: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    #: Whether the contract can be asked for, as grpcurl does.
    reflection: bool = True
    #: An event loop blocked for longer is reported on standard error, with the line that blocks it.
    watchdog_seconds: PositiveSeconds = 0.5
    access: AccessSettings = AccessSettings()
    #: The event loop of `emitd serve`; an application that holds the service keeps its own.
    loop: LoopKind = LoopKind.AUTO
    limits: LimitSettings = LimitSettings()
    watch: WatchSettings = WatchSettings()
    audit: AuditSettings = AuditSettings()
    shutdown: ShutdownSettings = ShutdownSettings()

    def listeners(self, key: str = "server.listen") -> dict[str, ListenEntry]:
        """Return what to listen on, each under its path in the configuration; `key` is what set `listen`."""
        if isinstance(self.listen, str):
            return {key: ListenEntry(address=self.listen)}
        return {f"{key}[{index}]": entry for index, entry in enumerate(self.listen)}
