"""`Engine`: how it ends, by `close` and at the end of the program, and what comes even later."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from emitd import ClientNotOpen, Unavailable
from emitd.runtime import process_hooks
from emitd.runtime.threads import Senders
from emitd.sending.engine import Engine
from emitd.transport.reply import Reply
from emitd.v1 import LogRecord
from support.exit.engines import MakeEngine, accept, engines, fail, queue, refuse_to_start, write
from support.processes.own_threads import alive, own_threads


@pytest.fixture
def make() -> Iterator[MakeEngine]:
    with engines() as make:
        yield make


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], None]:
    """Bring an engine to the end of the program."""

    def end(engine: Engine) -> None:
        monkeypatch.setattr(process_hooks, "_ending_since", time.monotonic())
        engine.hurry_at_exit()
        engine.finish_at_exit()

    return end


def test_close_sends_what_there_is(make: MakeEngine) -> None:
    """No line waits for its batch to fill any more; all threads have ended then."""
    engine, transport = make()
    with own_threads() as threads:
        write(engine, "a", "b")
        engine.close()
    assert transport.messages == ["a", "b"]
    assert threads
    assert alive(threads) == []


def test_close_ends_in_time_and_counts_what_is_left(
    make: MakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be sent within `close_timeout` is dropped, counted by cause, and told in one line."""
    engine, _ = make(fail)
    write(engine, "a", "b", "c")
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 5.0
    assert engine.stats()["dropped_at_close"] == 3
    assert capsys.readouterr().err == "emitd: test: dropped 3 records: at_close (last: nobody is there)\n"


def test_a_call_that_hangs_is_interrupted(make: MakeEngine) -> None:
    """It has until `close_timeout`; its lines are dropped, and nothing of the client goes on."""

    def hang(records: Sequence[LogRecord]) -> Reply:
        transport.interrupted.wait(10)
        return fail(records)

    engine, transport = make(hang, linger=0.0)
    with own_threads() as threads:
        write(engine, "a")
        time.sleep(0.1)
        began = time.monotonic()
        engine.close()
        assert 0.25 < time.monotonic() - began < 5.0
    assert engine.stats()["dropped_at_close"] == 1
    assert threads
    assert alive(threads) == []


def test_close_spools_what_is_left(make: MakeEngine, tmp_path: Path) -> None:
    """Where lines are spooled none is dropped; where only events are, word of the drop is left in the spool."""
    for records, fate in (("all", "spooled"), ("audit", "dropped_at_close")):
        engine, _ = make(fail, spool=str(tmp_path / records), spool_records=records)
        write(engine, "a", "b")
        engine.close()
        assert engine.stats()[fate] == 2
        assert len(list((tmp_path / records).glob("*.db"))) == 1


def test_closing_again_changes_nothing(make: MakeEngine) -> None:
    """It waits for whoever closes already, in another thread; and does not hold up one in the same thread."""

    def close_once_more(records: Sequence[LogRecord]) -> Reply:
        engine.close(30.0)  # as a signal handler may
        others.append(threading.Thread(target=lambda: (engine.close(), ended.append(engine.stats()["sent"]))))
        others[-1].start()
        time.sleep(0.1)
        return accept(records)

    others: list[threading.Thread] = []
    ended: list[int] = []
    engine, transport = make(close_once_more)
    queue(engine, "a")
    began = time.monotonic()
    engine.close(20.0)
    assert time.monotonic() - began < 10.0
    assert transport.messages == ["a"]
    for thread in others:
        thread.join(10)
    assert ended == [1]


def test_a_closed_client_counts_lines_and_refuses_the_rest(
    make: MakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines are `dropped_closed`, told once at once and the rest at the end of the program; an event is refused."""
    engine, transport = make()
    engine.close()
    write(engine, "a", "b", "c")
    with pytest.raises(ClientNotOpen):
        engine.submit(LogRecord())
    assert engine.stats()["dropped_closed"] == 3
    assert engine in process_hooks._clients.values()
    engine.finish_at_exit()
    assert capsys.readouterr().err.splitlines() == [
        "emitd: test: dropped 1 record: closed",
        "emitd: test: dropped 2 records: closed",
    ]
    assert transport.messages == []


def test_what_is_open_is_ended_first(make: MakeEngine, ending: Callable[[Engine], None]) -> None:
    """A loop that is a job is ended while the client can still send that, by `close` and by the program's end."""

    class Track:
        def __init__(self, engine: Engine) -> None:
            self._engine = engine
            engine.tracks.add(self)

        def close(self) -> None:
            write(self._engine, "the end of the job")

    for end in (Engine.close, ending):
        engine, transport = make()
        track = Track(engine)
        end(engine)
        assert transport.messages == ["the end of the job"]
        del track


def test_a_thread_that_waits_for_a_receipt_may_close(make: MakeEngine) -> None:
    """A signal handler does so in the thread that it interrupts: it cannot wait for that."""
    engine, _ = make()
    began = time.monotonic()
    with engine.awaiting():
        engine.close(20.0)
    assert time.monotonic() - began < 10.0


def test_the_end_of_the_program_sends_by_no_new_thread(
    make: MakeEngine, ending: Callable[[Engine], None], no_threads: None
) -> None:
    """Where no sender runs, the ending thread sends what there is."""
    engine, transport = make()
    queue(engine, "a")
    ending(engine)
    assert transport.messages == ["a"]
    assert transport.threads == {threading.current_thread().name}


def test_after_the_end_a_line_is_sent_by_its_caller(
    make: MakeEngine, ending: Callable[[Engine], None]
) -> None:
    """It is there when the call returns, also for a client that was not used before."""
    engine, transport = make(close_timeout=0.0)
    ending(engine)
    assert transport.is_prepared
    write(engine, "late")
    assert transport.messages == ["late"]
    assert not transport.interrupted.is_set()


def test_a_late_line_relies_on_no_sender(
    make: MakeEngine, ending: Callable[[Engine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is there may have looked into the queue for the last time."""
    engine, transport = make()
    ending(engine)
    monkeypatch.setattr(Senders, "start", lambda _: True)
    for senders in (engine._line_senders, engine._event_senders):
        senders.threads.append(threading.current_thread())
    write(engine, "late")
    assert engine.send_alone(engine.submit(LogRecord(record_id="r1", message="event")), 1.0)
    assert transport.messages == ["late", "event"]


def test_lines_that_late_callers_have_no_time_for_are_dropped(
    make: MakeEngine, ending: Callable[[Engine], None]
) -> None:
    """None is left in the queue, where nobody would find it."""

    def hang(records: Sequence[LogRecord]) -> Reply:
        time.sleep(0.4)
        return fail(records)

    engine, _ = make(hang, batch_records=1)
    ending(engine)
    for message in "abc":
        queue(engine, message)
    write(engine, "d")
    assert (engine.stats()["dropped_at_close"], engine.stats()["queued"]) == (4, 0)


def test_a_client_that_is_made_after_the_end_sends_too(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its callers' threads, as one that was there before."""
    monkeypatch.setattr(process_hooks, "_ending_since", time.monotonic())
    engine, transport = make()
    write(engine, "late")
    assert transport.messages == ["late"]


def test_late_lines_wait_for_no_service_for_long(
    make: MakeEngine, ending: Callable[[Engine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them together wait for `close_timeout`, and each that is dropped is told of at once."""
    engine, _ = make(fail)
    ending(engine)
    began = time.monotonic()
    write(engine, *map(str, range(20)))
    assert time.monotonic() - began < 4.0
    assert engine.stats()["dropped_at_close"] == 20
    told = [line for line in capsys.readouterr().err.splitlines() if "dropped 1 record: at_close" in line]
    assert len(told) == 20


def test_late_lines_are_spooled_even_later(
    make: MakeEngine, ending: Callable[[Engine], None], tmp_path: Path
) -> None:
    """The spool is closed by then, and another is made."""
    engine, _ = make(fail, spool=str(tmp_path / "spool"), spool_records="all")
    write(engine, "a")
    ending(engine)
    write(engine, "late")
    assert engine.stats()["spooled"] == 2
    assert len(list((tmp_path / "spool").glob("*.db"))) == 2


def test_all_clients_share_the_time_at_the_end(make: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes when `close_timeout` is over waits no more."""
    engine, _ = make(fail, close_timeout=20.0)
    write(engine, "a")
    monkeypatch.setattr(process_hooks, "_ending_since", time.monotonic() - 60.0)
    began = time.monotonic()
    engine.finish_at_exit()
    assert time.monotonic() - began < 10.0
    assert engine.stats()["dropped_at_close"] == 1


def test_the_end_waits_for_those_who_spool_what_was_not_committed(make: MakeEngine) -> None:
    """A thread that waits for a receipt is told that there is no time left, and gets the time to spool."""
    engine, _ = make(fail)
    spooled = threading.Event()

    def wait() -> None:
        with engine.awaiting():
            entry = engine.submit(LogRecord(record_id="r1"))
            with pytest.raises(Unavailable, match="closed before it was committed"):
                entry.future.result(10.0)
            time.sleep(0.2)
            spooled.set()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    engine.close()
    assert spooled.is_set()
    thread.join(30)


def test_no_call_waits_longer_than_the_client_has(make: MakeEngine) -> None:
    """A timeout is shortened to what is left until the end."""
    engine, _ = make()
    assert engine.shorten(10.0) == 10.0
    engine.close(0)
    assert engine.shorten(10.0) == 0.0


def test_an_interrupt_ends_only_the_waiting(make: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during `close` is raised, and what was not sent is counted all the same."""

    def interrupt(_: Sequence[LogRecord]) -> Reply:
        raise KeyboardInterrupt

    engine, _ = make(interrupt, close_timeout=30.0)
    queue(engine, "a")
    with pytest.raises(KeyboardInterrupt):
        engine.close()
    assert engine.stats()["dropped_at_close"] == 1
    assert engine.flush(10.0)


def test_a_closed_client_is_forgotten_by_the_process(make: MakeEngine) -> None:
    """Otherwise a program that makes many would keep them all."""
    engine, _ = make()
    assert engine in process_hooks._clients.values()
    engine.close()
    assert engine not in process_hooks._clients.values()
