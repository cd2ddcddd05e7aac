"""`emitd tls dev`: the files of an authority, a server and a client, and the configuration that uses them."""

import os
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from emitd_server.config.loader import load_config
from emitd_server.settings import Identity, ListenEntry, TlsSettings
from support.processes.run_main import run_main

NAMES = {"ca.pem", "server.pem", "server.key", "client.pem", "client.key"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


@pytest.mark.parametrize("name", ["certs", "a/b", "it's a, {place}"])
def test_the_configuration_can_be_pasted(folder: Path, name: str) -> None:
    """Whatever the folder is called; and the client's settings are a shell's."""
    done = run_main("tls", "dev", name)
    assert done.returncode == 0
    (folder / "c.yml").write_text(done.stdout + "handlers: {d: {type: discard}}\n")
    made = folder / name
    tls = TlsSettings(
        cert_file=made / "server.pem", key_file=made / "server.key", client_ca_file=made / "ca.pem"
    )
    entry = ListenEntry(address="localhost:50051", tls=tls, identity=Identity.CERTIFICATE)
    assert load_config(folder / "c.yml", environ={}).server.listen == (entry,)
    words = shlex.split(done.stderr.partition("For clients:")[2])
    assert f"EMITD_CA_FILE={made}/ca.pem" in words
    assert f"EMITD_CERT_FILE={made}/client.pem" in words
    assert f"EMITD_KEY_FILE={made}/client.key" in words


def test_only_the_owner_can_read_them(folder: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0)
    try:
        assert run_main("tls", "dev", "certs").returncode == 0
    finally:
        os.umask(before)
    made = folder / "certs"
    assert made.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in made.iterdir()} == dict.fromkeys(NAMES, 0o600)


def test_nothing_is_overwritten(folder: Path) -> None:
    """A folder, even an empty one, a file, or a link to nowhere."""
    (folder / "certs").mkdir()
    (folder / "file").touch()
    (folder / "link").symlink_to("nowhere")
    for name in ("certs", "file", "link", "file/certs"):
        done = run_main("tls", "dev", name)
        assert done.returncode == 1
        assert done.stdout == ""
        assert f"{folder}/{name} cannot be made: " in done.stderr
        assert done.stderr.endswith("Nothing was written\n")
    assert {path.name for path in folder.rglob("*")} == {"certs", "file", "link"}


def test_what_the_certificates_say(folder: Path) -> None:
    """Names of this machine for the server, a SPIFFE id for the client, for a year; only the authority can sign."""
    run_main("tls", "dev", "certs")
    authority, server, client = (
        certificate(folder / f"certs/{name}.pem") for name in ("ca", "server", "client")
    )
    for each in (server, client):
        each.verify_directly_issued_by(authority)
        assert each.not_valid_after_utc - datetime.now(UTC) > timedelta(days=364)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["localhost", "127.0.0.1", "::1"]
    names = client.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://dev/client", "client.dev"]
    for each in (authority, server, client):
        basic = each.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert basic.ca is (each is authority)
    assert yaml.safe_load(run_main("tls", "dev", "more").stdout).keys() == {"server"}
