"""What every channel to a server is made with: its options, and its target."""

import ipaddress
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from emitd.transport.call_errors import NoChannel

__all__ = ["channel_options", "channel_target"]

MAX_RECEIVE_BYTES = 64 * 1024 * 1024
#: grpc's own pauses between attempts to connect would grow to two minutes.
MIN_RECONNECT_MILLISECONDS = 100
MAX_RECONNECT_MILLISECONDS = 1_000
#: How long a server may take to greet, in spite of the option's name: one that is busy, or far away.
CONNECT_MILLISECONDS = 5_000
#: A connection on which nothing comes back for so long is dead.
KEEPALIVE_MILLISECONDS = 30_000
KEEPALIVE_TIMEOUT_MILLISECONDS = 10_000


def channel_options() -> Sequence[tuple[str, Any]]:
    """Return the options of every channel to a server."""
    balanced: Mapping[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    return [
        ("grpc.service_config", json.dumps(balanced)),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", MIN_RECONNECT_MILLISECONDS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_MILLISECONDS),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MILLISECONDS),
        ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
    ]


def channel_target(address: str) -> str:
    """Return grpc's target for one HOST:PORT, a URI such as `dns:///emitd:50051`, or several HOST:PORT with commas.

    It is of one of these forms, as ClientSettings are. Names among several are looked up once; raises NoChannel for one
    that is not known.
    """
    parts = [part.strip() for part in address.split(",") if part.strip()]
    if len(parts) == 1:
        return parts[0]
    found = list(dict.fromkeys(endpoint for part in parts for endpoint in _look_up(part)))
    families = {"ipv6" if endpoint.startswith("[") else "ipv4" for endpoint in found}
    if len(families) > 1:  # grpc takes one kind; an IPv4 address has a form among those of IPv6
        found = [_as_ipv6(endpoint) for endpoint in found]
        families = {"ipv6"}
    return f"{families.pop()}:{','.join(found)}"


def _look_up(endpoint: str) -> Iterator[str]:
    host, _, port = endpoint.rpartition(":")
    with suppress(ValueError):
        ip = ipaddress.ip_address(host.strip("[]"))
        yield f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
        return
    try:
        answers = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise NoChannel(f"address: '{host}' is not known: {error}") from None
    for *_, found in answers:
        yield f"{found[0]!s}:{port}"


def _as_ipv6(endpoint: str) -> str:
    host, _, port = endpoint.rpartition(":")
    return endpoint if endpoint.startswith("[") else f"[::ffff:{host}]:{port}"
