"""The TLS files of a listener: what is taken, what is refused and why, and when it is reported."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from emitd_handlers import diagnostics
from emitd_server.access import certificates
from emitd_server.access import watched as watched_module
from emitd_server.access.certificates import Certificates
from emitd_server.errors import ConfigError
from support.access.authority import HOUR, Authority, TlsFiles, subject

AUTHORITY = Authority()
NO_KEY = "tls.key_file 'server.key' holds no private key in PEM, without a passphrase, of RSA, P-256 or P-384"


LINES: list[str] = []


class Given:
    """What grpc is given, of which two are never equal."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        ((_, self.chain),) = pairs


@pytest.fixture(autouse=True)
def observed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is reported and what grpc is given, and try again at each look."""
    LINES.clear()
    monkeypatch.setattr(diagnostics, "print", lambda line, **_: LINES.append(line), raising=False)
    monkeypatch.setattr(watched_module, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(
        certificates.grpc, "ssl_server_certificate_configuration", lambda pairs, _: Given(pairs)
    )


def reported() -> list[str]:
    """What was reported since the last time."""
    lines = [line.removeprefix("emitd ") for line in LINES]
    LINES.clear()
    return lines


class Watched:
    """Certificates that are looked at by hand, what they reported, and what a handshake would be given."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self.certificates = Certificates(files.settings, "L")

    def start(self) -> None:
        self.certificates.start()

    def look(self, times: int = 2) -> list[str]:
        """Look that often; return what was reported."""
        for _ in range(times):
            self.certificates.look()
        return reported()

    @property
    def served(self) -> str:
        """Whose certificate the next handshake is given."""
        current = self.certificates._files.value
        assert current is not None
        return subject(current.pair[1])


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue("old"))
    watched = Watched(files)
    watched.start()
    assert reported() == []
    return watched


def refusal(files: TlsFiles) -> str:
    """Why the files are refused at the start."""
    with pytest.raises(ValueError, match="tls") as caught:
        Watched(files).start()
    return str(caught.value).replace(f"{files.cert.parent}/", "")


@contextmanager
def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> Iterator[None]:
    """Let the clock of the certificates run ahead."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + by

    with monkeypatch.context() as patch:
        patch.setattr(certificates, "datetime", Clock)
        yield


def test_a_good_pair_is_taken(watched: Watched) -> None:
    """One line names the dates of both."""
    watched.files.write(AUTHORITY.issue("new", end=HOUR))
    (line,) = watched.look()
    assert line.startswith("TLS of L: added certificate of 20")
    assert "; removed certificate of 20" in line
    assert watched.served == "new"
    assert watched.look(5) == []


def test_each_port_fetches_a_change_once(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next handshake of that port; after it, grpc learns of no change."""
    fetchers: list[Any] = []
    monkeypatch.setattr(
        certificates.grpc,
        "dynamic_ssl_server_credentials",
        lambda given, fetch, require_client_authentication: fetchers.append(fetch),
    )
    for _ in range(2):
        watched.certificates.credentials()
    assert [fetch() for fetch in fetchers] == [None, None]
    watched.files.write(AUTHORITY.issue("new"))
    watched.look()
    for fetch in fetchers:
        assert subject(fetch().chain) == "new"
        assert fetch() is None


def test_files_that_are_only_touched_are_no_news(watched: Watched) -> None:
    """The same bytes under a new inode."""
    watched.files.write((watched.files.cert.read_bytes(), watched.files.key.read_bytes()))
    before = watched.certificates._files.value
    assert watched.look(4) == []
    assert watched.certificates._files.value is before


def test_a_swapped_link_is_seen(tmp_path: Path) -> None:
    """As Kubernetes does: each file is a link into `..data`, which is a link to a folder."""
    for version in ("old", "new"):
        (tmp_path / version).mkdir()
        TlsFiles(tmp_path / version).write(AUTHORITY.issue(version))
    (tmp_path / "..data").symlink_to("old")
    files = TlsFiles(tmp_path)
    for path in (files.cert, files.key):
        path.symlink_to(f"..data/{path.name}")
    watched = Watched(files)
    watched.start()
    (tmp_path / "next").symlink_to("new")
    os.replace(tmp_path / "next", tmp_path / "..data")
    watched.look()
    assert watched.served == "new"


def test_a_half_written_file_leaves_the_old_pair(watched: Watched) -> None:
    """However often it is looked at while it grows: one line, and the whole file is taken."""
    cert, key = AUTHORITY.issue("new", end=2 * HOUR)
    watched.files.put(watched.files.key, key)
    lines = watched.look(1)
    for end in range(100, 400, 100):
        watched.files.cert.write_bytes(cert[:end])
        lines += watched.look(3)
        assert watched.served == "old"
    assert lines == [
        f"TLS of L: tls.key_file '{watched.files.key}' is not the key of the first certificate of tls.cert_file; "
        "what was read before stays in use",
        f"TLS of L: tls.cert_file '{watched.files.cert}' holds no certificate in PEM; "
        "what was read before stays in use",
    ]
    watched.files.cert.write_bytes(cert)
    assert len(watched.look()) == 1
    assert watched.served == "new"


def test_a_change_while_the_files_are_read_is_seen_by_the_next_look(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read may be the certificate of one version and the key of another."""
    watched.files.write(AUTHORITY.issue("new", end=2 * HOUR))
    newer, read = AUTHORITY.issue("newer", end=3 * HOUR), certificates._read

    def slowly(setting: str, *rest: Any) -> Any:
        found = read(setting, *rest)
        if setting == "cert_file":
            watched.files.write(newer)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(certificates, "_read", slowly)
        assert len(watched.look(1)) == 1
        assert watched.served == "old"
    watched.look(1)
    assert watched.served == "newer"


def test_a_bad_version_that_is_taken_back_changes_nothing(watched: Watched) -> None:
    """It was reported once."""
    old = watched.files.cert.read_bytes(), watched.files.key.read_bytes()
    watched.files.write((AUTHORITY.issue("new")[0], AUTHORITY.issue("other")[1]))
    assert len(watched.look(9)) == 1
    watched.files.write(old)
    assert watched.look(4) == []
    assert watched.served == "old"


def test_a_missing_file_is_reported_and_comes_back(watched: Watched) -> None:
    """The listener goes on without it."""
    pem = watched.files.key.read_bytes()
    watched.files.key.unlink()
    (line,) = watched.look(4)
    assert f"tls.key_file '{watched.files.key}' cannot be read: No such file or directory" in line
    watched.files.put(watched.files.key, pem)
    assert watched.look(4) == []


def test_a_certificate_that_is_not_valid_yet_is_taken_when_it_is(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a further change of the files."""
    watched.files.write(AUTHORITY.issue("new", begin=HOUR, end=900 * HOUR))
    (line,) = watched.look(4)
    assert "is valid only from 20" in line
    assert watched.served == "old"
    with later(monkeypatch, 2 * HOUR):
        assert len(watched.look(4)) == 1
    assert watched.served == "new"


@pytest.mark.parametrize(("hours", "notice"), [(1000, 899), (100_000, 100_000 - 30 * 24)])
def test_an_end_is_reported_before_and_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, notice: int
) -> None:
    """When a tenth of the life is left, at most 30 days before; each once, also for one that lives for an hour."""
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue("old", end=hours * HOUR))
    watched = Watched(files)
    watched.start()
    for after, word in ((notice - 1, ""), (notice + 2, "expires soon"), (hours + 1, "has expired")):
        with later(monkeypatch, after * HOUR):
            lines = watched.look(4)
        assert [word in line for line in lines] == ([True] if word else [])
    watched.files.write(AUTHORITY.issue("new", end=2 * hours * HOUR))
    with later(monkeypatch, hours * HOUR):
        assert len(watched.look(4)) == 1
    with later(monkeypatch, 2 * hours * HOUR):
        assert len(watched.look(4)) == 1  # of the new one


def test_authorities_that_end_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several the last counts; with none that is valid no client could connect."""
    short, long = Authority(end=2 * HOUR), Authority(end=4 * HOUR)
    files = TlsFiles(tmp_path, client_ca=short.pem + long.pem)
    files.write(AUTHORITY.issue())
    watched = Watched(files)
    watched.start()
    with later(monkeypatch, 3 * HOUR):
        assert watched.look() == []
        files.put(files.ca, short.pem)
        (line,) = watched.look(4)
    assert f"tls.client_ca_file '{files.ca}' is valid only from 20" in line
    files.put(files.ca, short.pem + long.pem)
    with later(monkeypatch, 3.9 * HOUR):
        (line,) = watched.look()
    assert f"tls.client_ca_file '{files.ca}' expires soon: it ends 20" in line


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_a_key_that_clients_do_not_know_is_refused(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Every connection would fail."""
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue(key=key))
    assert refusal(files) == NO_KEY


def test_what_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    """Each with its setting and path, and nothing of the content."""
    files = TlsFiles(tmp_path, client_ca=AUTHORITY.pem)
    cert, key = AUTHORITY.issue()
    assert refusal(files) == "tls.cert_file 'server.pem' cannot be read: No such file or directory"
    secret = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    for pair, expected in (
        ((cert, secret), NO_KEY),
        ((cert, b""), NO_KEY),
        ((cert, cert), NO_KEY),
        ((key, key), "tls.cert_file 'server.pem' holds no certificate in PEM"),
        ((cert + b"x" * 1024 * 1024, key), "tls.cert_file 'server.pem' holds no certificate in PEM"),
        (AUTHORITY.issue(end=timedelta(0)), "tls.cert_file 'server.pem' is valid only from 20"),
        (AUTHORITY.issue(begin=HOUR), "tls.cert_file 'server.pem' is valid only from 20"),
        (
            (AUTHORITY.pem + cert, key),
            "tls.key_file 'server.key' is not the key of the first certificate of ",
        ),
    ):
        files.write(pair)
        assert (refusal(files)).startswith(expected)
    files.write((cert, key))
    files.put(files.ca, b"-----BEGIN CERTIFICATE-----\n")
    assert (refusal(files)).startswith("tls.client_ca_file 'ca.pem' holds no certificate")
    files.ca.unlink()
    os.mkfifo(files.ca)
    with pytest.raises(ConfigError, match=r"ca\.pem: is not a file"):
        Watched(files).start()


def test_rsa_and_both_curves_and_chains_are_taken(tmp_path: Path) -> None:
    """As gRPC's clients take them; a chain has the server's own certificate first."""
    files = TlsFiles(tmp_path)
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        cert, private = AUTHORITY.issue(key=key)
        files.write((cert + AUTHORITY.pem, private))
        Watched(files).start()


def test_no_damage_ends_the_looks(watched: Watched) -> None:
    """2000 versions with a few other bytes: each is taken or reported, and nothing is raised."""
    pems = AUTHORITY.issue("new")
    dice = random.Random(19)
    for _ in range(2000):
        path, pem = dice.choice(list(zip((watched.files.cert, watched.files.key), pems, strict=True)))
        data = bytearray(pem)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data)
        lines = watched.look()
        assert pems[1].decode().splitlines()[1] not in "".join(lines)
    watched.files.write(pems)
    watched.look()
    assert watched.served == "new"
