"""The account of memory: what is charged, what is refused, and that a service takes what matters for longest."""

import pytest

from emitd_handlers.errors import RetryableError
from emitd_handlers.outcome import Committed, Refused
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord
from emitd_handlers.settings import CommittedSettings, HandlerSettings
from emitd_handlers.testing import InMemoryHandler
from emitd_server.errors import MemoryExhausted
from emitd_server.memory import MemoryAccount, records_bytes
from emitd_server.service import LoggingService

LINE = LogRecord(Level.INFO)
EVENT = LogRecord(Level.AUDIT, payload=AuditEvent("e", "user.login", "u1", "::1", "{}"))


def test_a_charge_is_held_until_it_is_released() -> None:
    """It is given back once."""
    account = MemoryAccount(100)
    with account.charge(90) as charge:
        assert account.held == 90
        with pytest.raises(MemoryExhausted, match=r"holds 90 bytes; server\.limits\.memory_bytes is 100"):
            account.charge(11)
        assert account.held == 90
    charge.release()
    assert account.held == 0


def test_what_does_not_fit_is_refused_unless_nothing_is_held() -> None:
    """Otherwise it could never be taken."""
    account = MemoryAccount(100)
    with account.charge(1000), pytest.raises(MemoryExhausted):
        account.charge(1)
    assert account.charge(100).size == 100


def test_a_record_takes_what_its_texts_take() -> None:
    """One character outside of Latin-1 makes all of them wider."""
    wide = LogRecord(Level.INFO, message="x" * 1000 + "€")
    job = JobStatus("j", "t", JobState.RUNNING, None, "x" * 500, {"k": "v" * 700})
    sizes = records_bytes([LINE, wide, EVENT, LogRecord(Level.JOB_STATUS, payload=job)])
    assert sizes[1] > 2000 + sizes[0] - 100
    assert sizes[0] < sizes[2] < sizes[3]
    assert sizes[3] > sizes[0] + 1200


async def test_log_lines_are_refused_first_and_then_everything() -> None:
    """Above 80 % audit events are still taken; each record has its own verdict, which a retry can help."""
    handler = InMemoryHandler(HandlerSettings(levels=tuple(Level), delivery=CommittedSettings()), name="all")
    async with LoggingService([handler]) as service:
        held = service.memory.add(int(service.memory.limit_bytes * 0.81))
        outcomes = list(await service.dispatch([LINE, EVENT, LINE]))
        assert isinstance(outcomes[1], Committed)
        for outcome in (outcomes[0], outcomes[2]):
            assert isinstance(outcome, Refused)
            assert isinstance(outcome.error, MemoryExhausted)
            assert isinstance(outcome.error, RetryableError)
        with service.memory.add(service.memory.limit_bytes - held.size + 1):
            assert all(isinstance(outcome, Refused) for outcome in await service.dispatch([LINE, EVENT]))
        held.release()
        assert all(isinstance(outcome, Committed) for outcome in await service.dispatch([LINE, EVENT]))
