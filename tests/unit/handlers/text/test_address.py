"""Addresses of machines and of servers, in every spelling that people send."""

import pytest

from emitd_handlers.text.address import MAX_IP_CHARACTERS, ServerAddress, ip_of, read_server_address, shown


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7107", "203.0.113.7"),
        ("0:0:0:0:0:ffff:203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:0:0:0:0:7", "2001:db8::7"),
        ("2001:0db8:0000:0000:0000:0000:0000:0007", "2001:db8::7"),
        ("FE80::1%Eth0.100", "fe80::1%Eth0.100"),
        ("fe80::1%15-characters._", "fe80::1%15-characters._"),
        ("::ffff:203.0.113.7%eth0", "::ffff:cb00:7107%eth0"),
        ("::", "::"),
    ],
)
def test_an_address_has_one_usual_spelling(text: str, usual: str) -> None:
    """An IPv4 address in IPv6's form is that IPv4 address; a zone stays, letter for letter."""
    assert str(ip_of(text)) == usual


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "1.2.3",
        "127.1",
        "01.2.3.4",
        "1.2.3.4 ",
        "1.2.3.4:80",
        "1.2.3.4%eth0",
        "1.2.3.4/32",
        "[::1]",
        "[::1]:80",
        "::1%",
        "::1%16-characters-xx",
        "::1%a b",
        "::1%a\n",
        "::1%a\0",
        "::1%é",
        "::1%<script>",
        "::1%" + "a" * 50_000,
        "٣.3.3.3",
        "1.2.3.4\0",
        "1" * 50_000,
        "0x7f000001",
        "2130706433",
    ],
)
def test_what_is_no_address_of_a_machine(text: str) -> None:
    """Neither half of one, nor one with something around it."""
    assert ip_of(text) is None


def test_the_longest_address_is_taken() -> None:
    """Of an IPv6 address, in the longest of its forms, with the longest zone."""
    text = "0000:0000:0000:0000:0001:ffff:255.255.255.255%abcdefghijklmno"
    assert len(text) == MAX_IP_CHARACTERS
    assert ip_of(text) is not None
    assert ip_of(text + "p") is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:50051", ServerAddress("localhost", 50051)),
        ("my_service.ns.svc.:00080", ServerAddress("my_service.ns.svc.", 80)),
        ("127.0.0.1:1", ServerAddress("127.0.0.1", 1)),
        ("[::1]:65535", ServerAddress("::1", 65535)),
        ("[fe80::1%eth0]:5", ServerAddress("fe80::1%eth0", 5)),
        ("4you.example:5", ServerAddress("4you.example", 5)),
        ("unix:run/emitd.sock", ServerAddress("", 0, "run/emitd.sock")),
        ("unix:///run/a b.sock", ServerAddress("", 0, "/run/a b.sock")),
        ("unix:/run/a@b:c", ServerAddress("", 0, "/run/a@b:c")),
    ],
)
def test_a_server_s_address_is_read(text: str, address: ServerAddress) -> None:
    """In each of its three forms."""
    assert read_server_address(text) == address
    assert read_server_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no port"),
        ("localhost", "has no port"),
        ("localhost:", "has no port"),
        (":50051", "has no host"),
        ("h:0", "has the port '0', which is no number from 1 to 65535"),
        ("h:109861", "has the port '109861', which is no number from 1 to 65535"),
        ("h:+80", "has the port '+80', which is no number from 1 to 65535"),
        ("h:http", "has the port 'http', which is no number from 1 to 65535"),
        ("h:٣", "has the port '٣', which is no number from 1 to 65535"),
        ("h:1/", "has the port '1/', which is no number from 1 to 65535"),
        ("h:1\n", "has the port '1\\n', which is no number from 1 to 65535"),
        ("http://h:1", "is a URL"),
        ("https://h/emitd", "is a URL"),
        ("grpc://user:secret@h:1/x?y", "is a URL"),
        ("dns:///h:1", "is a URL"),
        ("user:secret@h:1", "has a user's name"),
        ("::1", "has an IPv6 address without brackets"),
        ("::1:50051", "has an IPv6 address without brackets"),
        ("2001:db8::7:5005", "has an IPv6 address without brackets"),
        ("[::1]", "has no port"),
        ("[::1", "is no such address"),
        ("[1.2.3.4]:5", "has '[1.2.3.4]', which is not the ASCII name of a host"),
        ("[::1%a b]:5", "has '[::1%a b]', which is not the ASCII name of a host"),
        ("ipv4:1.2.3.4:5", "is no such address"),
        ("a b:1", "has 'a b', which is not the ASCII name of a host"),
        ("a\0:1", "has 'a\\x00', which is not the ASCII name of a host"),
        ("bücher.example:1", "has 'bücher.example', which is not the ASCII name of a host"),
        ("a..b:1", "has 'a..b', which is not the ASCII name of a host"),
        ("-a:1", "has '-a', which is not the ASCII name of a host"),
        ("127.1:1", "has '127.1', which is not the ASCII name of a host"),
        ("0x7f000001:1", "has '0x7f000001', which is not the ASCII name of a host"),
        ("010.0.0.1:1", "has '010.0.0.1', which is not the ASCII name of a host"),
        ("a" * 64 + ":1", f"has '{'a' * 64}', which is not the ASCII name of a host"),
        ("unix:", "has no path"),
        ("unix:/", "has no path"),
        ("unix://run/x", "has a host before its path"),
        ("unix:a%b", "has a path with one of # % ? or a zero, which gRPC's clients cannot reach"),
        ("unix:a\0b", "has a path with one of # % ? or a zero, which gRPC's clients cannot reach"),
        ("unix:" + "ä" * 54, "has a path of 108 bytes; a socket's path has at most 107"),
        ("/run/emitd.sock", "has no port"),
        ("/run/\x1b[2J", "is no such address"),
        ("/", "has no port"),
    ],
)
def test_what_is_no_address_of_a_server(text: str, why: str) -> None:
    """The error says what is wrong with it, and what was probably meant."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_server_address(text)
    assert str(caught.value) == why


def test_a_server_may_pick_its_port() -> None:
    """A client cannot connect to port 0."""
    assert read_server_address("h:0", lowest_port=0) == ServerAddress("h", 0)


def test_an_error_shows_no_password_and_no_end_of_a_long_text() -> None:
    """What stands before the last @ may be one."""
    assert shown("user:p@ss@h:1") == "'…@h:1'"
    assert shown("unix:/run/a@b") == "'unix:/run/a@b'"
    assert shown("x" * 50_000) == f"'{'x' * 64}…'"
