"""`ClientSettings`: everything that can be set of a client, by argument or by environment, with its default."""

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from emitd.credentials import MAX_TOKEN_CHARACTERS, BadSetting, Credentials, Secret, is_token
from emitd.records.encoding import as_text
from emitd.records.levels import is_level, level_number
from emitd.runtime.backoff import Backoff
from emitd_handlers.text.address import ServerAddress, ip_of, read_server_address, shown

_ENVIRONMENT_PREFIX = "EMITD_"
#: Of gRPC, as the next: says what the addresses after it show themselves.
_IP_SCHEME = re.compile(r"^ipv[46]:")
#: All addresses that a name server has for one name.
_DNS = re.compile(r"dns:(?://[^/]*/)?([^/]*)")
_ADDRESS_EXPECTED = "HOST:PORT, [IPV6]:PORT, unix:PATH, dns:///NAME:PORT, or several HOST:PORT with commas"
_BLOCK = re.compile(r"block(?:\(\s*(\d+(?:\.\d+)?)\s*\))?")

_FILES = ("ca_file", "cert_file", "key_file", "token_file")
_TOKENS = ("token", "token_file")

_Count = Annotated[int, Meta(ge=1)]
#: The longest that a thread can wait.
_MAX_SECONDS = threading.TIMEOUT_MAX
_Seconds = Annotated[float, Meta(ge=0, le=_MAX_SECONDS)]
_PositiveSeconds = Annotated[float, Meta(gt=0, le=_MAX_SECONDS)]


class Overflow(msgspec.Struct, frozen=True):
    """What happens to a log line if the queue has no room."""

    #: Make room by dropping the oldest line; else the new one is dropped.
    drops_oldest: bool = False
    #: How long its caller first waits for room.
    block_seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `drop_newest`, `drop_oldest`, or `block(SECONDS)`, after which the new line is dropped (`block`: 1)."""
        if text == "drop_newest":
            return cls()
        if text == "drop_oldest":
            return cls(drops_oldest=True)
        if (match := _BLOCK.fullmatch(text)) and (seconds := float(match[1] or 1)) <= _MAX_SECONDS:
            return cls(block_seconds=seconds)
        raise ValueError(f"'{text}' is not drop_newest, drop_oldest or block(SECONDS)")


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a client. Each can stand in the environment, as `EMITD_` and its name in capitals."""

    #: HOST:PORT of the server, or `unix:PATH`. Several HOST:PORT, separated by commas, and all that a name stands for,
    #: are used in turn.
    address: str = "127.0.0.1:50051"
    #: Whether to speak TLS. Default: if `ca_file` or `cert_file` is set.
    tls: bool | None = None
    #: PEM files: who signs the server's certificate, in place of those that gRPC trusts; and the client's own
    #: certificate, with its key. They are read again when they change, as is `token_file`.
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    #: The bearer token that comes with each call, or the file that holds it. It is never shown.
    token: str = ""
    token_file: str = ""
    #: `source` of every record. Default: the program's name.
    source: str = ""
    #: Log lines below this level are not made.
    level: str | int = "DEBUG"
    #: How long an awaited call, such as `audit`, is tried.
    timeout: _PositiveSeconds = 10.0
    #: How long the server may take for one call; then the call is tried again.
    call_timeout: _PositiveSeconds = 10.0
    #: How long `close`, and the end of the program, wait for what is on its way.
    close_timeout: _Seconds = 5.0
    #: How long a fork waits for calls under way.
    fork_wait: _Seconds = 1.0
    #: How many log lines wait at most, and how many bytes of memory they take.
    max_queue_records: _Count = 20_000
    max_queue_bytes: _Count = 64 * 1024 * 1024
    #: `drop_newest`, `drop_oldest` or `block(SECONDS)`: for log lines that find no room.
    overflow: str = "drop_newest"
    #: The most records and bytes of a batch, and how long a log line waits for it to fill.
    batch_records: _Count = 512
    batch_bytes: _Count = 1024 * 1024
    linger: _Seconds = 0.1
    #: How many batches of log lines are under way at most.
    max_in_flight: _Count = 2
    #: The pauses between tries: they double from the first to the second, with jitter.
    backoff_initial: _PositiveSeconds = 0.1
    backoff_max: _PositiveSeconds = 2.0
    #: The least time between two reports of one job that only bring progress.
    tick_interval: _PositiveSeconds = 0.1
    #: The folder of the spool; `off`: none. Default: `emitd/spool` in the user's state folder (XDG).
    spool: str = ""
    #: What is spooled: `audit`, or `all` records.
    spool_records: str = "audit"
    max_spool_bytes: _Count = 64 * 1024 * 1024
    #: Lines accepted this shortly before a server died, up to this many, count as `unconfirmed`.
    unconfirmed_seconds: _Seconds = 60.0
    unconfirmed_records: _Count = 10_000
    #: The least time between two reports of drops on standard error.
    report_interval: _PositiveSeconds = 60.0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "token", Secret(self.token))

    @classmethod
    def read(cls, given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Self:
        """Return the given settings that are not None, else those in the environment, else the defaults.

        Raises ValueError naming the setting that is wrong, and TypeError for an unknown one.
        """
        if unknown := sorted(given.keys() - set(cls.__struct_fields__)):
            raise TypeError(f"there is no setting '{unknown[0]}'")
        values: dict[str, Any] = {}
        names: dict[str, str] = {}
        if any(
            given.get(name) is not None for name in _TOKENS
        ):  # one of the environment would be a second one
            environ = {name: value for name, value in environ.items() if name[6:].lower() not in _TOKENS}
        for field in msgspec.structs.fields(cls):
            variable = _ENVIRONMENT_PREFIX + field.name.upper()
            if given.get(field.name) is not None:
                names[field.name] = field.name
                values[field.name] = _convert(field.name, given[field.name], field.type, strict=True)
            elif environ.get(variable):
                names[field.name] = variable
                values[field.name] = _convert(variable, environ[variable], field.type, strict=False)
        values["source"] = as_text(values.get("source", _program_name()))
        settings = cls(**values)
        for name, why in settings._problems():
            raise ValueError(f"{names.get(name, name)}: {why}")
        return settings

    @property
    def uses_tls(self) -> bool:
        """Whether to speak TLS."""
        return bool(self.ca_file or self.cert_file) if self.tls is None else self.tls

    def credentials(self) -> Credentials:
        """Read the certificates and the token. Raises BadSetting."""
        files = {name: expand_home(getattr(self, name)) for name in _FILES}
        return Credentials(self.address, is_tls=self.uses_tls, token=self.token, **files)

    @property
    def threshold(self) -> int:
        """`level` as a number: lines of lower ones are not made."""
        return self.level if isinstance(self.level, int) else level_number(self.level)

    @property
    def backoff(self) -> Backoff:
        """The pauses between tries."""
        return Backoff(self.backoff_initial, self.backoff_max)

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Yield the settings that their types alone do not show to be wrong, and what is wrong with each."""
        try:
            read_addresses(self.address)
        except ValueError as error:
            yield "address", str(error)
        if isinstance(self.level, str) and not is_level(self.level.upper()):
            yield "level", f"'{self.level}' is not DEBUG, INFO, WARNING, ERROR or CRITICAL"
        try:
            Overflow.parse(self.overflow)
        except ValueError as error:
            yield "overflow", str(error)
        if self.spool_records not in ("audit", "all"):
            yield "spool_records", f"'{self.spool_records}' is not audit or all"
        if expand_home(self.spool).startswith("~") or "\0" in self.spool:
            yield "spool", f"{self.spool!r} is no path, or its home folder is not known"
        yield from self._credential_problems()

    def _credential_problems(self) -> Iterator[tuple[str, str]]:
        for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
            if getattr(self, one) and not getattr(self, other):
                yield one, f"needs {other}"
        for name in ("ca_file", "cert_file"):
            if getattr(self, name) and not self.uses_tls:
                yield name, "is for TLS, and tls is false"
        if self.token and self.token_file:
            yield "token_file", "stands next to token; give one of them"
        if self.token and not is_token(self.token):
            yield (
                "token",
                f"must be at most {MAX_TOKEN_CHARACTERS} visible ASCII characters, without a line's end",
            )
        if (self.token or self.token_file) and not self.uses_tls and not _is_this_machine(self.address):
            name = "token" if self.token else "token_file"
            yield name, f"would cross the network in plain text, to {self.address}; set tls, or ca_file"
        try:
            self.credentials()
        except BadSetting as error:
            yield error.name, error.why


def expand_home(text: str) -> str:
    """Return a path, or `unix:PATH`, with a home folder in place of a `~` at its beginning, if that is known."""
    scheme = "unix:" if text.startswith("unix:") else ""
    return scheme + os.path.expanduser(text.removeprefix(scheme))


def read_addresses(text: str) -> list[ServerAddress]:
    """Return what the setting `address` says. Raises ValueError. Whether a server is there shows when it is used."""
    text = _IP_SCHEME.sub("", text.strip())
    dns = _DNS.fullmatch(text)
    # A password may have a comma, and must not be shown.
    parts = [dns[1]] if dns else [text] if "@" in text else text.split(",")
    found = []
    for part in filter(None, map(str.strip, parts)):
        try:
            found.append(read_server_address(part))
        except ValueError as error:
            raise ValueError(f"{shown(part)} {error}; expected {_ADDRESS_EXPECTED}") from None
    if not found:
        raise ValueError(f"is empty; expected {_ADDRESS_EXPECTED}")
    if len(found) > 1 and any(address.path for address in found):
        raise ValueError(f"{shown(text)} has a socket among several; expected {_ADDRESS_EXPECTED}")
    return found


def _is_this_machine(address: str) -> bool:
    """Return whether no other machine is reached by an address, by what it says itself."""
    hosts = [host for host, *_ in read_addresses(address)]
    return all(not host or host == "localhost" or ((ip := ip_of(host)) and ip.is_loopback) for host in hosts)


def _convert(name: str, value: Any, kind: Any, *, strict: bool) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        is_secret = name.lower().endswith("token")
        raise ValueError(f"{name}: {error}" + ("" if is_secret else f", not {value!r}")) from None


def _program_name() -> str:
    """Return the name of the program's file; of a module run by `python -m`, the package's."""
    path = Path(sys.argv[0] if sys.argv and sys.argv[0] else "python")
    return path.parent.name if path.name == "__main__.py" else path.stem
