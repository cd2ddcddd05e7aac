"""Failures of calls as grpc.RpcError that hold nothing of grpc: so they may be freed anywhere, also during a fork."""

from typing import Any

import grpc

__all__ = ["CallFailed", "NoChannel"]


class CallFailed(grpc.RpcError):
    """What is known of a call that failed, without the call: grpc's own error has it, and frees it with itself."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(str(error))
        self._code, self._details, self._trailers = error.code(), error.details(), error.trailing_metadata()

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str | None:
        """Return the status's text."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Return the trailers."""
        return self._trailers


class NoChannel(grpc.RpcError):
    """A call was not begun, for it had no channel: a name is not known just now, or another thread interrupted it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        # In grpc's own words for a call of which nothing was sent.
        self._details = f"failed to connect to all addresses: {why}"

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE: another try can help."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return why."""
        return self._details

    def trailing_metadata(self) -> Any:
        """Return nothing: nobody answered."""
        return ()
