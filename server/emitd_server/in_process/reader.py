"""`InProcessReader`: asks a service in the same process, by the methods that answer the same question over gRPC."""

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from emitd.errors import EmitError, JobNotFound, Unavailable
from emitd.transport.reply import is_retryable, request_error
from emitd_handlers.errors import EmitdError
from emitd_server.errors import ServiceStopping
from emitd_server.in_process.ingress import Ingress, call_failure

__all__ = ["InProcessReader"]

Response = TypeVar("Response")


class InProcessReader:
    """Does what `emitd.transport.async_reader.AsyncReader` does, but never tries again: the service is here."""

    def __init__(self, ingress: Ingress, refuse_if_closed: Callable[[], None]) -> None:
        self._ingress = ingress
        self._refuse_if_closed = refuse_if_closed

    async def ask(
        self,
        method: str,
        request: Any,
        response: type[Response],
        not_found: type[EmitError] = JobNotFound,
    ) -> Response:
        """Ask something. Raises EmitError; `not_found` for NOT_FOUND."""
        self._refuse_if_closed()
        try:
            answer = await self._served(method)(request.SerializeToString())
        except EmitdError as error:
            raise request_error(call_failure(error), not_found) from error
        return response.FromString(answer)  # type: ignore[attr-defined, no-any-return]

    def stream(self, method: str, request: Any, response: type[Response]) -> AsyncGenerator[Response, None]:
        """Return the messages of a stream, which counts towards the service's limits.

        Its steps raise Unavailable, and grpc.RpcError for what another try cannot help.
        """
        self._refuse_if_closed()
        return self._messages(method, request, response)

    async def _messages(
        self, method: str, request: Any, response: type[Response]
    ) -> AsyncGenerator[Response, None]:
        try:
            # Closed in any case, so that leaving early frees the watcher at once.
            async with aclosing(self._served(method)(request.SerializeToString())) as messages:
                async for data in messages:
                    message = response.FromString(data)  # type: ignore[attr-defined]
                    if message.heartbeat and not self._ingress.service.is_running:
                        raise ServiceStopping
                    yield message
        except EmitdError as error:
            failure = call_failure(error)
            raise (Unavailable(str(error)) if is_retryable(failure) else failure) from error

    def _served(self, method: str) -> Callable[[bytes], Any]:
        """Return what serves a method: `WatchJob`, or with its service `AuditService/GetCheckpoint`."""
        service, _, name = method.rpartition("/")
        servicer = self._ingress.servicers[service or "LogService"]
        return getattr(servicer, re.sub(r"\B[A-Z]", r"_\g<0>", name).lower())  # type: ignore[no-any-return]
