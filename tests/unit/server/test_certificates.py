"""The TLS files of a listener: what is taken, what is refused and why, and when it is reported."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from emitd_server.access import certificates
from emitd_server.access.certificates import Certificates
from support.access.authority import HOUR, Authority, TlsFiles, subject

AUTHORITY = Authority()


class Watched:
    """Certificates that are looked at by hand, what they reported, and what a handshake would be given."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self.lines: list[str] = []
        self.certificates = Certificates(files.settings, "L", self.lines.append)

    async def start(self) -> None:
        await self.certificates.start()
        await self.certificates.stop()

    def look(self, times: int = 2) -> list[str]:
        """Look that often; return what was reported."""
        self.lines.clear()
        for _ in range(times):
            self.certificates.look()
        return list(self.lines)

    @property
    def served(self) -> str:
        """Whose certificate the next handshake is given."""
        current = self.certificates._current
        assert current is not None
        return subject(current.pems[1])


@pytest.fixture
async def watched(tmp_path: Path) -> Watched:
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue("old"))
    watched = Watched(files)
    await watched.start()
    assert watched.lines == []
    return watched


async def refusal(files: TlsFiles) -> str:
    """Why the files are refused at the start."""
    with pytest.raises(ValueError, match="tls") as caught:
        await Watched(files).start()
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


async def test_a_good_pair_is_taken_when_it_has_rested(watched: Watched) -> None:
    """Not at the first look, in which the other file may still be the old one."""
    watched.files.write(AUTHORITY.issue("new"))
    assert (watched.look(1), watched.served) == ([], "old")
    (line,) = watched.look(1)
    assert line.startswith("L uses the TLS certificate that ends 20")
    assert watched.served == "new"
    assert watched.look(5) == []


async def test_files_that_are_only_touched_are_no_news(watched: Watched) -> None:
    """The same bytes under a new inode."""
    watched.files.write((watched.files.cert.read_bytes(), watched.files.key.read_bytes()))
    before = watched.certificates._current
    assert watched.look(4) == []
    assert watched.certificates._current is not before  # they were read


async def test_a_swapped_link_is_seen(tmp_path: Path) -> None:
    """As Kubernetes does: each file is a link into `..data`, which is a link to a folder."""
    for version in ("old", "new"):
        (tmp_path / version).mkdir()
        TlsFiles(tmp_path / version).write(AUTHORITY.issue(version))
    (tmp_path / "..data").symlink_to("old")
    files = TlsFiles(tmp_path)
    for path in (files.cert, files.key):
        path.symlink_to(f"..data/{path.name}")
    watched = Watched(files)
    await watched.start()
    (tmp_path / "next").symlink_to("new")
    os.replace(tmp_path / "next", tmp_path / "..data")
    watched.look()
    assert watched.served == "new"


async def test_a_half_written_file_is_left_alone_until_it_rests(watched: Watched) -> None:
    """A file that grows at each look is not reported; one that stays half is, once."""
    pem = AUTHORITY.issue("new")[0]
    for end in range(100, 400, 100):
        watched.files.cert.write_bytes(pem[:end])
        assert watched.look(1) == []
    (line,) = watched.look(5)
    assert line == (
        f"L keeps its old TLS certificate: tls.cert_file '{watched.files.cert}' holds no certificate in PEM "
        "that can be read"
    )
    assert watched.served == "old"


async def test_files_written_while_they_are_read_are_not_taken(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read may be the certificate of one version and the authorities of another."""
    watched.files.write(AUTHORITY.issue("new"))
    watched.look(1)
    read = watched.certificates._read

    def slowly() -> object:
        os.utime(watched.files.cert)
        return read()

    monkeypatch.setattr(watched.certificates, "_read", slowly)
    assert (watched.look(1), watched.served) == ([], "old")


async def test_a_bad_version_is_reported_once_and_a_good_one_ends_it(watched: Watched) -> None:
    """Also if the good one is the old one again."""
    old = watched.files.cert.read_bytes(), watched.files.key.read_bytes()
    watched.files.write((AUTHORITY.issue("new")[0], AUTHORITY.issue("other")[1]))
    (line,) = watched.look(9)
    assert "is not the key of the first certificate of tls.cert_file" in line
    watched.files.write(old)
    (line,) = watched.look(4)
    assert line.startswith("L uses the TLS certificate that ends ")
    assert watched.served == "old"


async def test_a_missing_file_is_reported_and_comes_back(watched: Watched) -> None:
    """The listener goes on without it."""
    pem = watched.files.key.read_bytes()
    watched.files.key.unlink()
    (line,) = watched.look(4)
    assert line.endswith(f"tls.key_file '{watched.files.key}' cannot be read: No such file or directory")
    watched.files.put(watched.files.key, pem)
    assert len(watched.look(4)) == 1


async def test_a_certificate_that_is_not_valid_yet_is_taken_when_it_is(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a further change of the files."""
    watched.files.write(AUTHORITY.issue("new", begin=HOUR))
    (line,) = watched.look(4)
    assert "is not valid before 20" in line
    assert watched.served == "old"
    with later(monkeypatch, 2 * HOUR):
        assert len(watched.look(4)) == 1
    assert watched.served == "new"


@pytest.mark.parametrize(("hours", "notice"), [(1000, 899), (100_000, 100_000 - 30 * 24)])
async def test_an_end_is_reported_before_and_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, notice: int
) -> None:
    """When a tenth of the life is left, at most 30 days before; each once, also for one that lives for an hour."""
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue("old", end=hours * HOUR))
    watched = Watched(files)
    await watched.start()
    for after, word in ((notice - 1, ""), (notice + 2, "expires soon"), (hours + 1, "has expired")):
        with later(monkeypatch, after * HOUR):
            lines = watched.look(4)
        assert [word in line for line in lines] == ([True] if word else [])
    watched.files.write(AUTHORITY.issue("new", end=2 * hours * HOUR))
    with later(monkeypatch, hours * HOUR):
        assert len(watched.look(4)) == 1
    with later(monkeypatch, 2 * hours * HOUR):
        assert len(watched.look(4)) == 1  # of the new one


async def test_authorities_that_end_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several the last counts; with none that is valid no client could connect."""
    short, long = Authority(end=2 * HOUR), Authority(end=4 * HOUR)
    files = TlsFiles(tmp_path, client_ca=short.pem + long.pem)
    files.write(AUTHORITY.issue())
    watched = Watched(files)
    await watched.start()
    with later(monkeypatch, 3 * HOUR):
        assert watched.look() == []
        files.put(files.ca, short.pem)
        (line,) = watched.look(4)
    assert f"tls.client_ca_file '{files.ca}' has expired: it ended " in line


async def test_a_key_that_everyone_may_read_is_reported_once(tmp_path: Path) -> None:
    """Its group may."""
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue())
    files.key.chmod(0o640)
    watched = Watched(files)
    await watched.start()
    assert watched.lines == []
    files.key.chmod(0o644)
    (line,) = watched.look(4)
    assert line == f"tls.key_file '{files.key}' can be read by every user of this machine: chmod o-r it"
    files.key.chmod(0o645)
    assert watched.look(4) == []


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
async def test_a_key_that_clients_do_not_know_is_refused(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    """Every connection would fail."""
    files = TlsFiles(tmp_path)
    files.write(AUTHORITY.issue(key=key))
    expected = (
        "tls.key_file 'server.key' is no key that gRPC's clients know: RSA, or ECDSA with P-256 or P-384"
    )
    assert await refusal(files) == expected


async def test_what_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    """Each with its setting and path, and nothing of the content."""
    files = TlsFiles(tmp_path, client_ca=AUTHORITY.pem)
    cert, key = AUTHORITY.issue()
    assert await refusal(files) == "tls.cert_file 'server.pem' cannot be read: No such file or directory"
    no_key = "tls.key_file 'server.key' holds no private key without a passphrase in PEM that can be read"
    secret = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    for pair, expected in (
        ((cert, secret), no_key),
        ((cert, b""), no_key),
        ((cert, cert), no_key),
        ((key, key), "tls.cert_file 'server.pem' holds no certificate in PEM that can be read"),
        ((b"x" * 1024 * 1025, key), "tls.cert_file 'server.pem' has more than 1048576 bytes"),
        (AUTHORITY.issue(end=timedelta(0)), "tls.cert_file 'server.pem' has expired: it ended 20"),
        (AUTHORITY.issue(begin=HOUR), "tls.cert_file 'server.pem' is not valid before 20"),
        (
            (AUTHORITY.pem + cert, key),
            "tls.key_file 'server.key' is not the key of the first certificate of ",
        ),
    ):
        files.write(pair)
        assert (await refusal(files)).startswith(expected)
    files.write((cert, key))
    files.put(files.ca, b"-----BEGIN CERTIFICATE-----\n")
    assert (await refusal(files)).startswith("tls.client_ca_file 'ca.pem' holds no certificate")
    files.ca.unlink()
    os.mkfifo(files.ca)
    assert await refusal(files) == "tls.client_ca_file 'ca.pem' is not a file"


async def test_rsa_and_both_curves_and_chains_are_taken(tmp_path: Path) -> None:
    """As gRPC's clients take them; a chain has the server's own certificate first."""
    files = TlsFiles(tmp_path)
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        cert, private = AUTHORITY.issue(key=key)
        files.write((cert + AUTHORITY.pem, private))
        await Watched(files).start()


async def test_no_damage_ends_the_looks(watched: Watched) -> None:
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
