"""The TLS files of a listener, read again when they change.

    each second: has a file changed? ─> has it rested for a second? ─> read, check ─> the next handshake takes it

grpc asks for the certificate at each new connection, in threads of its own: it gets what was read and checked before.
A new version that is bad is reported once, and the old one stays. A file counts as changed if its name leads to another
file or if it was written to, so links may be swapped, as Kubernetes does, and files renamed or written in place.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias, TypeVar

import grpc
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from emitd_handlers.diagnostics import Report
from emitd_server.settings import TlsSettings

LOOK_SECONDS = 1.0
MAX_FILE_BYTES = 1024 * 1024
#: A certificate is reported when this part of its life is left, but not earlier than `MAX_NOTICE`.
NOTICE_SHARE = 10
MAX_NOTICE = timedelta(days=30)

T = TypeVar("T")
#: What the names of the files lead to, and in which version.
_Versions: TypeAlias = tuple[tuple[int, ...], ...]


class _Checked(msgspec.Struct, frozen=True):
    """Files that were read and belong together."""

    versions: _Versions
    #: Key, chain and authorities, each as PEM.
    pems: tuple[bytes, bytes, bytes | None]
    configuration: grpc.ServerCertificateConfiguration
    #: Of the certificate that expires first: its file, the time to report it, and its end.
    first: str
    notice: datetime
    end: datetime


class Certificates:
    """The certificate, key and client authorities of one listener; `listener` names it in reports."""

    def __init__(self, tls: TlsSettings, listener: str, report: Report) -> None:
        self._tls = tls
        self._listener = listener
        self._report = report
        self._current: _Checked | None = None
        #: What the last look saw.
        self._seen: _Versions = ()
        self._problem = ""
        #: Reported of `_current`: 1, that it will expire; 2, that it has.
        self._stage = 0
        self._is_key_reported = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the files and begin to look at them. Raises ValueError if they cannot be used."""
        self._take(await asyncio.to_thread(self._read))
        self._task = asyncio.create_task(self._follow(), name=f"certificates of {self._listener}")

    async def stop(self) -> None:
        """Stop looking. Idempotent, and safe without `start`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of one port; another port needs its own, since grpc asks for a change only once."""
        assert self._current is not None
        given = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            current = self._current
            assert current is not None
            if current is given:
                return None
            given = current
            return current.configuration

        return grpc.dynamic_ssl_server_credentials(
            given.configuration,
            fetch,  # type: ignore[arg-type]  # its stub lacks None
            require_client_authentication=self._tls.client_ca_file is not None,
        )

    def look(self) -> None:
        """Take files that have changed, if they are good; report what is not. Blocks."""
        assert self._current is not None
        versions = self._versions()
        has_rested = versions == self._seen
        self._seen = versions
        # Files with a problem are read at each look: they may only be not valid yet.
        if has_rested and (versions != self._current.versions or self._problem):
            try:
                checked = self._read()
            except ValueError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    self._report(f"{self._listener} keeps its old TLS certificate: {error}")
            else:
                if checked.versions == versions:  # otherwise they were written to just now
                    self._take(checked)
        self._warn()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def _take(self, checked: _Checked) -> None:
        is_first = self._current is None
        is_new = self._current is None or checked.pems != self._current.pems
        self._current, self._seen = checked, checked.versions
        if is_new:
            self._stage = 0
        if self._problem or (is_new and not is_first):
            self._report(f"{self._listener} uses the TLS certificate that ends {_shown(checked.end)}")
        self._problem = ""
        with suppress(OSError):  # it was renamed just now
            if not self._is_key_reported and os.stat(self._tls.key_file).st_mode & stat.S_IROTH:
                self._is_key_reported = True
                self._report(
                    f"tls.key_file '{self._tls.key_file}' can be read by every user of this machine: chmod o-r it"
                )
        self._warn()

    def _warn(self) -> None:
        current, now = self._current, datetime.now(UTC)
        assert current is not None
        stage = 2 if now >= current.end else 1 if now >= current.notice else 0
        if stage > self._stage:
            self._stage = stage
            verb = "has expired: it ended" if stage == 2 else "expires soon: it ends"
            self._report(f"{self._listener}: {current.first} {verb} {_shown(current.end)}")

    def _versions(self) -> _Versions:
        tls = self._tls
        return tuple(_version(path) for path in (tls.cert_file, tls.key_file, tls.client_ca_file) if path)

    def _read(self) -> _Checked:
        """Return the files as they are. Raises ValueError, which shows nothing of their content."""
        tls, versions = self._tls, self._versions()
        cert_name, chain = f"tls.cert_file '{tls.cert_file}'", _read_certificates("cert_file", tls.cert_file)
        key_name, key = f"tls.key_file '{tls.key_file}'", _read_key(tls.key_file)
        if key.public_key() != chain[0].public_key():
            raise ValueError(f"{key_name} is not the key of the first certificate of {cert_name}")
        ends, authorities = {cert_name: chain[0]}, None
        if tls.client_ca_file is not None:
            found = _read_certificates("client_ca_file", tls.client_ca_file)
            authorities = _pem(found)
            last = max(found, key=lambda each: each.not_valid_after_utc)
            ends[f"tls.client_ca_file '{tls.client_ca_file}'"] = last
        now = datetime.now(UTC)
        for name, certificate in ends.items():
            if certificate.not_valid_before_utc > now:
                raise ValueError(f"{name} is not valid before {_shown(certificate.not_valid_before_utc)}")
            if certificate.not_valid_after_utc <= now:
                raise ValueError(f"{name} has expired: it ended {_shown(certificate.not_valid_after_utc)}")
        first = min(ends, key=lambda name: ends[name].not_valid_after_utc)
        begin, end = ends[first].not_valid_before_utc, ends[first].not_valid_after_utc
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pair = (private, _pem(chain))
        return _Checked(
            versions=versions,
            pems=(*pair, authorities),
            configuration=grpc.ssl_server_certificate_configuration([pair], authorities),
            first=first,
            notice=end - min((end - begin) / NOTICE_SHARE, MAX_NOTICE),
            end=end,
        )


def _version(path: Path) -> tuple[int, ...]:
    try:
        state = os.stat(path)
    except OSError as error:
        return (error.errno or -1,)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _read_certificates(key: str, path: Path) -> list[x509.Certificate]:
    def parse(data: bytes) -> list[x509.Certificate]:
        found = x509.load_pem_x509_certificates(data)
        for each in found:  # what is asked for later is read now
            _ = each.public_key(), each.not_valid_before_utc, each.not_valid_after_utc
        return found

    return _parsed(f"tls.{key} '{path}'", path, "certificate", parse)


def _read_key(path: Path) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    name = f"tls.key_file '{path}'"
    key = _parsed(
        name, path, "private key without a passphrase", lambda data: load_pem_private_key(data, None)
    )
    # Measured: gRPC's clients refuse P-521 and Ed25519.
    if isinstance(key, rsa.RSAPrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    raise ValueError(f"{name} is no key that gRPC's clients know: RSA, or ECDSA with P-256 or P-384")


def _parsed(name: str, path: Path, what: str, parse: Callable[[bytes], T]) -> T:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{name} is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{name} has more than {MAX_FILE_BYTES} bytes")
    try:
        return parse(data)
    except Exception:  # the library raises many kinds, and their texts may show something of the file
        raise ValueError(f"{name} holds no {what} in PEM that can be read") from None


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
