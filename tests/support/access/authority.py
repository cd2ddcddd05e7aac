"""`Authority`: certificates for tests, with any dates, and the files of a listener."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from emitd_server.settings import TlsSettings

HOUR = timedelta(hours=1)


class Authority:
    """Signs certificates of localhost with keys of its own."""

    def __init__(
        self, begin: timedelta = -HOUR, end: timedelta = 1000 * HOUR, name: str = "authority"
    ) -> None:
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign(name, self._key, begin, end, self._key)

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        name: str = "server",
        begin: timedelta = -HOUR,
        end: timedelta = 1000 * HOUR,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        names: Sequence[x509.GeneralName] | None = None,
    ) -> tuple[bytes, bytes]:
        """Return a certificate and its key; `names` are instead of those of localhost and of a SPIFFE id."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key, begin, end, self._key, names)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM), private

    def _sign(
        self,
        name: str,
        key: CertificateIssuerPrivateKeyTypes,
        begin: timedelta,
        end: timedelta,
        signer: ec.EllipticCurvePrivateKey,
        names: Sequence[x509.GeneralName] | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        is_authority = key is signer
        usual = [
            x509.DNSName("localhost"),
            x509.IPAddress(ip_address("127.0.0.1")),
            x509.UniformResourceIdentifier(f"spiffe://test/{name}"),
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        names = usual if names is None else names
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signer, SHA256())


class TlsFiles:
    """The files of one listener in a folder."""

    def __init__(self, folder: Path, *, client_ca: bytes | None = None) -> None:
        self.cert, self.key, self.ca = (folder / name for name in ("server.pem", "server.key", "ca.pem"))
        if client_ca is not None:
            self.put(self.ca, client_ca)
        self.settings = TlsSettings(
            cert_file=self.cert, key_file=self.key, client_ca_file=None if client_ca is None else self.ca
        )

    def write(self, pair: tuple[bytes, bytes]) -> None:
        """Replace certificate and key, by renaming."""
        for path, data in zip((self.cert, self.key), pair, strict=True):
            self.put(path, data)

    def put(self, path: Path, data: bytes) -> None:
        """Replace a file that only its owner may read."""
        new = path.with_name("new")
        new.write_bytes(data)
        new.chmod(0o600)
        os.replace(new, path)


def subject(pem: bytes | str) -> str:
    """The name that a certificate was issued to."""
    data = pem.encode() if isinstance(pem, str) else pem
    return x509.load_pem_x509_certificate(data).subject.rfc4514_string().removeprefix("CN=")
