"""`emitd tls dev`: an authority, and certificates of a server and a client on this machine, to try TLS with."""

import argparse
import json
import os
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from emitd_cli.errors import CommandError, ExitCode
from emitd_cli.terminal.output import note_lines, one_line, print_result

LIFE = timedelta(days=365)
AUTHORITY = "emitd dev authority"
SERVER = (x509.DNSName("localhost"), *(x509.IPAddress(ip_address(ip)) for ip in ("127.0.0.1", "::1")))
CLIENT = (x509.UniformResourceIdentifier("spiffe://dev/client"), x509.DNSName("client.dev"))
CONFIGURATION = """\
server:
  listen:
    - address: localhost:50051
      tls:
        cert_file: {0}
        key_file: {1}
        client_ca_file: {2}
      identity: certificate"""
CLIENT_SETTINGS = """\
export EMITD_ADDRESS=localhost:50051
export EMITD_CA_FILE={0}
export EMITD_CERT_FILE={1}
export EMITD_KEY_FILE={2}"""


def run_dev(options: argparse.Namespace) -> int:
    """Write the files and print the configuration; return 0. Raises CommandError instead of overwriting."""
    folder = Path(options.folder).absolute()
    files = _files()
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise CommandError(f"{folder} cannot be made: {error.strerror}. Nothing was written") from error
    for name, data in files.items():
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)

    def paths(quote: Callable[[str], str], *names: str) -> list[str]:
        return [quote(str(folder / name)) for name in names]

    note_lines(f"wrote {', '.join(files)} to {one_line(str(folder))}, good for {LIFE.days} days")
    note_lines("\nIn the configuration:\n")
    # Standard output has the YAML alone.
    print_result(CONFIGURATION.format(*paths(json.dumps, "server.pem", "server.key", "ca.pem")))
    client = paths(shlex.quote, "ca.pem", "client.pem", "client.key")
    note_lines(f"\nFor clients:\n\n{CLIENT_SETTINGS.format(*client)}")
    return ExitCode.GOOD


def _files() -> dict[str, bytes]:
    """Return the content of each file. The key of the authority is in none: nothing else can be signed by it."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _builder(AUTHORITY, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(authority_key, SHA256())
    )
    files = {"ca.pem": authority.public_bytes(Encoding.PEM)}
    for name, names, purpose in (
        ("server", SERVER, ExtendedKeyUsageOID.SERVER_AUTH),
        ("client", CLIENT, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        signed = (
            _builder(f"emitd dev {name}", key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
            )
            .sign(authority_key, SHA256())
        )
        files[f"{name}.pem"] = signed.public_bytes(Encoding.PEM)
        files[f"{name}.key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return files


def _builder(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # a container's clock may be behind
        .not_valid_after(now + LIFE)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    unused = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
        **unused,
    )
