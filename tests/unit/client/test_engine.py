"""`Engine`: what one client does in one process. Its end is in `test_engine_end`."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from emitd import RecordRejected, Unavailable
from emitd.client import LogClient
from emitd.logging import EmitdHandler
from emitd.receipt import ReceiptState
from emitd.runtime.threads import Senders
from emitd.sending.scheduler import AwaitedRecord
from emitd.transport.reply import Reply
from emitd.v1 import LogRecord
from support.exit.engines import MakeEngine, accept, engines, fail, queue, refuse_to_start, write


@pytest.fixture
def make() -> Iterator[MakeEngine]:
    with engines() as make:
        yield make


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)


def test_nothing_is_started_before_the_first_record(make: MakeEngine) -> None:
    """An engine that is not used has no threads, and ends at once."""
    engine, transport = make()
    assert engine.flush(None)
    engine.close()
    assert transport.threads == set()


def test_flush_returns_when_all_lines_are_delivered(make: MakeEngine) -> None:
    """It waits for no linger, and says that all went well."""
    engine, transport = make()
    write(engine, "a", "b")
    assert engine.flush(10.0)
    assert transport.messages == ["a", "b"]
    assert engine.stats()["sent"] == 2


def test_flush_takes_no_longer_than_it_may(make: MakeEngine) -> None:
    """It says that something is left."""
    engine, _ = make(fail)
    write(engine, "a")
    assert not engine.flush(0.1)


@pytest.mark.usefixtures("no_threads")
def test_where_no_thread_can_be_started_callers_send(make: MakeEngine) -> None:
    """A line and an awaited record are sent in their callers' threads, and the client goes on so."""
    engine, transport = make()
    write(engine, "a")
    entry = engine.submit(LogRecord(record_id="r1", message="b"))
    assert engine.send_alone(entry, 5.0)
    assert entry.future.result(0).record_id == "r1"
    write(engine, "c")
    assert transport.messages == ["a", "b", "c"]
    assert engine.flush(10.0)


@pytest.mark.usefixtures("no_threads")
def test_a_lack_of_threads_is_forgotten_when_there_are_some(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers send for themselves only for so long: neither the queue nor the client's time is closed by that."""
    engine, transport = make(fail)
    write(engine, "a")
    monkeypatch.undo()
    transport.answer = accept
    write(engine, "b")
    assert engine.flush(10.0)
    assert transport.messages[-1] == "b"
    assert any(name.startswith("emitd-lines") for name in transport.threads)
    assert transport.timeouts[-1] == engine.settings.call_timeout


@pytest.mark.usefixtures("no_threads")
def test_who_sends_alone_waits_no_longer_than_its_timeout(make: MakeEngine) -> None:
    """The record's maker gets its thread back then."""
    engine, transport = make(fail, close_timeout=30.0)
    entry = engine.submit(LogRecord(record_id="r1"))
    began = time.monotonic()
    assert engine.send_alone(entry, 0.2)
    assert time.monotonic() - began < 10.0
    assert max(transport.timeouts) <= 0.2
    assert not entry.future.done()


def test_who_is_sent_for_by_another_waits_no_longer(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that send alone share a call of one of them; both go on when it is answered."""

    def share(records: Sequence[LogRecord]) -> Reply:
        time.sleep(0.2)
        return accept(records)

    def send(name: str) -> None:
        entries[name] = engine.submit(LogRecord(record_id=name, message=name))
        both.wait(10.0)
        engine.send_alone(entries[name], 20.0)

    monkeypatch.setattr(Senders, "start", lambda _: False)
    engine, transport = make(share, close_timeout=20.0)
    both, entries = threading.Barrier(2), dict[str, AwaitedRecord]()
    threads = [threading.Thread(target=send, args=(name,)) for name in "ab"]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 10.0
    assert sorted(transport.messages) == ["a", "b"]
    assert {entry.future.result(0).record_id for entry in entries.values()} == {"a", "b"}


def test_a_sender_that_runs_sends_for_all(make: MakeEngine) -> None:
    """Who waits for a record only helps where nobody else sends it."""
    engine, _ = make()
    entry = engine.submit(LogRecord(record_id="r1"))
    assert not engine.send_alone(entry, 5.0)
    assert entry.future.result(5.0).record_id == "r1"


@pytest.mark.usefixtures("no_threads")
def test_what_is_logged_while_a_caller_sends_is_not_sent(make: MakeEngine) -> None:
    """The transport's own log lines would make more to send, without end."""

    def log(records: Sequence[LogRecord]) -> Reply:
        logger.warning("sending")
        return accept(records)

    engine, transport = make(log)
    client = object.__new__(LogClient)
    client.__dict__.update(_engine=engine, _settings=engine.settings, _threshold=10, _bound={})
    logger = logging.getLogger("test_engine")
    handler = EmitdHandler(client)
    logger.addHandler(handler)
    try:
        logger.warning("a")
    finally:
        logger.removeHandler(handler)
    assert transport.messages == ["a"]


def test_a_refused_line_is_told_to_the_service(make: MakeEngine) -> None:
    """The others of its batch arrive, and one more that says what was dropped."""

    def refuse(records: Sequence[LogRecord]) -> Reply:
        bad = [index for index, record in enumerate(records) if record.message == "bad"]
        return Reply(rejected=dict.fromkeys(bad, RecordRejected("it is bad")), server_id=1)

    engine, transport = make(refuse)
    write(engine, "a", "bad", "b")
    engine.flush(10.0)
    engine.close()
    assert transport.messages == ["a", "bad", "b", "the client dropped 1 INFO record: refused"]
    assert (engine.stats()["sent"], engine.stats()["dropped_refused"]) == (3, 1)


def test_a_call_refused_as_a_whole_is_divided(make: MakeEngine) -> None:
    """Until the one at fault is found: it alone is dropped."""

    def refuse(records: Sequence[LogRecord]) -> Reply:
        if any(record.message == "bad" for record in records):
            return Reply(divide=RecordRejected("too large"))
        return Reply(server_id=1)

    engine, _ = make(refuse)
    write(engine, *"abcdefg", "bad")
    engine.flush(10.0)
    engine.close()
    stats = engine.stats()
    assert (stats["sent"], stats["dropped_refused"]) == (7 + 1, 1)  # and the line that tells of it


def test_a_fault_of_our_own_does_not_end_the_sending(
    make: MakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, and the lines are tried again."""

    def fault(_: Sequence[LogRecord]) -> Reply:
        transport.answer = accept
        raise ZeroDivisionError

    engine, transport = make(fault)
    write(engine, "a")
    assert engine.flush(10.0)
    assert engine.stats()["sent"] == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_spooling_raises_why_there_was_no_commit(make: MakeEngine) -> None:
    """Where there is no spool, the failure of the call comes first, and then that of the spool."""
    engine, _ = make()
    with pytest.raises(Unavailable, match=r"nobody answered; .*spool"):
        engine.spool(LogRecord(), Unavailable("nobody answered"))


def test_a_spooled_record_has_a_receipt(make: MakeEngine, tmp_path: Path) -> None:
    """It says where the record is."""
    engine, _ = make(fail, spool=str(tmp_path / "spool"))
    receipt = engine.spool(LogRecord(record_id="r1"), Unavailable("nobody answered"))
    assert (receipt.state, receipt.record_id) == (ReceiptState.SPOOLED, "r1")


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError(), OSError(24, "no")])
def test_what_could_not_be_started_is_started_with_the_next_record(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """No plain call raises, and no queue is left without a sender; also if the lines before it are in a batch."""
    engine, transport = make(fail, close_timeout=0.0, linger=0.01)

    def refuse(_: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        queue(engine, "a")
        engine._start_line_sender()
    queue(engine, "b")
    transport.answer = accept
    write(engine, "c")  # the second in the queue: by itself it would ask for no sender
    give_up_at = time.monotonic() + 30.0
    while transport.messages[-1:] != ["c"] and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert transport.messages[-1] == "c"
    assert any(name.startswith("emitd-lines") for name in transport.threads)


def test_a_batch_with_a_fault_is_counted_and_ends_no_sender(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next lines are sent, and flush returns."""
    engine, transport = make()
    with monkeypatch.context() as patch:
        patch.setattr(engine._delivery, "deliver", lambda lines: 1 // 0)
        write(engine, "a", "b")
        assert engine.flush(10.0)
    write(engine, "c")
    assert engine.flush(10.0)
    assert "c" in transport.messages
    assert engine.stats()["dropped_internal_error"] == 2
