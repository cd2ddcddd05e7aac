"""What `EmitdHandler` makes of a record of Python's `logging`."""

import copy
import logging
import logging.handlers
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emitd.async_client import AsyncLogClient
from emitd.client import LogClient
from emitd.context import log_context
from emitd.logging import EmitdHandler
from emitd.v1 import LEVEL_CRITICAL, LEVEL_DEBUG, LEVEL_ERROR, LEVEL_INFO, LEVEL_WARNING
from support.client.fake_log_service import accept, fake_log_service
from support.client.sent_lines import SentLines, attributes_of, records_of, sent_lines


@pytest.fixture
def sent() -> Iterator[SentLines]:
    with sent_lines() as sent:
        yield sent


@pytest.fixture
def logger(sent: SentLines) -> Iterator[logging.Logger]:
    """A logger of its own, so that no test meets another's handlers."""
    logger = logging.Logger("shop.orders", logging.DEBUG)
    logger.addHandler(EmitdHandler(sent.client))
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_a_record_is_a_line_of_its_message_level_source_and_logger(
    sent: SentLines, logger: logging.Logger
) -> None:
    """The message comes with its arguments filled in, and the logger's name as an attribute."""
    logger.warning("order %d of %s", 17, "u1")
    line = sent.one()
    assert (line.message, line.level, line.source) == ("order 17 of u1", LEVEL_WARNING, "shop")
    assert attributes_of(line) == {"logger.name": "shop.orders"}


def test_a_record_keeps_the_time_it_was_made(sent: SentLines, logger: logging.Logger) -> None:
    """A record that was made earlier, such as one from a queue, has its own time."""
    record = logging.makeLogRecord({"msg": "old", "levelno": logging.INFO, "created": 1_700_000_000.25})
    logger.handle(record)
    assert sent.one().time_unix_nano == 1_700_000_000_250_000_000


@pytest.mark.parametrize("created", [None, -1.0, float("nan"), float("inf"), 1e300, "soon"])
def test_a_record_of_a_senseless_time_is_sent_with_the_time_of_now(
    sent: SentLines, logger: logging.Logger, created: object
) -> None:
    """Only the time is wrong, so only the time is replaced."""
    before = time.time_ns()
    logger.handle(logging.makeLogRecord({"msg": "m", "levelno": logging.INFO, "created": created}))
    assert before <= sent.one().time_unix_nano <= time.time_ns()


@pytest.mark.parametrize(
    ("number", "level", "name"),
    [
        (1, LEVEL_DEBUG, "Level 1"),
        (15, LEVEL_DEBUG, "Level 15"),
        (25, LEVEL_INFO, "NOTICE"),
        (39, LEVEL_WARNING, "Level 39"),
        (99, LEVEL_CRITICAL, "Level 99"),
    ],
)
def test_a_level_that_is_none_of_the_five_becomes_the_next_lower_and_keeps_its_name(
    sent: SentLines,
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    level: int,
    name: str,
) -> None:
    """No level is lost, and none is refused."""
    monkeypatch.setitem(logging._levelToName, 25, "NOTICE")
    logger.setLevel(1)
    logger.log(number, "m")
    line = sent.one()
    assert (line.level, attributes_of(line)["level"]) == (level, name)


class Stranger:
    def __repr__(self) -> str:
        return "a stranger"


class Rude:
    def __repr__(self) -> str:
        raise OSError("no")


def _cycle() -> list[object]:
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            {"order": 17, "paid": True, "rate": 0.5, "note": None},
            {"order": 17, "paid": True, "rate": 0.5, "note": None},
        ),
        ({"cart": {"items": [1, (2, 3)]}}, {"cart": {"items": [1, [2, 3]]}}),
        ({"who": Stranger()}, {"who": "a stranger"}),
        ({"who": Rude()}, {"who": "<Rude whose repr raised OSError>"}),
        ({"huge": 10**40, "odd": float("nan")}, {"huge": 10**40, "odd": "NaN"}),
        ({1: "a", "1": "b"}, {"1": "a", "1_": "b"}),
        ({("a", 1): "x", None: "y"}, {"('a', 1)": "x", "None": "y"}),
        ({"text": "a\udcff", "b\udcff": 1}, {"text": "a\\udcff", "b\\udcff": 1}),
        ({"logger.name": "mine", "level": "mine"}, {"logger.name": "mine", "level": "mine"}),
        ({"exception.type": "mine"}, {"exception.type": "mine"}),
        ({"loop": _cycle()}, {"loop": "[[...]]"}),
    ],
)
def test_extra_of_any_shape_becomes_attributes(
    sent: SentLines, logger: logging.Logger, extra: dict[Any, object], expected: dict[str, object]
) -> None:
    """Whatever stands in `extra` arrives, as JSON where there is one, else as its `repr`; the caller's names win."""
    logger.info("m", extra=extra)
    attributes = sent.attributes()
    assert {name: attributes[name] for name in expected} == expected


def test_what_a_formatter_of_another_handler_left_in_the_record_is_no_attribute(
    sent: SentLines, logger: logging.Logger
) -> None:
    """A handler before this one writes `message`, `asctime` and `exc_text` into the record."""
    first = logging.StreamHandler(open("/dev/null", "w"))  # noqa: SIM115 - closed below
    first.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.handlers.insert(0, first)
    logger.info("m", extra={"order": 17})
    first.stream.close()
    logger.handlers.remove(first)
    assert sent.attributes() == {"logger.name": "shop.orders", "order": 17}


class Early(logging.LogRecord):
    """A record of a factory that sets its own things first."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.tenant = "t1"
        super().__init__(*arguments, **more)


def _early() -> logging.LogRecord:
    return Early("a", logging.INFO, "p", 1, "m", None, None)


def _moved() -> logging.LogRecord:
    record = logging.makeLogRecord({"name": "a", "levelno": logging.INFO, "msg": "m"})
    record.tenant = "t1"
    process = record.process
    del record.process
    record.process = process
    return record


def _removed() -> logging.LogRecord:
    record = logging.makeLogRecord({"name": "a", "levelno": logging.INFO, "msg": "m", "tenant": "t1"})
    del record.process, record.processName
    return record


@pytest.mark.parametrize("make", [_early, _moved, _removed])
def test_extra_is_found_in_records_of_unusual_makers(
    sent: SentLines, logger: logging.Logger, make: Callable[[], logging.LogRecord]
) -> None:
    """Wherever it stands among a record's own attributes, of which some may be missing."""
    logger.handle(make())
    assert sent.attributes() == {"logger.name": "a", "tenant": "t1"}


def _fail() -> None:
    raise KeyError("id")


def _as_true(logger: logging.Logger, error: BaseException) -> None:
    logger.exception("m")


def _as_instance(logger: logging.Logger, error: BaseException) -> None:
    logger.error("m", exc_info=error)


def _as_tuple(logger: logging.Logger, error: BaseException) -> None:
    logger.error("m", exc_info=(type(error), error, error.__traceback__))


def _by_hand(logger: logging.Logger, error: BaseException) -> None:
    logger.handle(logging.makeLogRecord({"msg": "m", "levelno": 40, "exc_info": True}))


@pytest.mark.parametrize("log", [_as_true, _as_instance, _as_tuple, _by_hand])
def test_an_exception_becomes_attributes_by_opentelemetrys_names(
    sent: SentLines, logger: logging.Logger, log: Callable[[logging.Logger, BaseException], None]
) -> None:
    """In each form that `exc_info` has, the record says type, message and stack."""
    try:
        _fail()
    except KeyError as error:
        log(logger, error)
    line = sent.one()
    attributes = attributes_of(line)
    assert line.level == LEVEL_ERROR
    assert (attributes["exception.type"], attributes["exception.message"]) == ("KeyError", "'id'")
    assert "in _fail" in attributes["exception.stacktrace"]


@pytest.mark.parametrize("exc_info", [True, (None, None, None), (), (ValueError,), 1])
def test_exc_info_without_an_exception_adds_nothing(
    sent: SentLines, logger: logging.Logger, exc_info: Any
) -> None:
    """Outside of an `except` there is nothing to tell, and the line is sent all the same."""
    logger.error("m", exc_info=exc_info)
    assert sent.attributes() == {"logger.name": "shop.orders"}


def test_a_stack_that_was_already_text_is_kept(sent: SentLines, logger: logging.Logger) -> None:
    """Records from a socket bring `exc_text` alone."""
    logger.handle(logging.makeLogRecord({"msg": "m", "levelno": 40, "exc_text": "Traceback: far away"}))
    assert sent.attributes()["exception.stacktrace"] == "Traceback: far away"


def test_stack_info_becomes_an_attribute(sent: SentLines, logger: logging.Logger) -> None:
    """`stack_info=True` says where the call stands."""
    logger.info("m", stack_info=True)
    assert "test_stack_info_becomes_an_attribute" in sent.attributes()["code.stacktrace"]


@pytest.mark.parametrize("is_told", [True, False])
def test_arguments_that_do_not_fit_do_not_lose_the_record(
    sent: SentLines,
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_told: bool,
) -> None:
    """The raw message and the arguments are sent, and the mistake is told as `logging.raiseExceptions` says."""
    monkeypatch.setattr(logging, "raiseExceptions", is_told)
    logger.info("order %d", "seventeen", extra={"user": "u1"})
    line = sent.one()
    assert line.message == "order %d"
    assert attributes_of(line) == {"logger.name": "shop.orders", "user": "u1", "args": ["seventeen"]}
    assert ("--- Logging error ---" in capsys.readouterr().err) is is_told


def test_text_that_is_not_utf_8_is_escaped(sent: SentLines, logger: logging.Logger) -> None:
    """Half a surrogate pair, as in names of files, arrives as an escape."""
    logger.info("file %s", "a\udcff.txt")
    assert sent.one().message == "file a\\udcff.txt"


@pytest.mark.parametrize("message", [ValueError("v"), Stranger(), 17, None])
def test_a_message_may_be_any_object(sent: SentLines, logger: logging.Logger, message: object) -> None:
    """`logger.error(exception)` is common."""
    logger.error(message)
    assert sent.one().message == str(message)


def test_attributes_of_context_and_of_a_bound_client_come_with_it(sent: SentLines) -> None:
    """A record's own attributes win over those of the bound client, and these over the context's."""
    logger = logging.Logger("a")
    logger.addHandler(EmitdHandler(sent.client.bind(shop=1, order=1)))
    with log_context(request_id="r1", shop=0):
        logger.info("m", extra={"order": 17})
    assert sent.attributes() == {"request_id": "r1", "shop": 1, "order": 17, "logger.name": "a"}


def test_location_and_thread_are_told_on_request(sent: SentLines) -> None:
    """By OpenTelemetry's names."""
    logger = logging.Logger("a")
    logger.addHandler(EmitdHandler(sent.client, location=True, thread=True))
    logger.info("m")
    attributes = sent.attributes()
    assert attributes["code.file.path"] == __file__
    assert attributes["code.function.name"] == "test_location_and_thread_are_told_on_request"
    assert isinstance(attributes["code.line.number"], int)
    assert attributes["thread.name"] == threading.current_thread().name


def test_a_plain_formatter_is_not_used(sent: SentLines, logger: logging.Logger) -> None:
    """`basicConfig` gives every handler one, which would write level and name into the message."""
    logger.handlers[0].setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    logger.info("m")
    assert sent.one().message == "m"


def test_a_formatter_of_ones_own_makes_the_message(sent: SentLines, logger: logging.Logger) -> None:
    """One that hides secrets, for example; the exception stays in its attributes and out of the text."""

    class Hiding(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return super().format(record).replace("hunter2", "***")

    logger.handlers[0].setFormatter(Hiding())
    try:
        _fail()
    except KeyError:
        logger.exception("password %s", "hunter2")
    line = sent.one()
    assert line.message == "password ***"
    assert attributes_of(line)["exception.type"] == "KeyError"


def test_a_filter_decides(sent: SentLines, logger: logging.Logger) -> None:
    """A record that a handler's filter refuses is not sent; what it adds to one is an attribute."""

    def odd_only(record: logging.LogRecord) -> bool:
        record.was_seen = True
        return record.number % 2 == 1  # type: ignore[attr-defined, no-any-return]

    logger.handlers[0].addFilter(odd_only)
    for number in range(4):
        logger.info("m", extra={"number": number})
    assert [attributes_of(line)["number"] for line in sent.all()] == [1, 3]
    assert attributes_of(sent.all()[0])["was_seen"] is True


@pytest.mark.skipif(sys.version_info < (3, 12), reason="filters may replace a record from Python 3.12 on")
def test_a_filter_may_replace_the_record(sent: SentLines, logger: logging.Logger) -> None:
    """What it returns is what is sent."""

    def replace(record: logging.LogRecord) -> logging.LogRecord:
        other = copy.copy(record)
        other.msg = "other"
        return other

    logger.handlers[0].addFilter(replace)
    logger.info("m")
    assert sent.one().message == "other"


def test_a_record_comes_through_a_queue(sent: SentLines) -> None:
    """QueueHandler and QueueListener may stand in between."""
    records: queue.Queue[Any] = queue.Queue()
    logger = logging.Logger("a")
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, EmitdHandler(sent.client))
    listener.start()
    logger.info("order %d", 17, extra={"user": "u1"})
    listener.stop()
    line = sent.one()
    assert (line.message, attributes_of(line)["user"]) == ("order 17", "u1")


def test_levels_of_the_handler_and_of_the_client_both_hold() -> None:
    """A line has to reach both."""
    with sent_lines(level="WARNING") as sent:
        logger = logging.Logger("a")
        logger.addHandler(EmitdHandler(sent.client, level="ERROR"))
        logger.addHandler(EmitdHandler(sent.client))
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            logger.log(level, "m")
        assert [line.level for line in sent.all()] == [LEVEL_WARNING, LEVEL_ERROR, LEVEL_ERROR]


def test_it_never_blocks_where_the_client_would() -> None:
    """With a full queue and `overflow=block`, a record is dropped and counted instead."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        client = LogClient(
            f"127.0.0.1:{nobody.getsockname()[1]}",
            spool="off",
            overflow="block(60)",
            max_queue_records=2,
            close_timeout=0,
        )
        logger = logging.Logger("a")
        logger.addHandler(EmitdHandler(client))
        began = time.monotonic()
        while client.stats().get("dropped_queue_full", 0) < 10:
            logger.info("m")
            assert time.monotonic() - began < 30
        client.close()


def test_a_thread_that_makes_a_record_slowly_holds_up_no_other(
    sent: SentLines, logger: logging.Logger
) -> None:
    """There is no lock: another thread logs by the same handler meanwhile."""
    is_in, may_go = threading.Event(), threading.Event()

    class Slow:
        def __repr__(self) -> str:
            is_in.set()
            may_go.wait(30)
            return "slow"

    thread = threading.Thread(target=logger.info, args=("slow",), kwargs={"extra": {"who": Slow()}})
    thread.start()
    assert is_in.wait(30)
    assert logger.handlers[0].lock is None
    logger.info("fast")
    assert sent.one().message == "fast"
    may_go.set()
    thread.join(30)
    assert [line.message for line in sent.all()] == ["fast", "slow"]


async def test_the_client_may_be_that_of_asyncio() -> None:
    """It has the same queue."""
    with fake_log_service(accept) as service:
        async with AsyncLogClient(service.address, spool="off") as client:
            logger = logging.Logger("a")
            logger.addHandler(EmitdHandler(client))
            logger.info("m")
        assert [record.message for record in records_of(service)] == ["m"]


def test_what_is_no_client_is_refused() -> None:
    """The error names the argument and its type."""
    with pytest.raises(TypeError, match="client: must be a LogClient or an AsyncLogClient, not str"):
        EmitdHandler("127.0.0.1:50051")  # type: ignore[arg-type]


def test_settings_beside_a_client_are_refused(sent: SentLines) -> None:
    """They would have no effect; the error names the first."""
    with pytest.raises(TypeError, match="linger: is a setting of the client"):
        EmitdHandler(sent.client, linger=1)


def test_a_wrong_setting_is_refused_by_name() -> None:
    """As LogClient does."""
    with pytest.raises(ValueError, match="max_queue_records"):
        EmitdHandler(max_queue_records=0)
