"""`server.listen` in the configuration: what it may be, what goes together, and what is too open."""

from pathlib import Path

import pytest

from emitd_server.config.listeners import exposure
from emitd_server.config.loader import ConfigError, load_config
from emitd_server.settings import Identity, ListenEntry, ServerSettings, TlsSettings

TLS = "tls: {cert_file: c.pem, key_file: /k.pem}"
MUTUAL = "tls: {cert_file: c.pem, key_file: /k.pem, client_ca_file: ~/ca.pem}"
GUARDED = (
    "this entry under server.listen: {address: ADDRESS, tls: {cert_file: FILE, key_file: FILE}, identity: token}; "
    "or, for everyone who can reach it, {address: ADDRESS, insecure: true}"
)


def load(folder: Path, listen: str, override: str | None = None, **environ: str) -> ServerSettings:
    file = folder / "c.yml"
    text = f"handlers: {{d: {{type: discard}}}}\nserver:\n  listen: {listen}\n  access: {{tokens_file: t}}\n"
    file.write_text(text)
    return load_config(file, environ=environ, listen=override).server


def problems(folder: Path, listen: str, override: str | None = None, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, listen, override, **environ)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_a_list_has_addresses_and_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the file, each under its path; files and sockets are relative to it."""
    monkeypatch.setenv("HOME", "/home/x")
    text = f"""
    - 127.0.0.1:1
    - {{address: "0.0.0.0:2", {MUTUAL}, identity: certificate}}
    - {{address: "unix:s", principal: me}}
    - {{address: "[::]:3", health_only: true}}
    - {{address: "h.example:4", insecure: true}}
"""
    tls = TlsSettings(
        cert_file=tmp_path / "c.pem", key_file=Path("/k.pem"), client_ca_file=Path("/home/x/ca.pem")
    )
    entries = (
        ListenEntry(address="127.0.0.1:1"),
        ListenEntry(address="0.0.0.0:2", tls=tls, identity=Identity.CERTIFICATE),
        ListenEntry(address=f"unix:{tmp_path}/s", principal="me"),
        ListenEntry(address="[::]:3", health_only=True),
        ListenEntry(address="h.example:4", insecure=True),
    )
    settings = load(tmp_path, text)
    assert settings.listen == entries
    assert settings.listeners() == {f"server.listen[{i}]": entry for i, entry in enumerate(entries)}


def test_an_override_replaces_the_list(tmp_path: Path) -> None:
    """By one plain address."""
    settings = load(tmp_path, "[127.0.0.1:1, 127.0.0.1:2]", "127.0.0.1:3")
    assert settings.listeners("--listen") == {"--listen": ListenEntry(address="127.0.0.1:3")}
    assert load(tmp_path, "[127.0.0.1:1]", EMITD_LISTEN="unix:x").listen == "unix:x"


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("5", "3: server.listen: found 5; expected HOST:PORT, [IPV6]:PORT (ports 0 to 65535) or unix:PATH, or"),
        ("{address: '127.0.0.1:1'}", "3: server.listen: found a mapping; expected HOST:PORT, "),
        ("", "3: server.listen: found nothing; expected HOST:PORT, "),
        ("[]", "3: server.listen: is empty; expected at least one address"),
        ("[127.0.0.1:1, ~]", "3: server.listen[1]: found nothing; expected HOST:PORT, "),
        ("[127.0.0.1]", "3: server.listen[0]: found '127.0.0.1', which has no port; expected HOST:PORT"),
        ("[{tls: {}}]", "3: server.listen[0].address: is missing; expected str"),
        ("[{address: x}]", "3: server.listen[0].address: found 'x', which has no port; expected HOST:"),
        ("[{address: 'h:1', adress: y}]", "3: server.listen[0].adress: unknown key 'adress'; expected one of address,"),
        ("[{address: 5}]", "3: server.listen[0].address: found 5; expected text, in quotes"),
        (
            "[{address: 'h:1', tls: {cert_file: a}}]",
            "3: server.listen[0].tls.key_file: is missing; expected Path",
        ),
        ("[{address: 'h:1', tls: {cert: a}}]", "3: server.listen[0].tls.cert: unknown key 'cert'; expected one of"),
        ("[{address: 'h:1', tls: yes}]", "3: server.listen[0].tls: found yes; expected a mapping of settings"),
        ("[{address: 'h:1', identity: jwt}]", "3: server.listen[0].identity: found 'jwt'; expected one of none,"),
        ("[{address: 'h:1', insecure: maybe}]", "3: server.listen[0].insecure: found 'maybe'; expected bool"),
        ("\n  - 127.0.0.1:1\n  - 127.0.0.1:01", "5: server.listen[1]: the same address stands in line 4"),
        ("\n  - H:1\n  - {address: 'h:1'}", "5: server.listen[1]: the same address stands in line 4"),
        ("\n  - unix:a\n  - unix:./a", "5: server.listen[1]: the same address stands in line 4"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, listen: str, expected: str) -> None:
    """And with its path in the list."""
    assert problems(tmp_path, listen)[0].startswith(f"c.yml:{expected}")


def test_some_addresses_may_stand_twice(tmp_path: Path) -> None:
    """Port 0 is another port each time; a socket's path has capital letters."""
    assert len(load(tmp_path, "['127.0.0.1:0', '127.0.0.1:0', 'unix:a', 'unix:A']").listeners()) == 4


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (f"address: 'unix:s', {TLS}", "a Unix socket has no TLS: server.socket_mode says who may connect"),
        (f"address: 'h:1', {TLS}, identity: certificate", "'identity: certificate' needs tls.client_ca_file"),
        ("address: 'h:1', identity: certificate", "'identity: certificate' needs tls.client_ca_file"),
        (f"address: 'h:1', {MUTUAL}", "tls.client_ca_file needs 'identity: certificate'"),
        (f"address: 'h:1', {MUTUAL}, identity: token", "tls.client_ca_file needs 'identity: certificate'"),
        ("address: 'h:1', principal: x", "'principal' is only for a Unix socket"),
        (
            "address: 'unix:s', principal: x, identity: token",
            "'principal' names every caller, and so does 'identity': remove one",
        ),
        (
            "address: 'h:1', health_only: true, identity: token",
            "'health_only' asks no caller who it is: remove 'identity' and 'principal'",
        ),
        (f"address: 'h:1', {TLS}, identity: token, insecure: true", "'insecure' is not needed: remove it"),
        ("address: 'unix:s', insecure: true", "'insecure' is not needed: remove it"),
        ("address: 'h:1', health_only: true, insecure: true", "'insecure' is not needed: remove it"),
    ],
)
def test_keys_that_do_not_go_together_are_named(tmp_path: Path, keys: str, expected: str) -> None:
    """At the line of the entry."""
    assert problems(tmp_path, f"\n  - {{{keys}}}") == [f"c.yml:4: server.listen[0]: {expected}"]


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "[fe80::1%eth0]", "[::ffff:192.0.2.1]"])
def test_an_open_listener_is_refused(tmp_path: Path, host: str) -> None:
    """Whichever way it is given, with what it has not and what to write."""
    address, start = f"{host}:1", f"found '{host}:1', which is beyond loopback and has"
    nothing, no_one = f"{start} no TLS and no identity", f"{start} no identity"
    for place, listen, found in (
        ("server.listen", f"'{address}'", nothing),
        ("server.listen[0]", f"['{address}']", nothing),
        ("server.listen[0].address", f"[{{address: '{address}'}}]", nothing),
        ("server.listen[0].address", f"[{{address: '{address}', {TLS}}}]", no_one),
        (
            "server.listen[0].address",
            f"[{{address: '{address}', identity: token}}]",
            f"{start} no TLS",
        ),
    ):
        assert problems(tmp_path, listen) == [f"c.yml:3: {place}: {found}; expected {GUARDED}"]
    for given in ({"override": address}, {"EMITD_LISTEN": address}):
        (line,) = problems(tmp_path, "127.0.0.1:1", **given)
        assert line.partition(": ")[2] == f"{nothing}; expected {GUARDED}"


@pytest.mark.parametrize(
    "entry",
    [
        "'127.0.0.1:1'",
        "'127.9.9.9:1'",
        "'[::1]:1'",
        "'[::ffff:127.0.0.1]:1'",
        "localhost:1",
        "{address: '127.0.0.1:1', identity: token}",
        "{address: '127.0.0.1:1', insecure: true}",
        "unix:s",
        f"{{address: '0.0.0.0:1', {TLS}, identity: token}}",
        f"{{address: '0.0.0.0:1', {TLS}, insecure: true}}",
        "{address: '0.0.0.0:1', health_only: true}",
        f"{{address: '0.0.0.0:1', {TLS}, health_only: true}}",
    ],
)
def test_these_are_not_too_open(tmp_path: Path, entry: str) -> None:
    """Loopback, with or without tokens, a socket, and what is guarded or meant."""
    assert len(load(tmp_path, f"[{entry}]").listeners()) == 1


def test_an_address_from_the_environment_stays_secret(tmp_path: Path) -> None:
    """In every problem of an entry."""
    for listen in ("['${A}']", "[{address: '${A}'}]"):
        for address in ("192.0.2.7:1", "hush@h:1", "192.0.2.7", "hush:x", "h:hush"):
            (line,) = problems(tmp_path, listen, A=address)
            assert "found a value from ${A}" in line
            assert "hush" not in line
            assert "192" not in line


def test_one_address_beyond_loopback_is_enough() -> None:
    """A name may have several; an address that cannot be read is none of this machine."""
    entry = ListenEntry(address="name:1")
    assert exposure(entry, ["127.0.0.1", "::1", "127.1.1.1"]) == ""
    for other in ("192.0.2.1", "::", "fe80::1%eth0", "?"):
        assert exposure(entry, ["127.0.0.1", other]) == "is beyond loopback and has no TLS and no identity"
