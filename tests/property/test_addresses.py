"""Addresses: every spelling of one is the same to a filter, and any other text is refused in one way."""

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd.settings import ClientSettings
from emitd.transport.channel import target_of
from emitd_handlers.audit.format.files import Entry
from emitd_handlers.audit.read.scan import Scan, scan_block
from emitd_handlers.audit.source import AuditFilter
from emitd_handlers.record import is_source_ip, usual_source_ip
from emitd_handlers.room import Room
from emitd_handlers.text.address import MAX_IP_CHARACTERS, ServerAddress, ip_of, read_server_address
from emitd_server.config.loader import survey_config
from emitd_server.settings import ListenEntry
from support.audit.sealed_log import make_line

ZONES = st.text("abcXYZ019._~-", min_size=1, max_size=15)


def spellings(ip: IPv4Address | IPv6Address) -> st.SearchStrategy[str]:
    """Every usual way to write an address."""
    if ip.version == 4:
        six = IPv6Address(f"::ffff:{ip}")
        forms = [str(ip), f"::ffff:{ip}", f"0:0:0:0:0:ffff:{ip}", str(six), six.exploded]
    else:
        forms = [str(ip), ip.exploded, str(ip).replace(":0:", ":0000:")]
    return st.sampled_from([*forms, *map(str.upper, forms)])


ADDRESSES = st.ip_addresses().filter(lambda ip: getattr(ip, "ipv4_mapped", None) is None)
HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.tuples(st.ip_addresses(v=6), ZONES).map(lambda both: f"{both[0]}%{both[1]}"),
    st.from_regex(r"([a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9])?\.){0,3}[a-z][a-z0-9]{0,8}\.?", fullmatch=True),
)
TEXTS = st.one_of(
    st.text(max_size=80),
    st.text("0123456789abcdef:.%[]", max_size=50),
    st.text("ah1:.,/@[]% \n-ü٣", max_size=30),
    st.sampled_from(
        ["1" * 50_000, "::1%" + "a" * 50_000, "h:" + "9" * 50_000, "[" * 50_000, "a://" * 10_000]
    ),
)


@given(st.data(), ADDRESSES)
def test_every_spelling_is_the_same_address(data: st.DataObject, ip: IPv4Address | IPv6Address) -> None:
    """Long or short, in capitals or not, IPv4 by itself or among those of IPv6."""
    text = data.draw(spellings(ip))
    assert is_source_ip(text)
    assert usual_source_ip(text) == str(ip)


@given(st.ip_addresses(v=6), ZONES)
def test_a_zone_is_kept(ip: IPv6Address, zone: str) -> None:
    """Letter for letter: the same address in two zones is two machines."""
    assert usual_source_ip(f"{ip.exploded.upper()}%{zone}") == f"{ip}%{zone}"


@given(TEXTS)
def test_a_text_is_a_short_address_or_none(text: str) -> None:
    """Nothing raises, and what is kept for the next call is short, in ASCII, without control characters."""
    usual = usual_source_ip(text)
    assert usual_source_ip(usual) == usual
    if is_source_ip(text):
        assert len(text) <= MAX_IP_CHARACTERS
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
    else:
        assert usual == text
        assert ip_of(text) is None


class Block:
    """A trail of one block."""

    def __init__(self, lines: list[bytes]) -> None:
        self.data = b"".join(line + b"\n" for line in lines)

    def block_after(self, *_: Any) -> bytes:
        return self.data

    def block_before(self, *_: Any) -> tuple[Entry, bytes]:
        return Entry(0, 0), self.data


@given(st.data(), st.lists(ADDRESSES, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_no_spelling_hides_a_line_from_a_filter(
    data: st.DataObject, ips: list[IPv4Address | IPv6Address], backward: bool, has_user: bool
) -> None:
    """Neither the sender's spelling nor the asker's, in either direction of the scan."""
    sent = [data.draw(st.sampled_from(ips)) for _ in range(6)]
    lines = [
        json.loads(make_line(number)) | {"source_ip": data.draw(spellings(ip))}
        for number, ip in enumerate(sent)
    ]
    asked = data.draw(st.sampled_from(ips))
    user = lines[0]["user_id"] if has_user else ""
    wanted = AuditFilter(source_ip=data.draw(spellings(asked)), user_id=user)
    trail: Any = Block([json.dumps(line).encode() for line in lines])
    step = scan_block(trail, Scan(wanted, 10**9, backward), Entry(0, 0), Room(100, 10**9))
    found = sorted(entry.leaf_index for entry in step.entries)
    assert found == [
        number for number, ip in enumerate(sent) if ip == asked and user in ("", lines[number]["user_id"])
    ]


@given(HOSTS, st.integers(1, 65535))
def test_a_server_s_address_comes_back_as_it_was_written(host: str, port: int) -> None:
    """To the client, to the service, and to grpc."""
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert read_server_address(text) == ServerAddress(host, port)
    assert str(read_server_address(text, lowest_port=0)) == text
    assert ClientSettings.read({"address": text}, {}).address == text
    assert target_of(text) == text
    given: dict[str, Any] = {
        "address": text,
        "health_only": True,
    }  # a plain address beyond loopback is refused
    file = {"server": {"listen": [given]}, "handlers": {"d": {"type": "discard"}}}
    config = survey_config(None, environ={}, text=json.dumps(file)).config
    assert config is not None
    assert config.server.listen == (ListenEntry(**given),)


@given(TEXTS)
def test_any_text_is_read_or_refused(text: str) -> None:
    """By a ValueError of one short line for the client; what a client takes alone, a service takes too."""
    try:
        address = read_server_address(text)
    except ValueError as error:
        assert len(str(error)) < 400
        assert str(error).isprintable()
    else:
        assert read_server_address(str(address)) == address
        assert read_server_address(text, lowest_port=0) == address
    try:
        ClientSettings.read({"address": text}, {})
    except ValueError as error:
        assert len(str(error)) < 600
        assert str(error).startswith("address: ")


@given(
    st.text(st.characters(min_codepoint=33, exclude_characters="@/"), min_size=1),
    st.sampled_from(["", "http://"]),
)
def test_no_error_shows_a_password(password: str, scheme: str) -> None:
    """Whatever is in it."""
    secret = f"S{password}S"
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ClientSettings.read({"address": f"{scheme}user:{secret}@h:1"}, {})
    assert secret not in str(caught.value)
    assert str(caught.value).startswith("address: '…@h:1' ")
