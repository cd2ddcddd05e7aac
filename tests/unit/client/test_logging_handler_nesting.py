"""Records that bring about others while they are made, in `EmitdHandler`."""

import gc
import logging
import signal
import threading
from collections.abc import Iterator

import pytest

from emitd.logging import EmitdHandler
from emitd.runtime.threads import Senders
from support.client.sent_lines import SentLines, sent_lines


@pytest.fixture
def sent() -> Iterator[SentLines]:
    with sent_lines() as sent:
        yield sent


@pytest.fixture
def logger(sent: SentLines) -> logging.Logger:
    logger = logging.Logger("shop")
    logger.addHandler(EmitdHandler(sent.client))
    return logger


def test_an_object_whose_repr_logs_the_object_comes_to_an_end(
    sent: SentLines, logger: logging.Logger
) -> None:
    """Twice at each level would be without end; what is left out is counted as `dropped_nested`."""

    class Talkative:
        def __repr__(self) -> str:
            logger.info("first", extra={"me": self})
            logger.info("second", extra={"me": self})
            return "talkative"

    logger.info("outer", extra={"me": Talkative()})
    assert [line.message for line in sent.all()] == [
        "first",
        "second",
        "outer",
    ]
    assert sent.client.stats()["dropped_nested"] == 4


def test_a_message_whose_str_logs_itself_comes_to_an_end(sent: SentLines, logger: logging.Logger) -> None:
    """As for attributes."""

    class Talkative:
        def __str__(self) -> str:
            logger.info(self)
            return "talkative"

    logger.info("%s", Talkative())
    assert [line.message for line in sent.all()] == ["talkative", "talkative"]
    assert sent.client.stats()["dropped_nested"] == 1


def test_a_filter_that_logs_comes_to_an_end(sent: SentLines, logger: logging.Logger) -> None:
    """The filter sees its own record too, and that one's record is counted."""

    def talk(record: logging.LogRecord) -> bool:
        logger.info("filtering %s", record.msg)
        return True

    logger.handlers[0].addFilter(talk)
    logger.info("outer")
    assert [line.message for line in sent.all()] == ["filtering outer", "outer"]
    assert sent.client.stats()["dropped_nested"] == 1


def test_a_thread_counts_its_own_nesting_and_forgets_it(sent: SentLines, logger: logging.Logger) -> None:
    """After an object that fails within a record the next records are made as ever, a hundred times."""

    class Failing:
        def __repr__(self) -> str:
            logger.info("inner")
            raise OSError

    for _ in range(100):
        logger.info("outer", extra={"me": Failing()})
    assert len(sent.all()) == 200
    assert "dropped_nested" not in sent.client.stats()


def test_a_finalizer_may_log(sent: SentLines, logger: logging.Logger) -> None:
    """Also one that runs while a record is made."""

    class Dying:
        def __del__(self) -> None:
            logger.info("gone")

    class Collecting:
        def __repr__(self) -> str:
            dying = Dying()
            dying.me = dying  # type: ignore[attr-defined]
            del dying
            gc.collect()
            return "collecting"

    logger.info("outer", extra={"me": Collecting()})
    assert [line.message for line in sent.all()] == ["gone", "outer"]


def test_a_signal_handler_may_log(sent: SentLines, logger: logging.Logger) -> None:
    """Also in the middle of a record, and in the middle of the queue's lock, which the same thread may take again."""
    engine = sent.client._engine

    def on_signal(number: int, frame: object) -> None:
        logger.info("signal")

    class Signalling:
        def __repr__(self) -> str:
            signal.raise_signal(signal.SIGUSR1)
            return "signalling"

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        logger.info("outer", extra={"me": Signalling()})
        with engine.lines._lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [line.message for line in sent.all()] == ["signal", "outer", "signal"]


def test_what_a_sender_logs_is_left_out(sent: SentLines, logger: logging.Logger) -> None:
    """Else a record about sending would be one more to send, for ever."""
    done = threading.Event()

    def send() -> None:
        logger.error("about sending")
        done.set()

    Senders("test", send, 1).start()
    assert done.wait(30)
    logger.info("from elsewhere")
    assert sent.one().message == "from elsewhere"
