"""Calls as an `Authenticator` sees them."""

from typing import Any


class FakeCall:
    """A call with this metadata and these properties of its peer."""

    def __init__(self, *metadata: tuple[str, object], peer: dict[str, list[bytes]] | None = None) -> None:
        self._metadata = metadata
        self._peer = peer or {}

    def invocation_metadata(self) -> Any:
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._peer


def call(*metadata: tuple[str, object], peer: dict[str, list[bytes]] | None = None) -> Any:
    return FakeCall(*metadata, peer=peer)


def with_token(token: str) -> Any:
    return call(("user-agent", "test"), ("authorization", f"Bearer {token}"))
