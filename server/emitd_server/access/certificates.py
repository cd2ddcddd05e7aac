"""The TLS files of a listener, read again when they change.

grpc asks for the certificate at each new connection, in threads of its own: it gets what was read and checked before.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from emitd_handlers.diagnostics import report
from emitd_server.access.watched import Watched
from emitd_server.settings import TlsSettings

MAX_FILE_BYTES = 1024 * 1024
#: An end is reported when this part of the certificate's life is left, but not earlier than `MAX_NOTICE`.
NOTICE_SHARE = 10
MAX_NOTICE = timedelta(days=30)

T = TypeVar("T")
_Key: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class _Checked(NamedTuple):
    """Files that were read and belong together."""

    #: The key, and the certificate with those after it, in PEM.
    pair: tuple[bytes, bytes]
    authorities: bytes | None
    #: Of the certificate that ends first: its file and its dates.
    first: str
    begin: datetime
    end: datetime


class Certificates:
    """The certificate, key and client authorities of one listener; `listener` names it in reports."""

    def __init__(self, tls: TlsSettings, listener: str) -> None:
        self._tls = tls
        self._listener = listener
        paths = [path for path in (tls.cert_file, tls.key_file, tls.client_ca_file) if path is not None]
        self._files = Watched[_Checked | None](
            f"TLS of {listener}", self._load, None, names_of=_names_of, paths=paths
        )
        #: The end that was reported: that it is near (1), that it has come (2).
        self._reported: tuple[datetime, int] | None = None

    def start(self) -> None:
        """Read the files. Blocks. Raises ValueError if they cannot be used."""
        self._files.start()
        self._warn()

    def look(self) -> None:
        """Take files that have changed, if they are good; report what is not. Blocks."""
        self._files.look()
        self._warn()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of one port; another port needs its own, since each fetches a change for itself."""
        given: _Checked | None = None

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            current = self._files.value
            if current is given or current is None:
                return None
            given = current
            return grpc.ssl_server_certificate_configuration([current.pair], current.authorities)

        first = fetch()
        assert first is not None
        return grpc.dynamic_ssl_server_credentials(
            first,
            fetch,  # type: ignore[arg-type]  # its stub lacks None
            require_client_authentication=self._tls.client_ca_file is not None,
        )

    def _warn(self) -> None:
        current, now = self._files.value, datetime.now(UTC)
        assert current is not None
        notice = current.end - min((current.end - current.begin) / NOTICE_SHARE, MAX_NOTICE)
        state = (current.end, (now >= notice) + (now >= current.end))
        if state[1] and state != self._reported:
            self._reported = state
            verb = "has expired: it ended" if now >= current.end else "expires soon: it ends"
            report(f"TLS of {self._listener}: {current.first} {verb} {_shown(current.end)}")

    def _load(self) -> _Checked:
        """Return the files as they are. Raises ValueError, which shows nothing of their content."""
        tls = self._tls
        chain = _read("cert_file", tls.cert_file, "certificate in PEM", _certificates)
        kinds = "private key in PEM, without a passphrase, of RSA, P-256 or P-384"
        key = _read("key_file", tls.key_file, kinds, _private_key)
        if key.public_key() != chain[0].public_key():
            raise ValueError(
                f"tls.key_file '{tls.key_file}' is not the key of the first certificate of tls.cert_file"
            )
        used, authorities = {f"tls.cert_file '{tls.cert_file}'": chain[0]}, None
        if tls.client_ca_file is not None:
            found = _read("client_ca_file", tls.client_ca_file, "certificate in PEM", _certificates)
            authorities = _pem(found)
            used[f"tls.client_ca_file '{tls.client_ca_file}'"] = max(found, key=_end_of)
        for first, each in sorted(used.items(), key=lambda item: _end_of(item[1]), reverse=True):
            begin, end = each.not_valid_before_utc, _end_of(each)
            if not begin <= datetime.now(UTC) < end:
                raise ValueError(f"{first} is valid only from {_shown(begin)} to {_shown(end)}")
        pair = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), _pem(chain)
        return _Checked(pair, authorities, first, begin, end)


def _read(setting: str, path: Path, what: str, parse: Callable[[bytes], T]) -> T:
    name = f"tls.{setting} '{path}'"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    try:
        if len(data) <= MAX_FILE_BYTES:
            return parse(data)
    except Exception:  # the library raises many kinds, and their texts may show something of the file
        pass
    raise ValueError(f"{name} holds no {what}")


def _certificates(data: bytes) -> list[x509.Certificate]:
    found = x509.load_pem_x509_certificates(data)
    for each in found:  # what is asked for later is read now
        _ = each.public_key(), each.not_valid_before_utc, each.not_valid_after_utc
    return found


def _private_key(data: bytes) -> _Key:
    key = load_pem_private_key(data, None)
    if isinstance(key, rsa.RSAPrivateKey):
        return key
    # Measured: gRPC's clients refuse P-521 and Ed25519.
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    raise ValueError


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def _end_of(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc


def _names_of(checked: _Checked | None) -> list[str]:
    return [] if checked is None else [f"certificate of {_shown(checked.begin)} to {_shown(checked.end)}"]


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
