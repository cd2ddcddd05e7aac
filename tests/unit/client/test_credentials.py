"""`Credentials`: the certificates and the token of a client."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from emitd import credentials
from emitd.client import LogClient
from emitd.credentials import Credentials
from emitd.logging import EmitdHandler
from emitd.settings import ClientSettings
from support.client.authority import Authority, Pair

TOKEN = "t0ken-of-a-test"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("client")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files with each call."""
    monkeypatch.setattr(credentials, "LOOK_SECONDS", 0.0)


def read(environ: dict[str, str] | None = None, **given: Any) -> ClientSettings:
    return ClientSettings.read(given, environ or {})


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


class TestWhatIsRefused:
    """When the client is made, by the name of the argument or the variable that is wrong."""

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"tls": False, "ca_file": "x"}, "ca_file: is for TLS, and tls is false"),
            ({"tls": False, "cert_file": "x", "key_file": "y"}, "cert_file: is for TLS, and tls is false"),
            ({"cert_file": "x"}, "cert_file: needs key_file"),
            ({"key_file": "x"}, "key_file: needs cert_file"),
            ({"token": "x", "token_file": "y"}, "token_file: stands next to token; give one of them"),
            ({"tls": "yes"}, r"tls: Expected `bool \| null`, got `str`, not 'yes'"),
            ({"ca_file": "/nowhere/ca.pem"}, "ca_file: '/nowhere/ca.pem' cannot be read: No such file .*"),
            ({"ca_file": "/"}, "ca_file: '/' cannot be read: Is a directory"),
            ({"ca_file": "a\0b"}, "ca_file: 'a\0b' cannot be read: embedded null byte"),
            ({"ca_file": "/dev/zero"}, "ca_file: '/dev/zero' is too large"),
            ({"ca_file": "/dev/null"}, "ca_file: '/dev/null' is empty"),
            ({"token_file": "/dev/null"}, "token_file: '/dev/null' is empty"),
        ],
    )
    def test_it_is_named(self, given: dict[str, Any], error: str) -> None:
        """With the reason."""
        with pytest.raises(ValueError, match=f"^{error}$"):
            read(**given)

    def test_a_variable_is_named_as_such(self) -> None:
        """It is where the mistake is."""
        with pytest.raises(ValueError, match=r"^EMITD_CA_FILE: is for TLS, and tls is false$"):
            read({"EMITD_CA_FILE": "/x"}, tls=False)
        with pytest.raises(ValueError, match=r"^EMITD_TOKEN_FILE: '/x' cannot be read: No such file"):
            read({"EMITD_TOKEN_FILE": "/x"})

    @pytest.mark.parametrize("token", ["a\n", "a b", "\xe9", "\u0661", "x" * 7001, "a\0"])
    def test_no_token_at_all(self, token: str, tmp_path: Path) -> None:
        """A line's end would be another header; the error does not show it."""
        with pytest.raises(
            ValueError, match=r"^token: must be at most 7000 visible ASCII characters"
        ) as refused:
            read(token=token)
        assert repr(token)[1:-1] not in str(refused.value)
        if token.strip() == token:
            (tmp_path / "token").write_text(token)
            with pytest.raises(ValueError, match=r"^token_file: '.*' does not hold a token of at most 7000"):
                read(token_file=tmp_path / "token")

    def test_a_token_of_another_type(self) -> None:
        """The error does not show it either."""
        with pytest.raises(ValueError, match=r"^token: Expected `str`, got `bytes`$"):
            read(token=b"secret")

    @pytest.mark.parametrize(
        "address", ["logs.example:1", "127.0.0.1:1,logs:2", "10.0.0.1:1", "dns:///logs:1"]
    )
    def test_a_token_in_plain_text(self, address: str, token_file: Path) -> None:
        """It would cross the network for everyone to read."""
        expected = f"would cross the network in plain text, to {address}; set tls, or ca_file$"
        with pytest.raises(ValueError, match=f"^token: {expected}"):
            read(address=address, token=TOKEN)
        with pytest.raises(ValueError, match=f"^EMITD_TOKEN_FILE: {expected}"):
            read({"EMITD_TOKEN_FILE": str(token_file)}, address=address)
        assert read(address=address, token=TOKEN, tls=True).uses_tls

    @pytest.mark.parametrize("address", ["unix:/run/x", "localhost:1", "[::1]:1,127.0.0.2:1"])
    def test_a_token_may_stay_on_this_machine(self, address: str) -> None:
        """As plain text."""
        assert not read(address=address, token=TOKEN).uses_tls

    def test_what_is_no_certificate_or_no_key_of_it(
        self, authority: Authority, pair: Pair, tmp_path: Path
    ) -> None:
        """Such as the one for the other; an encrypted key asks nobody for its password."""
        other = authority.issue("other")
        key = serialization.load_pem_private_key(pair.key_file.read_bytes(), None)
        encrypted = tmp_path / "encrypted.key"
        encrypted.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"password"),
            )
        )
        with pytest.raises(ValueError, match=r"^ca_file: '.*client.key' holds no certificate in PEM$"):
            read(ca_file=pair.key_file)
        with pytest.raises(
            ValueError, match=r"^key_file: '.*client.key' is no PEM key, without a password, of a"
        ):
            read(cert_file=pair.key_file, key_file=pair.key_file)
        for wrong in (other.key_file, pair.cert_file, encrypted):
            with pytest.raises(ValueError, match=r"^key_file: '.*' is no PEM key, without a password, of"):
                read(cert_file=pair.cert_file, key_file=wrong)


class TestWhatIsTaken:
    def test_certificates_mean_tls(self, authority: Authority, pair: Pair) -> None:
        """Unless they are not there."""
        assert read(ca_file=authority.ca_file).uses_tls
        assert read(**pair.settings).uses_tls
        assert read({"EMITD_TLS": "true"}).uses_tls
        assert not read().uses_tls
        assert read().credentials().certificates() is None

    def test_an_argument_wins_over_the_other_variable(self, token_file: Path) -> None:
        """A token file over EMITD_TOKEN, and a token over EMITD_TOKEN_FILE."""
        by_file = read({"EMITD_TOKEN": "other"}, token_file=token_file)
        assert by_file.credentials().metadata() == bearer(TOKEN)
        by_text = read({"EMITD_TOKEN_FILE": "/nowhere"}, token="mine")
        assert by_text.credentials().metadata() == bearer("mine")

    def test_a_file_s_token_has_no_line_s_end(self, token_file: Path) -> None:
        """Editors write one."""
        assert read(token_file=token_file).credentials().metadata() == bearer(TOKEN)
        assert read().credentials().metadata() is None

    def test_a_handler_and_its_client_have_them_too(
        self, token_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client is made of the settings of the handler."""
        monkeypatch.setenv("EMITD_TOKEN", "other")
        handler = EmitdHandler(token_file=token_file, spool="off")
        assert handler.client._engine.credentials.metadata() == bearer(TOKEN)
        handler.client._engine.close()


@given(st.text(min_size=1))
def test_no_text_is_a_token_that_grpc_would_refuse(text: str) -> None:
    """Visible ASCII, or refused by name."""
    try:
        settings = read(token=text)
    except ValueError as error:
        assert str(error).startswith("token: must be")
    else:
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
        assert settings.credentials().metadata() == bearer(text)


def test_no_text_shows_a_token(token_file: Path) -> None:
    """Of the settings, the client, its credentials, or what holds them."""
    settings = read(token=TOKEN)
    client = LogClient(token=TOKEN, spool="off")
    client.close()
    shown = f"{settings} {settings!r} {msgspec.structs.asdict(settings)} {client!r} {client.settings!r}"
    by_file = read(token_file=token_file).credentials()
    assert TOKEN not in shown + repr(by_file) + repr(vars(by_file)) + repr(by_file.metadata()) + repr(
        client._engine.credentials
    )


@pytest.mark.usefixtures("looks_always")
class TestChangedFiles:
    def test_a_new_token_is_read(self, token_file: Path) -> None:
        """In place, or as another file of that name."""
        found = read(token_file=token_file).credentials()
        first = found.metadata()
        token_file.write_text("second")
        assert found.is_renewed(first)
        assert found.metadata() == bearer("second")
        other = token_file.with_name("other")
        other.write_text("third!")
        os.replace(other, token_file)
        assert found.metadata() == bearer("third!")
        assert not found.is_renewed(found.metadata())

    def test_one_that_cannot_be_used_leaves_the_last_and_is_told_once(
        self, token_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Not at the first look: it may be half written."""
        found = read(token_file=token_file).credentials()
        for content in ("", "\xe9" * 3):
            token_file.write_text(content)
            assert found.metadata() == bearer(TOKEN)
            assert capsys.readouterr().err == ""
            for _ in range(3):
                assert found.metadata() == bearer(TOKEN)
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert said.startswith(f"emitd: token_file: '{token_file}' ")
            assert said.endswith("; what was read before stays in use\n")
        token_file.unlink()
        assert found.metadata() == found.metadata() == bearer(TOKEN)
        assert "cannot be read: No such file" in capsys.readouterr().err
        token_file.write_text("new")
        assert found.metadata() == bearer("new")

    def test_another_file_of_the_same_size_and_time_is_another(self, token_file: Path) -> None:
        """As some tools make them, which keep the times of what they copy."""
        found = read(token_file=token_file).credentials()
        state, other = token_file.stat(), token_file.with_name("other")
        other.write_text("x" * state.st_size)
        os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
        os.replace(other, token_file)
        assert found.metadata() == bearer("x" * state.st_size)

    def test_what_is_read_while_it_is_written_is_read_again(
        self, token_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as the first half of a token."""
        found = read(token_file=token_file).credentials()
        read_file = credentials._read

        def write_on(name: str, path: str) -> bytes:
            half = read_file(name, path)
            token_file.write_text("first-half-and-second")
            return half

        token_file.write_text("first-half")
        with monkeypatch.context() as patch:
            patch.setattr(credentials, "_read", write_on)
            assert found.metadata() == bearer(TOKEN)
        assert found.metadata() == bearer("first-half-and-second")

    def test_certificates_change_together(
        self, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A new certificate without its key is not taken, and not reported at once."""
        pair = Authority(tmp_path).issue("mine")
        found = read(ca_file=authority.ca_file, **pair.settings).credentials()
        first = found.certificates()
        assert first is found.certificates()
        new = authority.issue("new")
        os.replace(new.cert_file, pair.cert_file)
        assert found.certificates() is first
        os.replace(new.key_file, pair.key_file)
        second = found.certificates()
        assert second is not None
        assert second is not first
        assert second.key == pair.key_file.read_bytes()
        assert second.certificate == pair.cert_file.read_bytes()
        assert capsys.readouterr().err == ""


def test_files_are_looked_at_once_a_second(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of calls; at once if a call was refused."""
    monkeypatch.setattr(credentials, "LOOK_SECONDS", 0.0)
    found = read(token_file=token_file).credentials()
    monkeypatch.setattr(credentials, "LOOK_SECONDS", 60.0)
    looks: list[object] = []
    stat = os.stat

    def noting(path: Any) -> os.stat_result:
        looks.append(path)
        return stat(path)

    monkeypatch.setattr(os, "stat", noting)
    for _ in range(1000):
        found.metadata()
    assert len(looks) == 1
    looks.clear()
    found.is_renewed(None)
    assert len(looks) == 1


class TestCauses:
    """What is said of a server that cannot be reached: by gRPC, and by us."""

    @pytest.fixture
    def cause(self, authority: Authority) -> Callable[..., str]:
        def say(failure: str, **more: Any) -> str:
            return read(address="logs:1", **more).credentials().cause(failure)

        return say

    def test_nothing_is_said_of_what_is_not_known(self, cause: Callable[..., str]) -> None:
        """Such as that nobody listens there."""
        assert cause("failed to connect to all addresses; last error: Connection refused") == ""

    def test_the_dates_of_the_client_s_own_certificate(
        self, authority: Authority, cause: Callable[..., str]
    ) -> None:
        """They are looked at before the server is suspected."""
        for days, said in (
            ((-3, -1), "the client's certificate has expired or is not valid yet: "),
            ((1, 2), "the client's certificate has expired or is not valid yet: "),
            ((-1, 1), "the server ended the connection at once: perhaps it does not accept the client's"),
        ):
            pair = authority.issue("dated", days)
            assert cause("x; last error: Socket closed", **pair.settings).startswith(
                f"cannot reach logs:1: {said}"
            )


def test_an_empty_one_has_nothing() -> None:
    """It is what a command has that was given no flag."""
    nothing = Credentials("a:1")
    assert (nothing.certificates(), nothing.metadata()) == (None, None)
