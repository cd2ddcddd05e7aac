"""Where a request came from: only trusted proxies are believed, from the right."""

import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitd.web.context import WebSettings
from emitd.web.trusted_proxies import TrustedProxies

PROXIES = TrustedProxies(["127.0.0.1", "10.0.0.0/8", "fd00::/8"])
RFC_7239 = TrustedProxies(["10.0.0.0/8"], header="Forwarded")

addresses = st.ip_addresses().filter(lambda address: not getattr(address, "ipv4_mapped", None)).map(str)
texts = st.text(st.characters(max_codepoint=255), max_size=40)


@pytest.mark.parametrize(
    ("peer", "told"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%a b", "unknown"),
        ("::1%" + "a" * 50_000, "unknown"),
        ("1.2.3.4:80", "unknown"),
        ("testclient", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_without_a_trusted_proxy_it_is_the_peer(peer: str | None, told: str) -> None:
    """The peer's address in one spelling, or `unknown` for a Unix socket and a test client; the header is a rumour."""
    assert TrustedProxies().source_address(peer, ["198.51.100.1"]) == told
    assert PROXIES.source_address(peer, ["198.51.100.1"]) == told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        # What the sender wrote itself stands on the left.
        (["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
        (["10.0.0.9, 192.0.2.1"], "192.0.2.1"),
        (["203.0.113.9", "192.0.2.1"], "192.0.2.1"),
        # Through more proxies of one's own, in one header or in several.
        (["203.0.113.9, 192.0.2.1, fd00::2, 10.0.0.2"], "192.0.2.1"),
        (["203.0.113.9", "192.0.2.1,10.0.0.3", "::ffff:10.0.0.2"], "192.0.2.1"),
        # A machine within asks through the proxy.
        (["10.0.0.7"], "10.0.0.7"),
        (["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
        # Gaps of a list are none of its elements.
        ([" , 192.0.2.1 ,, "], "192.0.2.1"),
        # From what is malformed on, nothing is certain.
        (["192.0.2.1, nonsense"], "10.0.0.1"),
        (["192.0.2.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        (["unknown"], "10.0.0.1"),
        (["192.0.2.1, 192.0.2.256"], "10.0.0.1"),
        (["192.0.2.1:port"], "10.0.0.1"),
        (["[2001:db8::1"], "10.0.0.1"),
        (["2001:db8::1%<script>"], "10.0.0.1"),
        (['"192.0.2.1"'], "10.0.0.1"),
        (["192.0.2.1 192.0.2.2"], "10.0.0.1"),
    ],
)
def test_the_rightmost_untrusted_address_counts(values: list[str], told: str) -> None:
    """From a trusted proxy, the header is read from the right up to the first address that is not trusted."""
    assert PROXIES.source_address("10.0.0.1", values) == told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["for=192.0.2.1"], "192.0.2.1"),
        (['For="[2001:db8:cafe::17]:4711";proto=https;by=10.0.0.1'], "2001:db8:cafe::17"),
        (["proto=http ; for=192.0.2.1:8080 ; by=_secret"], "192.0.2.1"),
        (['for="192.0.2.1:_port"'], "192.0.2.1"),
        (["for=203.0.113.9, for=192.0.2.1;host=example.org, for=10.0.0.2"], "192.0.2.1"),
        (["for=203.0.113.9", "for=192.0.2.1"], "192.0.2.1"),
        (["for=_hidden"], "10.0.0.1"),
        (["for=192.0.2.1, for=unknown, for=10.0.0.2"], "10.0.0.2"),
        (["proto=https"], "10.0.0.1"),
        (["192.0.2.1"], "10.0.0.1"),
        (["for=192.0.2.1;for=192.0.2.2"], "10.0.0.1"),
        (['for=""'], "10.0.0.1"),
        # A quote that the sender opened swallows nothing of what the proxy wrote.
        (['for="203.0.113.9, for=192.0.2.1'], "192.0.2.1"),
        # The sender's `Host`, quoted by the proxy, is no element of its own.
        (['for=192.0.2.1;host="a,for=203.0.113.9"'], "10.0.0.1"),
        (['for=192.0.2.1;host="a,for=203.0.113.9,b"'], "10.0.0.1"),
        (['host="a,for=203.0.113.9,b";for=192.0.2.1'], "10.0.0.1"),
        (['for=192.0.2.1;host="a,for=203.0.113.9;b=\\""'], "10.0.0.1"),
    ],
)
def test_forwarded_is_read_as_the_rfc_says(values: list[str], told: str) -> None:
    """`Forwarded` is read by RFC 7239, from the right; what is malformed ends the way, and forges nothing."""
    assert RFC_7239.source_address("10.0.0.1", values) == told


def test_a_unix_socket_can_be_a_proxys() -> None:
    """With `unix`, whoever comes without an address is believed; without it, he is unknown."""
    assert TrustedProxies("unix").source_address(None, ["203.0.113.9, 192.0.2.1"]) == "192.0.2.1"
    assert TrustedProxies("unix").source_address(None, ["nonsense"]) == "unknown"
    assert not TrustedProxies("unix").trusts("testclient")
    assert not PROXIES.trusts(None)


def test_a_request_is_followed_back_only_so_far() -> None:
    """A header full of trusted addresses costs no more than `max_proxies` of them."""
    proxies = TrustedProxies("10.0.0.0/8", max_proxies=3)
    values = ["192.0.2.1" + ", 10.0.0.2" * 3]
    assert proxies.source_address("10.0.0.1", values) == "10.0.0.2"
    assert proxies.source_address("10.0.0.1", ["192.0.2.1" + ", 10.0.0.2" * 2]) == "192.0.2.1"


@pytest.mark.parametrize("name", ["proxy.example", "10.0.0.1/8", "*", "", "::ffff:10.0.0.0/104"])
def test_what_is_no_network_is_refused(name: str) -> None:
    """A mistake among the trusted proxies is an error that names them, not a proxy that is never recognised."""
    with pytest.raises(ValueError, match=r"trusted_proxies: .*" + re.escape(name)):
        TrustedProxies(["127.0.0.1", name])


@given(addresses, st.lists(texts, max_size=4), addresses.filter(lambda text: not PROXIES.trusts(text)))
def test_nothing_a_sender_writes_changes_the_answer(proxy: str, forged: list[str], sender: str) -> None:
    """Whatever the sender put into the header, once or several times, its true address counts."""
    proxies = TrustedProxies([proxy, "127.0.0.1"])
    if proxies.trusts(sender):
        return
    true = proxies.source_address(sender, [])
    assert proxies.source_address(proxy, [*forged, sender]) == true
    assert proxies.source_address(proxy, [", ".join([*forged, sender])]) == true
    assert proxies.source_address("127.0.0.1", [*forged, f"{sender}, {proxy}"]) == true


@given(
    st.one_of(st.none(), texts, addresses), st.lists(st.one_of(texts, addresses), max_size=4), st.booleans()
)
def test_the_answer_is_an_address_or_unknown(peer: str | None, values: list[str], is_rfc_7239: bool) -> None:
    """No input raises, and every answer is one that the service takes."""
    header = "Forwarded" if is_rfc_7239 else WebSettings().forwarded_header
    proxies = TrustedProxies(["0.0.0.0/0", "::/0", "unix"], header=header)
    told = proxies.source_address(peer, values)
    assert told == "unknown" or str(ip_address(told)) == told
