"""What the service writes into the audit trail of itself."""

import asyncio
import json
from collections.abc import Callable

import pytest

from emitd_handlers.outcome import Outcome
from emitd_handlers.principal import Principal
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.scope import ANYONE
from emitd_handlers.settings import Delivery, HandlerSettings
from emitd_handlers.testing import InMemoryHandler
from emitd_server.access import trail as module
from emitd_server.access.trail import AccessTrail, address_of
from emitd_server.dispatch import own_events
from emitd_server.service import LoggingService

SHOP = Principal("shop", "token")
METHOD = "emitd.v1.AuditService/ListAuditEvents"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_events, "RETRY_SECONDS", 0.005)
    monkeypatch.setattr(module, "SUM_SECONDS", 0.05)


def kept_trail() -> InMemoryHandler:
    return InMemoryHandler(HandlerSettings(levels=(Level.AUDIT,), delivery=Delivery.COMMITTED))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def events(kept: InMemoryHandler) -> list[tuple[str, dict[str, object]]]:
    found = []
    for record in kept.records:
        assert (record.source, isinstance(record.payload, AuditEvent)) == ("emitd", True)
        found.append((record.payload.event_name, json.loads(record.payload.details_json)))  # type: ignore[union-attr]
    return found


async def test_the_first_read_is_written_at_once_and_repeats_are_summed() -> None:
    """By principal and method; a sum without repeats is not written."""
    kept = kept_trail()
    async with LoggingService([kept]) as service:
        access = AccessTrail(service.own_events)
        for _ in range(4):
            access.read(SHOP, METHOD)
        access.read(Principal("bank", "token"), METHOD)
        access.read(ANYONE.principal, METHOD)
        await until(lambda: len(kept.records) == 2)
        await until(lambda: len(kept.records) == 3)
        await asyncio.sleep(0.12)
        access.read(SHOP, METHOD)
        await until(lambda: len(kept.records) == 4)
    counts = [(details["principal"], details["count"]) for _, details in events(kept)]
    assert counts == [("shop", 1), ("bank", 1), ("shop", 3), ("shop", 1)]
    assert {name for name, _ in events(kept)} == {"emitd.access.read"}
    assert {details["method"] for _, details in events(kept)} == {METHOD}


async def test_refused_calls_are_summed_by_principal_and_address() -> None:
    """With what they called, and why it was refused; also those of the last minute before the end."""
    kept = kept_trail()
    async with LoggingService([kept]) as service:
        access = AccessTrail(service.own_events)
        for _ in range(3):
            access.refused("shop", "10.0.0.1", "a/B", "PERMISSION_DENIED")
        access.refused("shop", "10.0.0.1", "a/C", "PERMISSION_DENIED", 7)
        access.refused("", "10.0.0.2", "a/B", "UNAUTHENTICATED")
        await until(lambda: len(kept.records) == 2)
        access.refused("", "10.0.0.3", "a/B", "UNAUTHENTICATED")
        access.close()
    assert events(kept) == [
        ("emitd.access.refused", {"principal": "shop", "address": "10.0.0.1",
         "calls": {"a/B PERMISSION_DENIED": 3, "a/C PERMISSION_DENIED": 7}}),
        ("emitd.access.refused", {"principal": "", "address": "10.0.0.2", "calls": {"a/B UNAUTHENTICATED": 1}}),
        ("emitd.access.refused", {"principal": "", "address": "10.0.0.3", "calls": {"a/B UNAUTHENTICATED": 1}}),
    ]  # fmt: skip


async def test_a_flood_from_many_addresses_is_bounded() -> None:
    """Those beyond a thousand are one event together, with their number."""
    kept = kept_trail()
    async with LoggingService([kept]) as service:
        access = AccessTrail(service.own_events)
        for number in range(5000):
            access.refused("", f"address-{number}", "a/B", "UNAUTHENTICATED")
        assert len(access._refused) == module.MAX_KINDS + 1
        access.close()
        await until(lambda: len(kept.records) >= own_events.MAX_WAITING)


async def test_an_event_waits_for_the_trail_and_the_reader_does_not() -> None:
    """What a trail that is away cannot take is tried again."""
    kept = kept_trail()
    kept.fail_next(3)
    async with LoggingService([kept]) as service:
        AccessTrail(service.own_events).cancelled(SHOP, "job", "why")
        await until(lambda: kept.records)
    details = {"principal": "shop", "job_id": "job", "reason": "why"}
    assert events(kept) == [("emitd.job.cancel_requested", details)]


async def test_events_that_are_lost_are_counted_and_reported() -> None:
    """Those beyond the bound, and those that wait at the end."""
    said: list[str] = []

    class Away(InMemoryHandler):
        async def emit_batch(self, records: list[LogRecord]) -> list[Outcome]:  # type: ignore[override]
            raise OSError("away")

    away = Away(HandlerSettings(levels=(Level.AUDIT,), delivery=Delivery.COMMITTED))
    async with LoggingService([away], report=said.append) as service:
        for number in range(own_events.MAX_WAITING + 2):
            service.own_events.add("emitd.x", str(number), {})
        assert service.own_events.lost == 2
    assert service.own_events.lost == own_events.MAX_WAITING + 2
    lines = [line for line in said if "own events" in line]
    assert lines[0] == "the trail lacks 1 of the service's own events: 1000 wait already"
    assert lines[-1].endswith("1000 could not be written before the end")


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:50051", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50051", "::1"),
        ("ipv6:[fe80::1%25eth0]:1", "fe80::1%eth0"),
        ("unix:", "unix"),
        ("unix:/run/x.sock", "unix"),
        ("", ""),
    ],
)
def test_the_address_of_a_peer_has_no_port(peer: str, address: str) -> None:
    """As grpc writes it, with its percent signs."""
    assert address_of(peer) == address
