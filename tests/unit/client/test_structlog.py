"""What `EmitdProcessor` makes of an event of structlog, by the real structlog."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLoggerFactory

from emitd.context import log_context
from emitd.runtime.threads import Senders
from emitd.structlog import EmitdProcessor
from emitd.v1 import LEVEL_CRITICAL, LEVEL_DEBUG, LEVEL_ERROR, LEVEL_INFO, LEVEL_WARNING
from support.client.sent_lines import SentLines, attributes_of, sent_lines


@pytest.fixture
def sent() -> Iterator[SentLines]:
    with sent_lines() as sent:
        yield sent


def make_logger(sent: SentLines, *before: Any, final: bool = True) -> Any:
    return structlog.wrap_logger(
        CapturingLoggerFactory()(),
        processors=[*before, EmitdProcessor(sent.client, final=final)],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )


def test_an_event_is_a_line_of_its_text_level_and_values(sent: SentLines) -> None:
    """What was bound comes with it."""
    make_logger(sent).bind(user="u1").warning("order taken", order=17)
    line = sent.one()
    assert (line.message, line.level, line.source) == ("order taken", LEVEL_WARNING, "shop")
    assert attributes_of(line) == {"user": "u1", "order": 17}


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("debug", LEVEL_DEBUG),
        ("info", LEVEL_INFO),
        ("msg", LEVEL_INFO),
        ("warn", LEVEL_WARNING),
        ("error", LEVEL_ERROR),
        ("exception", LEVEL_ERROR),
        ("fatal", LEVEL_CRITICAL),
        ("critical", LEVEL_CRITICAL),
    ],
)
@pytest.mark.parametrize("before", [(), (structlog.processors.add_log_level,)])
def test_the_methods_name_is_the_level(
    sent: SentLines, method: str, level: int, before: Sequence[Any]
) -> None:
    """With `add_log_level` or without; a level that is one of the five is no attribute."""
    if method == "msg" and before:
        pytest.skip("structlog makes no level of it")
    EmitdProcessor(sent.client)(None, method, _run(before, method, {"event": "m"}))
    assert (sent.one().level, dict(sent.attributes() if sent.one().attributes_json else {})) == (level, {})


def _run(before: Sequence[Any], method: str, event: dict[str, Any]) -> dict[str, Any]:
    for processor in before:
        event = processor(None, method, event)
    return event


@pytest.mark.parametrize(("asked", "level"), [("notice", LEVEL_INFO), (25, LEVEL_INFO), (99, LEVEL_CRITICAL)])
def test_another_level_keeps_its_name(sent: SentLines, asked: object, level: int) -> None:
    """It becomes the next lower of the five; an unknown name is INFO."""
    EmitdProcessor(sent.client)(None, "info", {"event": "m", "level": asked})
    assert (sent.one().level, sent.attributes()) == (level, {"level": asked})


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-11-23T03:39:00.250000Z",
        "2026-11-23T05:39:00.250000+02:00",
        datetime(2026, 11, 23, 3, 39, 0, 250_000, UTC),
        datetime(2026, 11, 23, 3, 39, 0, 250_000, UTC).timestamp(),
    ],
)
def test_a_timestamp_is_the_lines_time(sent: SentLines, timestamp: object) -> None:
    """In each form that TimeStamper has, if it says the zone."""
    EmitdProcessor(sent.client)(None, "info", {"event": "m", "timestamp": timestamp})
    assert sent.one().time_unix_nano == 1_795_405_140_250_000_000
    assert not sent.one().attributes_json


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["America/New_York", "UTC", "Asia/Kolkata"])
def test_no_zone_makes_a_time_wrong(zone: str) -> None:
    """TimeStamper writes UTC or local time, with or without a zone: a stamp without one is no time, and is kept."""
    program = """
import itertools, structlog, time
from support.client.sent_lines import sent_lines
from emitd.structlog import EmitdProcessor
for fmt, utc in itertools.product([None, "iso", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"], [True, False]):
    if fmt is not None or utc:
        with sent_lines() as sent:
            stamp = structlog.processors.TimeStamper(fmt=fmt, utc=utc)
            before = time.time_ns()
            event = stamp(None, "info", {"event": "m"})
            EmitdProcessor(sent.client)(None, "info", dict(event))
            line = sent.one()
            assert before - 1_001_000_000 <= line.time_unix_nano <= time.time_ns(), (fmt, utc)
            is_time = fmt is None or "%z" in fmt or event["timestamp"].endswith("Z")
            assert is_time or event["timestamp"] in line.attributes_json, (fmt, utc)
"""
    path = str(Path(__file__).parents[2])
    environment = {**os.environ, "TZ": zone, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, env=environment)


@pytest.mark.parametrize(
    "timestamp",
    [
        *("2026-11-23T03:39:00.25", "2026-11-23", datetime(2026, 11, 23), "yesterday", ""),
        *(-5, float("nan"), float("inf"), [1], None, 10**400),
    ],
)
def test_a_timestamp_that_cannot_be_read_stays_an_attribute(sent: SentLines, timestamp: object) -> None:
    """The line then has the time of now."""
    before = time.time_ns()
    EmitdProcessor(sent.client)(None, "info", {"event": "m", "timestamp": timestamp})
    assert before <= sent.one().time_unix_nano <= time.time_ns()
    assert "timestamp" in sent.attributes()


def test_what_structlogs_timestamper_makes_is_read(sent: SentLines) -> None:
    """To the microsecond."""
    before = time.time_ns()
    make_logger(sent, structlog.processors.TimeStamper(fmt="iso", utc=True)).info("m")
    assert before - 1000 <= sent.one().time_unix_nano <= time.time_ns()
    assert not sent.one().attributes_json


def test_an_exception_becomes_attributes(sent: SentLines) -> None:
    """By the same names as elsewhere."""
    try:
        raise KeyError("id")
    except KeyError:
        make_logger(sent).exception("m", order=17)
    attributes = sent.attributes()
    assert (attributes["exception.type"], attributes["exception.message"]) == ("KeyError", "'id'")
    assert attributes["order"] == 17
    assert "exc_info" not in attributes


def test_texts_of_earlier_processors_have_the_same_names(sent: SentLines) -> None:
    """Those of `format_exc_info`, `StackInfoRenderer` and `add_logger_name`."""
    logger = make_logger(
        sent, structlog.processors.format_exc_info, structlog.processors.StackInfoRenderer()
    ).bind(logger="shop.orders")
    try:
        raise KeyError("id")
    except KeyError:
        logger.exception("m", stack_info=True)
    attributes = sent.attributes()
    assert "KeyError: 'id'" in attributes["exception.stacktrace"]
    assert "test_texts_of_earlier" in attributes["code.stacktrace"]
    assert attributes["logger.name"] == "shop.orders"


def test_the_chain_may_go_on(sent: SentLines) -> None:
    """The event is handed on as it came."""
    event = {"event": "m", "level": "info", "exc_info": True, "order": 17}
    assert EmitdProcessor(sent.client)(None, "info", event) is event
    assert event == {"event": "m", "level": "info", "exc_info": True, "order": 17}


def test_a_final_one_ends_the_chain(sent: SentLines) -> None:
    """Structlog's own logger gets nothing then."""
    factory = CapturingLoggerFactory()
    for final in (True, False):
        structlog.wrap_logger(factory(), processors=[EmitdProcessor(sent.client, final=final)]).info("m")
    assert len(factory.logger.calls) == 1
    assert len(sent.all()) == 2


def test_values_of_any_shape_and_text_that_is_not_utf_8_arrive(sent: SentLines) -> None:
    """As in `logging`'s `extra`."""
    event: dict[Any, Any] = {"event": "a\udcff", 1: {1, 2}, "who": object, "text": "\udcff"}
    EmitdProcessor(sent.client)(None, "info", event)
    assert sent.one().message == "a\\udcff"
    assert sent.attributes() == {"1": [1, 2], "who": "<class 'object'>", "text": "\\udcff"}


def test_context_and_bound_client_come_with_it(sent: SentLines) -> None:
    """The event's own values win."""
    processor = EmitdProcessor(sent.client.bind(shop=1, order=1))
    with log_context(request_id="r1"):
        processor(None, "info", {"event": "m", "order": 17})
    assert sent.attributes() == {"request_id": "r1", "shop": 1, "order": 17}


def test_lines_below_the_clients_level_are_not_made() -> None:
    """As with direct calls."""
    with sent_lines(level="WARNING") as sent:
        make_logger(sent).info("m")
        make_logger(sent).error("n")
        assert sent.one().message == "n"


def test_a_value_whose_repr_logs_itself_comes_to_an_end(sent: SentLines) -> None:
    """As with `logging`: what is left out is counted."""
    logger = make_logger(sent)

    class Talkative:
        def __repr__(self) -> str:
            logger.info("inner", me=self)
            return "talkative"

    logger.info("outer", me=Talkative())
    assert [line.message for line in sent.all()] == ["inner", "outer"]
    assert sent.client.stats()["dropped_nested"] == 1


def test_what_a_sender_logs_is_left_out(sent: SentLines) -> None:
    """Else sending would make more to send."""
    logger = make_logger(sent)
    sender = Senders("test", lambda: logger.error("about sending"), 1)
    sender.start()
    assert sender.join(time.monotonic() + 30)
    logger.info("from elsewhere")
    assert sent.one().message == "from elsewhere"


def test_records_of_logging_come_through_structlogs_formatter(sent: SentLines) -> None:
    """`ProcessorFormatter` adds private values, which are not sent."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level],
        processors=[EmitdProcessor(sent.client), structlog.processors.JSONRenderer(default=repr)],
    )
    formatter.format(logging.makeLogRecord({"msg": "m", "levelno": 30, "levelname": "WARNING", "name": "a"}))
    line = sent.one()
    assert (line.message, line.level, line.attributes_json) == ("m", LEVEL_WARNING, "")


def test_what_is_no_client_is_refused() -> None:
    """The error names the argument and its type."""
    with pytest.raises(TypeError, match="client: must be a LogClient or an AsyncLogClient, not NoneType"):
        EmitdProcessor(None)  # type: ignore[arg-type]


def test_importing_it_needs_no_structlog() -> None:
    """The base install has none."""
    program = "import sys; sys.modules['structlog'] = None; import emitd.structlog, emitd.logging"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
