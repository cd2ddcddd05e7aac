"""The channel to a server: its address, its options, and the failures of its calls."""

import ipaddress
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from emitd.settings import address_problem, expand_home

Option = tuple[str, Any]

#: How many free file descriptors a channel takes, with some to spare.
NEEDED_DESCRIPTORS = 16

OPTIONS: Sequence[Option] = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # grpc's own pauses between attempts to connect would grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # In spite of its name: how long a server may take to greet, if it is busy or far away.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # A connection on which nothing comes back for this long is dead.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class CallFailed(grpc.RpcError):
    """A call that failed. Unlike grpc's own error it holds nothing of grpc, so that it may be freed during a fork."""

    def __init__(self, code: grpc.StatusCode, details: str | None, trailers: Any = ()) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code, self._details, self._trailers = code, details, trailers

    @classmethod
    def copy_of(cls, error: grpc.RpcError) -> "CallFailed":
        """Return what an error of grpc says."""
        return CallFailed(error.code(), error.details(), error.trailing_metadata())

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str | None:
        """Return the status's text."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Return the trailers."""
        return self._trailers


class NoChannel(CallFailed):
    """A call that had no channel, for a name is not known now, or another thread interrupted it. Worth another try."""

    def __init__(self, why: str) -> None:
        # As grpc says it of a call of which nothing was sent.
        super().__init__(grpc.StatusCode.UNAVAILABLE, f"failed to connect to all addresses: {why}")


def make_channel(address: str, *options: Option) -> grpc.Channel:
    """Return a channel to `address`, in any form that the setting `address` of a client may have.

    Nothing is connected before the first call; names among several addresses are looked up now. Raises ValueError for
    an address of no such form, and NoChannel for a name that is not known.
    """
    return grpc.insecure_channel(target_of(address), [*OPTIONS, *options])


def make_async_channel(address: str) -> grpc.aio.Channel:
    """Return a channel of grpc.aio, as `make_channel` does."""
    return grpc.aio.insecure_channel(target_of(address), OPTIONS)


def target_of(address: str) -> str:
    """Return grpc's target for an address. Raises as `make_channel` does."""
    address = expand_home(address)
    if problem := address_problem(address):
        raise ValueError(problem)
    _refuse_without_descriptors()
    parts = [part.strip() for part in address.split(",") if part.strip()]
    if len(parts) == 1:
        return parts[0]
    found = list(dict.fromkeys(endpoint for part in parts for endpoint in _look_up(part)))
    if not any(endpoint.startswith("[") for endpoint in found):
        return f"ipv4:{','.join(found)}"
    # grpc takes one kind; an IPv4 address has a form among those of IPv6.
    return f"ipv6:{','.join(map(_as_ipv6, found))}"


def _refuse_without_descriptors() -> None:
    """Raise NoChannel if the process can open no more files: grpc would end the process."""
    opened: list[int] = []
    try:
        for _ in range(NEEDED_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise NoChannel(f"no connection can be made: {error.strerror}") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


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
