"""`emitd tls dev`: an authority, and certificates of a server and a client on this machine, to try TLS with."""

import argparse
import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

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
      tls: {{cert_file: {}, key_file: {}, client_ca_file: {}}}
      identity: certificate
  access:
    grants:
      - {{to: ["spiffe://dev/client"], role: writer}}    # sends records
      - {{to: ["spiffe://dev/client"], role: operator}}  # reads jobs and log lines, and asks for the end of jobs
      - {{to: ["spiffe://dev/client"], role: auditor}}   # reads the audit trail"""
CLIENT_SETTINGS = """
export EMITD_ADDRESS=localhost:50051 EMITD_CA_FILE={}
export EMITD_CERT_FILE={} EMITD_KEY_FILE={}"""


def run_dev(options: argparse.Namespace) -> int:
    """Write the files and print the configuration; return 0. Raises CommandError instead of overwriting."""
    folder = Path(options.folder).absolute()
    files = _files()
    try:
        for each in (*reversed(folder.parents), folder):
            each.mkdir(mode=0o700, exist_ok=each != folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise CommandError(f"{folder} cannot be made: {error.strerror}. Nothing was written") from error
    for name, data in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)

    server = [str(folder / name) for name in ("server.pem", "server.key", "ca.pem")]
    client = [str(folder / name) for name in ("ca.pem", "client.pem", "client.key")]
    shown = one_line(str(folder))
    note_lines(f"wrote {', '.join(files)} to {shown}, good for {LIFE.days} days\n\nIn the configuration:\n")
    print_result(CONFIGURATION.format(*map(json.dumps, server)))  # standard output has the YAML alone
    note_lines(f"\nFor clients:\n{CLIENT_SETTINGS.format(*map(shlex.quote, client))}")
    return ExitCode.GOOD


def _files() -> dict[str, bytes]:
    """Return the content of each file. The key of the authority is in none: nothing else can be signed by it."""
    authority = ec.generate_private_key(ec.SECP256R1())
    files = {"ca.pem": _certificate(AUTHORITY, authority, authority)}
    for name, names in (("server", SERVER), ("client", CLIENT)):
        key = ec.generate_private_key(ec.SECP256R1())
        files[f"{name}.pem"] = _certificate(f"emitd dev {name}", key, authority, names)
        files[f"{name}.key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return files


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName] = (),
) -> bytes:
    now = datetime.now(UTC)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # a container's clock may be behind
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=key is authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer, critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority, SHA256()).public_bytes(Encoding.PEM)
