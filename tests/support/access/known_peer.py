"""Peers with a valid token, for tests that otherwise speak to a listener which asks nobody."""

from pathlib import Path
from typing import Any

import grpc

from emitd_server.access.tokens import new_token
from support.processes.server_process import ServerProcess

_LISTEN = 'listen: "127.0.0.1:0"'
_GUARDED = """listen: [{address: "127.0.0.1:0", identity: token}]ACCESS: {tokens_file: tokens.yml, grants: [
    {to: ["group:peers"], role: writer}, {to: ["group:peers"], role: operator},
    {to: ["group:peers"], role: auditor}]}"""


class GuardedServer(ServerProcess):
    """A server whose listener asks for a token; each peer may do everything, but is bounded by its name."""

    #: By the name of the peer.
    tokens: dict[str, str]

    @classmethod
    def guarded(cls, config: str, folder: Path, *peers: str) -> "GuardedServer":
        """Start it with a configuration for an open listener, `server: {listen: "127.0.0.1:0" …}`."""
        file = folder / "tokens.yml"
        tokens = {name: new_token(file, name, ("peers",), None)[0] for name in peers or ("peer",)}
        server = cls.start(guarded_config(config), folder)
        server.tokens = tokens
        return server


def guarded_config(config: str) -> str:
    """Return a configuration whose open listener asks for a token instead."""
    assert _LISTEN in config
    is_flow = "{" + _LISTEN in config
    return config.replace(_LISTEN, _GUARDED.replace("ACCESS", ", access" if is_flow else "\n  access"), 1)


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, token: str) -> None:
        self._token = token

    def _call(self, go_on: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token}")]
        return go_on(details._replace(metadata=metadata), request)

    intercept_unary_unary = intercept_unary_stream = _call
    intercept_stream_unary = intercept_stream_stream = _call


def token_of(server: ServerProcess, peer: str = "") -> str:
    """Return the token of a peer, or of the first; empty if the server asks for none."""
    tokens = server.tokens if isinstance(server, GuardedServer) else {"": ""}
    return tokens[peer or next(iter(tokens))]


def connect(server: ServerProcess, peer: str = "", **options: Any) -> grpc.Channel:
    """Return a channel to a server, with the token of a peer if it asks for one."""
    channel = grpc.insecure_channel(server.address, **options)
    token = token_of(server, peer)
    return grpc.intercept_channel(channel, _Bearer(token)) if token else channel
