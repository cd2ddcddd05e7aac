"""The channel to a server: its address, its options, and the failures of its calls."""

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from emitd.credentials import Credentials, Metadata
from emitd.settings import expand_home, read_addresses
from emitd.transport.reply import RETRY_NOW, UNSENT, is_unanswered
from emitd_handlers.text.address import ip_of

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
    # How often a name is looked up again at most, while there is no connection; grpc's own 30 s are long.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # A proxy of the environment is for the web. It refuses the ports of services, and does not know this machine's.
    ("grpc.enable_http_proxy", 0),
    # A connection on which nothing comes back for this long is dead.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class CallFailed(grpc.RpcError):
    """A call that failed. Unlike grpc's own error it holds nothing of grpc, so that it may be freed during a fork."""

    def __init__(
        self, code: grpc.StatusCode, details: str | None, trailers: Any = (), cause: str = ""
    ) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code, self._details, self._trailers = code, details, trailers
        #: Why there is no connection, if that is known, and stays so until it is put right.
        self.cause = cause

    @classmethod
    def copy_of(
        cls, error: grpc.RpcError, credentials: Credentials, metadata: Metadata | None
    ) -> "CallFailed":
        """Return what an error of grpc says of a call with this metadata; worth another try if there is a new token."""
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAUTHENTICATED and credentials.is_renewed(metadata):
            return CallFailed(code, details, RETRY_NOW)
        cause = credentials.cause(details) if is_unanswered(error) and details.startswith(UNSENT) else ""
        return CallFailed(code, error.details(), error.trailing_metadata(), cause)

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


def make_channel(credentials: Credentials, *options: Option) -> grpc.Channel:
    """Return a channel to an address, in any form that the setting `address` of a client may have.

    Nothing is connected before the first call. Names among several addresses are looked up now, others by grpc. Raises
    ValueError for an address of no such form, and NoChannel if nothing is known of any name.
    """
    target, tls, more = _parts_of(credentials)
    more = [*more, *options]
    return grpc.secure_channel(target, tls, more) if tls else grpc.insecure_channel(target, more)


def make_async_channel(credentials: Credentials) -> grpc.aio.Channel:
    """Return a channel of grpc.aio, as `make_channel` does."""
    target, tls, options = _parts_of(credentials)
    return (
        grpc.aio.secure_channel(target, tls, options) if tls else grpc.aio.insecure_channel(target, options)
    )


def _parts_of(credentials: Credentials) -> tuple[str, grpc.ChannelCredentials | None, Sequence[Option]]:
    target, certificates = target_of(credentials.address), credentials.certificates()
    if certificates is None:
        return target, None, OPTIONS
    tls = grpc.ssl_channel_credentials(certificates.ca, certificates.key, certificates.certificate)
    first, *others = read_addresses(expand_home(credentials.address))
    if not others and not first.path:
        return target, tls, OPTIONS
    # grpc would look for a list of addresses, or for a path, in the server's certificate.
    return target, tls, [*OPTIONS, ("grpc.ssl_target_name_override", first.host or "localhost")]


def target_of(address: str) -> str:
    """Return grpc's target for an address. Raises as `make_channel` does."""
    address = expand_home(address)
    addresses = read_addresses(address)
    _refuse_without_descriptors()
    if len(addresses) == 1:
        return address.strip() if address.strip().startswith("dns:") else str(addresses[0])
    found: dict[tuple[str, int], None] = {}
    unknown = ""
    for host, port, _ in addresses:
        try:
            ip = ip_of(host)
            answers = [] if ip else socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            ips = [ip] if ip else [place[0] for *_, place in answers]
            found |= dict.fromkeys((str(each), port) for each in ips)
        except OSError as error:
            unknown = unknown or f"address: '{host}' is not known: {error}"
    if not found:
        raise NoChannel(unknown)
    if not any(":" in ip for ip, _ in found):
        return f"ipv4:{','.join(f'{ip}:{port}' for ip, port in found)}"
    # grpc takes one kind; an IPv4 address has a form among those of IPv6. It is a URI: a zone's % is escaped.
    six = [(ip if ":" in ip else f"::ffff:{ip}", port) for ip, port in found]
    return f"ipv6:{','.join(f'[{ip}]:{port}' for ip, port in six)}".replace("%", "%25")


def may_have_moved(address: str, failed: grpc.RpcError) -> bool:
    """Return whether a new channel may reach the server that a call did not: its name may have another address now."""
    return is_unanswered(failed) and any(host and not ip_of(host) for host, *_ in read_addresses(address))


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
