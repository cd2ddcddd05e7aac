"""Whatever way a principal takes to the records, the trail says that it read."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd import v1
from emitd_server.process import make_grpc_server
from emitd_server.service import LoggingService
from emitd_server.settings import AccessSettings, GrantSettings, ListenEntry, Role, ServerSettings
from support.client.in_process import three_handlers

GRANTS = tuple(GrantSettings(to=("olga",), role=role) for role in (Role.AUDITOR, Role.WATCHER))


class Asked:
    """A service with three lines and three events, and what its trail says of the questions of olga."""

    def __init__(self, channel: grpc.aio.Channel, file: Path) -> None:
        self._channel, self._file = channel, file

    async def ask(self, method: str, request: Any) -> Any:
        stub = (v1.LogServiceStub if method == "ListLogs" else v1.AuditServiceStub)(self._channel)
        return await getattr(stub, method)(request, timeout=10)

    def counts(self, method: str) -> list[int]:
        details = [json.loads(line)["details"] for line in self._file.read_text().splitlines()]
        return [each["count"] for each in details if each.get("method", "").endswith(f"/{method}")]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Asked]:
    entry = ListenEntry(address=f"unix:{folder}/s", principal="olga")
    settings = ServerSettings(listen=(entry,), access=AccessSettings(grants=GRANTS))
    async with LoggingService(three_handlers(folder), settings=settings) as service:
        server = make_grpc_server(service)
        (address,) = await server.start()
        async with service.client(source="shop") as client:
            for number in range(3):
                client.info(f"line {number}")
                await client.audit("order.create", user_id="u", source_ip="unknown", details={"n": number})
            await client.flush()
        await asyncio.sleep(1)  # until there is a checkpoint
        async with grpc.aio.insecure_channel(address) as channel:
            yield Asked(channel, folder / "audit.json.log")
        await server.stop()


@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("ListAuditEvents", v1.ListAuditEventsRequest(page_size=1)),
        ("ListLogs", v1.ListLogsRequest(page_size=1)),
    ],
)
async def test_a_later_page_is_read_too(tmp_path: Path, method: str, first: Any) -> None:
    """A token from before, or from another, leads past the first page."""
    async with serving(tmp_path) as asked:
        first.page_token = token = (await asked.ask(method, first)).next_page_token
        await asked.ask(method, first)
    assert token
    assert sum(asked.counts(method)) == 2


async def test_a_line_with_its_proof_is_read(tmp_path: Path) -> None:
    """By its place alone, one could read the whole log."""
    async with serving(tmp_path) as asked:
        assert (await asked.ask("GetInclusionProof", v1.GetInclusionProofRequest(leaf_index=1))).line
    assert asked.counts("GetInclusionProof") == [1]
