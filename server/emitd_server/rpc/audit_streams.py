"""TailAuditEvents: one stream of a log's lines, with heartbeats, to the end of the server."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from emitd.v1 import audit_service_pb2 as pb
from emitd_handlers.audit.source import AuditSource
from emitd_server.convert.audit import batch_to_wire, read_filter
from emitd_server.errors import TooManyWatchers
from emitd_server.rpc.open_streams import OpenStreams

__all__ = ["AuditTails"]


class AuditTails:
    """Serves every tail of the server."""

    def __init__(self, max_tails: int, heartbeat_seconds: float, streams: OpenStreams) -> None:
        self._max_tails = max_tails
        self._heartbeat_seconds = heartbeat_seconds
        self._streams = streams
        self._open = 0

    async def tail(self, source: AuditSource, request: pb.TailAuditEventsRequest) -> AsyncIterator[bytes]:
        """Yield serialised TailAuditEventsResponse messages.

        Raises TooManyWatchers, ServiceStopping, RequestInvalid, and whatever the source raises.
        """
        wanted = read_filter(request)
        if self._open >= self._max_tails:
            raise TooManyWatchers(self._max_tails, "server.audit.max_tails")
        self._open += 1
        try:
            batches = source.tail(
                wanted,
                from_index=request.from_index if request.HasField("from_index") else None,
                idle_seconds=self._heartbeat_seconds,
            )
            waiting = self._streams.waiting()
            log_id = source.log_id
            async with aclosing(batches):
                while True:
                    with waiting:
                        batch = await anext(batches)
                    yield batch_to_wire(log_id, batch).SerializeToString()
        finally:
            self._open -= 1
