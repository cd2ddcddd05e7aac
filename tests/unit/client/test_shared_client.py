"""The clients that handlers make for themselves."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from emitd import logging as shared_client
from emitd.logging import EmitdHandler
from support.client.fake_log_service import FakeLogService, accept, fake_log_service
from support.client.sent_lines import records_of, sent_lines
from support.processes.own_threads import alive, own_threads


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_client, "IDLE_SECONDS", 0.05)


@pytest.fixture
def service() -> Iterator[FakeLogService]:
    with fake_log_service(accept) as service:
        yield service


def own(service: FakeLogService, source: str = "shop") -> EmitdHandler:
    return EmitdHandler(address=service.address, source=source, spool="off", linger=0)


def log(handler: EmitdHandler, message: str) -> None:
    handler.handle(logging.makeLogRecord({"msg": message, "levelno": logging.INFO}))


def wait_until_closed(handler: EmitdHandler) -> None:
    deadline = time.monotonic() + 30
    while handler.client.state != "closed":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_handlers_of_the_same_settings_share_a_client(service: FakeLogService) -> None:
    """And others do not."""
    one, same, other = own(service), own(service), own(service, "other")
    assert one.client is same.client
    assert one.client is not other.client
    for handler in (one, same, other):
        handler.close()


def test_a_client_is_closed_in_the_background_after_its_last_handler(service: FakeLogService) -> None:
    """Its lines are sent first, and its threads end."""
    with own_threads() as threads:
        one, same = own(service), own(service)
        log(one, "m")
        one.close()
        time.sleep(0.3)
        assert same.client.state == "open"
        same.close()
        wait_until_closed(one)
    assert [record.message for record in records_of(service)] == ["m"]
    deadline = time.monotonic() + 30
    while names := alive(threads):
        assert time.monotonic() < deadline, names
        time.sleep(0.01)


def test_a_handler_that_comes_in_time_keeps_the_client(
    service: FakeLogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new configuration with the old settings goes on with the same queue and connection."""
    monkeypatch.setattr(shared_client, "IDLE_SECONDS", 2.0)
    old = own(service)
    log(old, "m")
    with own_threads() as threads:
        old.close()
    new = own(service)
    assert new.client is old.client
    (closing,) = threads
    closing.join(30)
    assert alive(threads) == []
    assert new.client.state == "open"
    new.close()
    wait_until_closed(new)


def test_a_closed_handler_that_is_used_goes_on(
    service: FakeLogService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dictConfig` also closes the handlers of loggers that it leaves alone; files are opened anew then."""
    monkeypatch.setattr(shared_client, "IDLE_SECONDS", 2.0)
    handler = own(service)
    log(handler, "before")
    handler.close()
    log(handler, "just after")
    wait_until_closed(handler)
    log(handler, "later")
    assert handler.client.state == "open"
    assert handler.client.flush(30)  # type: ignore[attr-defined]
    assert {record.message for record in records_of(service)} == {"before", "just after", "later"}
    handler.close()
    wait_until_closed(handler)


def test_closing_a_handler_leaves_a_given_client_open() -> None:
    """It is its owner's."""
    with sent_lines() as sent:
        handler = EmitdHandler(sent.client)
        handler.close()
        time.sleep(0.2)
        log(handler, "m")
        assert sent.one().message == "m"


def test_flush_and_close_wait_for_no_lock_of_the_queue(service: FakeLogService) -> None:
    """`dictConfig` holds the lock of `logging` then, which a thread inside the queue may want."""
    handler = own(service)
    log(handler, "m")
    is_in, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with handler.client._engine.lines._lock:
            is_in.set()
            may_go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_in.wait(30)
    done = threading.Thread(target=lambda: (handler.flush(), handler.close()), daemon=True)
    done.start()
    done.join(10)
    was_done = not done.is_alive()
    may_go.set()
    holder.join(30)
    assert was_done
    wait_until_closed(handler)
