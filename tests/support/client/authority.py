"""An authority that signs certificates, for tests of TLS."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: The names of a server on this machine.
HERE = ("localhost", "127.0.0.1")


class Pair(NamedTuple):
    """The files of a certificate and its key."""

    cert_file: Path
    key_file: Path

    @property
    def settings(self) -> dict[str, Path]:
        """The settings of a client that has it."""
        return self._asdict()


class Authority:
    """Signs what it is asked to; its own certificate is `ca_file`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca_file = folder / f"{name}.pem"
        self.ca_file.write_bytes(self._sign(self._name, self._key, (-1, 1), (), is_ca=True))

    def issue(self, name: str, days: tuple[float, float] = (-1, 1), hosts: Sequence[str] = HERE) -> Pair:
        """Write a certificate that is valid between two days from now, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pair.cert_file.write_bytes(self._sign(subject, key, days, hosts))
        pair.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair

    def server(self, pair: Pair, *, wants_client: bool = False) -> grpc.ServerCredentials:
        """The credentials of a server; one that `wants_client` certificates takes those of this authority."""
        contents = (pair.key_file.read_bytes(), pair.cert_file.read_bytes())
        return grpc.ssl_server_credentials([contents], self.ca_file.read_bytes(), wants_client)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        days: tuple[float, float],
        hosts: Sequence[str],
        *,
        is_ca: bool = False,
    ) -> bytes:
        begin, end = (datetime.now(UTC) + timedelta(days=day) for day in days)
        names = [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
            for host in hosts
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
