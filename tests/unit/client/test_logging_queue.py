"""An `EmitdHandler` behind a QueueHandler, in the thread of its QueueListener."""

import logging
import logging.handlers
import pickle
import queue
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from emitd.context import log_context
from emitd.logging import EmitdHandler, keep_context
from support.client.sent_lines import SentLines, sent_lines


@pytest.fixture
def sent() -> Iterator[SentLines]:
    with sent_lines() as sent:
        yield sent


def record_of(*args: Any) -> logging.LogRecord:
    """Return a record with an exception, a stack and an attribute."""
    try:
        raise KeyError("id")
    except KeyError:
        exc_info = sys.exc_info()
    record = logging.LogRecord("shop", 40, "f.py", 1, "order %s failed", args, exc_info, sinfo="Stack:\n  x")
    record.order = 17
    return record


def send_by_queue(sent: SentLines, *, keeps_context: bool) -> None:
    handler = logging.handlers.QueueHandler(queue.Queue())
    if keeps_context:
        handler.addFilter(keep_context)
    listener = logging.handlers.QueueListener(handler.queue, EmitdHandler(sent.client))
    listener.start()
    with log_context(request_id="r1", name="of the context"):
        handler.handle(record_of(17))
    listener.stop()


def test_keep_context_keeps_all(sent: SentLines) -> None:
    """The message stands without the exception, which is attributes, and the context of the call comes with it."""
    send_by_queue(sent, keeps_context=True)
    attributes = sent.attributes()
    assert sent.one().message == "order 17 failed"
    assert (attributes["request_id"], attributes["name"]) == ("r1", "of the context")
    assert (attributes["logger.name"], attributes["order"]) == ("shop", 17)
    assert (attributes["exception.type"], attributes["exception.message"]) == ("KeyError", "'id'")
    assert 'raise KeyError("id")' in attributes["exception.stacktrace"]
    assert attributes["code.stacktrace"] == "Stack:\n  x"
    assert "emitd_context" not in attributes


def test_without_it_the_exception_is_in_the_message(sent: SentLines) -> None:
    """Only the context is lost."""
    send_by_queue(sent, keeps_context=False)
    assert sent.one().message.startswith("order 17 failed\nTraceback")
    assert 'raise KeyError("id")' in sent.one().message
    assert sent.attributes() == {"logger.name": "shop", "order": 17}


def test_a_record_passes_as_it_was(sent: SentLines) -> None:
    """Other handlers find what they know, it can be pickled for another process, and the first context stays."""
    record = logging.LogRecord("shop", 40, "f.py", 1, "order %s", (17,), None)
    for request_id in ("r1", "r2"):
        with log_context(request_id=request_id):
            assert keep_context(record)
    assert (record.msg, record.args) == ("order %s", (17,))
    EmitdHandler(sent.client).handle(pickle.loads(pickle.dumps(record)))
    assert sent.one().message == "order 17"
    assert sent.attributes() == {"logger.name": "shop", "request_id": "r1"}


def test_arguments_that_do_not_fit_are_left_to_the_queue_handler() -> None:
    """A filter must not raise."""
    record = record_of(1, 2)
    assert keep_context(record)
    assert "emitd_context" not in record.__dict__


def test_the_span_of_the_call_comes_with_it(sent: SentLines, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that of the thread which sends."""
    record = logging.LogRecord("shop", 20, "f.py", 1, "m", (), None)
    monkeypatch.setattr("emitd.logging.current_span", lambda: (b"t" * 16, b"s" * 8))
    assert keep_context(record)
    EmitdHandler(sent.client).handle(record)
    assert (sent.one().trace_id, sent.one().span_id) == (b"t" * 16, b"s" * 8)
