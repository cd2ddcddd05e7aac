"""`Credentials`: how a client knows its server, and shows who it is: TLS by PEM files, and a bearer token.

All files are read when the client is made, and again when they have changed: they are looked at when a call begins, at
most once a second. What cannot be used then leaves the last in use, and is reported. No text ever shows a token.
"""

import os
import re
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from emitd.runtime.diagnostics import report_line

T = TypeVar("T")
Metadata: TypeAlias = tuple[tuple[str, str], ...]

#: How often files are looked at, at most.
LOOK_SECONDS = 1.0
MAX_FILE_BYTES = 1024 * 1024
#: gRPC takes 8 KiB of metadata, its own included.
MAX_TOKEN_CHARACTERS = 7_000
_TOKEN = re.compile(r"[!-~]+")

#: What gRPC says at the end of a failure to connect, and what it means.
_CAUSES = {
    "certificate has expired": "the server's certificate has expired",
    "certificate is not yet valid": "the server's certificate is not valid yet; is this machine's clock right?",
    "Hostname Verification Check failed": "the server's certificate does not have this name",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not trusted: ca_file does not have who signed it",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS there, and this client does (tls, ca_file, cert_file)",
}
#: What it says of a server that ends a connection before it has greeted.
_ENDED = ("Socket closed", "Connection reset by peer")


class BadSetting(ValueError):
    """A setting that cannot be used: its name, and why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name, self.why = name, why


class Secret(str):
    """A text that its `repr` does not show, and so neither that of what holds it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Certificates:
    """PEM for one channel: who is trusted (None: whom gRPC trusts), and the client's key and certificate, if any."""

    ca: bytes | None
    key: bytes | None
    certificate: bytes | None


class Credentials:
    """For any thread, any number of channels, and forked children: it holds nothing of grpc, and no lock."""

    def __init__(
        self,
        address: str,
        *,
        is_tls: bool = False,
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
        token: str = "",
        token_file: str = "",
    ) -> None:
        """Raises BadSetting for a file that cannot be used."""
        self.address = address
        self._cert_file = cert_file
        certificates = (ca_file, cert_file, key_file) if is_tls else ()
        read = partial(_read_certificates, *certificates) if is_tls else lambda: None
        self._certificates: _Watched[Certificates | None] = _Watched(certificates, read)
        given = _metadata(token) if token else None
        self._metadata: _Watched[Metadata | None] = _Watched(
            (token_file,), partial(_read_token, token_file) if token_file else lambda: given
        )

    def certificates(self) -> Certificates | None:
        """Return what a channel takes now: another object once the files have changed. None: no TLS."""
        return self._certificates.get()

    def metadata(self) -> Metadata | None:
        """Return the metadata of a call that begins now: the token, if there is one."""
        return self._metadata.get()

    def is_renewed(self, metadata: Metadata | None) -> bool:
        """Return whether there is another token now than that of a call."""
        return self._metadata.get(is_urgent=True) != metadata

    def cause(self, failure: str) -> str:
        """Return why no connection could be made, by what gRPC says of it, for people; "": that says it, or nobody."""
        for said, cause in _CAUSES.items():
            if said in failure:
                return f"cannot reach {self.address}: {cause}"
        return f"cannot reach {self.address}: {self._cause_of_end()}" if failure.endswith(_ENDED) else ""

    def _cause_of_end(self) -> str:
        ended = "the server ended the connection at once"
        if self.certificates() is None:
            return f"{ended}: perhaps it speaks TLS (set tls, or ca_file)"
        if not self._cert_file:
            return f"{ended}: perhaps it asks for a client's certificate (set cert_file and key_file)"
        with suppress(Exception):
            # The standard library shows the dates of a certificate in no other way.
            own = ssl._ssl._test_decode_cert(self._cert_file)  # type: ignore[attr-defined]
            begin, end = own["notBefore"], own["notAfter"]
            if not ssl.cert_time_to_seconds(begin) <= time.time() <= ssl.cert_time_to_seconds(end):
                why = "the client's certificate has expired or is not valid yet"
                return f"{why}: {self._cert_file}, from {begin} to {end}"
        return f"{ended}: perhaps it does not accept the client's certificate ({self._cert_file})"


class _Watched(Generic[T]):
    """What is read from files, which may change. Threads that meet here do the same, and that is all."""

    def __init__(self, paths: Sequence[str], read: Callable[[], T]) -> None:
        """Read now. `read` raises ValueError if it cannot be used."""
        self._paths = [path for path in paths if path]
        self._read = read
        self._seen = self._look()
        self._failed: object = None
        self._next_look = time.monotonic() + LOOK_SECONDS
        self._value = read()

    def get(self, *, is_urgent: bool = False) -> T:
        """Return it as it is now, or, unless it `is_urgent`, as it was a second ago."""
        if self._paths and (is_urgent or time.monotonic() >= self._next_look):
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._renew()
        return self._value

    def _renew(self) -> None:
        look = self._look()
        if look == self._seen:
            return
        try:
            value = self._read()
        except ValueError as error:
            if look == self._failed:  # else it may be half written
                self._seen = look
                report_line(f"{error}; what was read before stays in use")
            self._failed = look
            return
        if look == self._look():  # else it was read while it was written
            self._value, self._seen = value, look

    def _look(self) -> object:
        found: list[object] = []
        for path in self._paths:
            try:
                state = os.stat(path)
                found.append((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))
            except (OSError, ValueError):
                found.append(None)
        return found


def is_token(text: str) -> bool:
    """Return whether a text can be a bearer token: visible ASCII, and no longer than gRPC carries it."""
    return len(text) <= MAX_TOKEN_CHARACTERS and _TOKEN.fullmatch(text) is not None


def _metadata(token: str) -> Metadata:
    return (("authorization", Secret(f"Bearer {token}")),)


def _read_token(path: str) -> Metadata:
    token = _read("token_file", path).decode("latin-1").strip()
    if not is_token(token):
        limit = f"a token of at most {MAX_TOKEN_CHARACTERS} visible ASCII characters, and nothing else"
        raise BadSetting("token_file", f"'{path}' does not hold {limit}")
    return _metadata(token)


def _read_certificates(ca_file: str, cert_file: str, key_file: str) -> Certificates:
    ca = _read("ca_file", ca_file) if ca_file else None
    certificate = _read("cert_file", cert_file) if cert_file else None
    key = _read("key_file", key_file) if key_file else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(cadata=ca.decode("latin-1"))
        except ssl.SSLError:
            raise BadSetting("ca_file", f"'{ca_file}' holds no certificate in PEM") from None
    if certificate is not None:
        try:
            context.load_cert_chain(cert_file, key_file, password="")  # nobody is asked for one
        except (ssl.SSLError, OSError, ValueError) as error:
            why = getattr(error, "reason", None) or type(error).__name__
            fit = f"is no PEM key, without a password, of a certificate in '{cert_file}' ({why})"
            raise BadSetting("key_file", f"'{key_file}' {fit}") from None
    return Certificates(ca, key, certificate)


def _read(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadSetting(name, f"'{path}' cannot be read: {why}") from None
    if not content.strip() or len(content) > MAX_FILE_BYTES:
        raise BadSetting(name, f"'{path}' is {'too large' if content.strip() else 'empty'}")
    return content
