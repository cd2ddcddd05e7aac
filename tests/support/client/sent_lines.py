"""A client whose log lines a test reads as a server gets them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from emitd.client import LogClient
from emitd.v1 import EmitBatchRequest, LogRecord
from emitd_handlers.text.json_object import check_json_object
from support.client.fake_log_service import FakeLogService, accept, fake_log_service


@dataclass
class SentLines:
    """The client, and what came of it."""

    client: LogClient
    service: FakeLogService

    def all(self) -> list[LogRecord]:
        """Return every line so far, in order; not those of the client itself that tell of drops."""
        assert self.client.flush(30)
        return [line for line in records_of(self.service) if '"dropped.cause"' not in line.attributes_json]

    def one(self) -> LogRecord:
        """Return the only line."""
        (record,) = self.all()
        return record

    def attributes(self) -> Mapping[str, Any]:
        """Return the attributes of the only line."""
        return attributes_of(self.one())


@contextmanager
def sent_lines(**settings: Any) -> Iterator[SentLines]:
    """Make a client of a server that takes everything, and gets it in order."""
    given = {"source": "shop", "spool": "off", "linger": 0, "max_in_flight": 1, **settings}
    with (
        fake_log_service(accept) as service,
        LogClient(service.address, **given) as client,
    ):
        yield SentLines(client, service)


def records_of(service: FakeLogService) -> list[LogRecord]:
    """Return every record that a server got."""
    return [
        record
        for request in service.requests
        if isinstance(request, EmitBatchRequest)
        for record in request.records
    ]


def attributes_of(record: LogRecord) -> Mapping[str, Any]:
    """Return attributes as the real server takes them: it refuses what is not strictly JSON."""
    text = check_json_object(record.attributes_json, max_bytes=64 * 1024, max_depth=32)
    attributes: Mapping[str, Any] = json.loads(text)
    return attributes
