"""`AsyncReader`: the questions of an `AsyncLogClient`, asked again while that can help."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from emitd.errors import EmitError, JobNotFound
from emitd.settings import ClientSettings
from emitd.transport.async_calls import AsyncCalls, AsyncStream
from emitd.transport.reply import is_retryable, request_error

__all__ = ["AsyncReader"]

Response = TypeVar("Response")


class AsyncReader:
    """For any event loop."""

    def __init__(self, settings: ClientSettings, refuse_if_closed: Callable[[], None]) -> None:
        self._settings = settings
        self._refuse_if_closed = refuse_if_closed
        self._calls = AsyncCalls(settings)

    async def ask(
        self,
        method: str,
        request: Any,
        response: type[Response],
        not_found: type[EmitError] = JobNotFound,
    ) -> Response:
        """Ask something, again while that can help. Raises EmitError."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._settings.timeout
        attempts = 0
        while True:
            self._refuse_if_closed()
            left = give_up_at - loop.time()
            try:
                return await self._calls.ask(method, request, response, max(left, 0.001))
            except grpc.RpcError as error:
                self._refuse_if_closed()
                if not is_retryable(error) or left <= 0:
                    raise request_error(error, not_found) from error
            attempts += 1
            await asyncio.sleep(min(self._settings.backoff.pause(attempts), max(give_up_at - loop.time(), 0)))

    def stream(self, method: str, request: Any, response: type[Response]) -> AsyncStream[Response]:
        """Return the messages of a stream. Raises ClientNotOpen; grpc.RpcError from its steps."""
        self._refuse_if_closed()
        return self._calls.stream(method, request, response)

    def close(self) -> None:
        """End all streams. Idempotent; blocks for a moment."""
        self._calls.close()
