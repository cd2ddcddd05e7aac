"""The ids of OpenTelemetry's current span, with the real SDK."""

import logging
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from emitd.context import NO_SPAN, current_span
from emitd.logging import EmitdHandler
from support.client.sent_lines import SentLines, sent_lines


@pytest.fixture
def sent() -> Iterator[SentLines]:
    with sent_lines() as sent:
        yield sent


def tracer(sampler: Sampler = ALWAYS_ON) -> trace.Tracer:
    return TracerProvider(sampler=sampler, shutdown_on_exit=False).get_tracer("test")


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "not-sampled"])
def test_a_record_within_a_span_carries_its_ids(sent: SentLines, sampler: Sampler) -> None:
    """In the order of their bytes on the wire; also of a span that is not exported, whose parent's may be."""
    with tracer(sampler).start_as_current_span("order") as span:
        sent.client.info("m")
        context = span.get_span_context()
    line = sent.one()
    assert line.trace_id.hex() == trace.format_trace_id(context.trace_id)
    assert line.span_id.hex() == trace.format_span_id(context.span_id)


def test_a_record_outside_of_any_span_has_no_ids(sent: SentLines) -> None:
    """Neither before nor after one."""
    with tracer().start_as_current_span("order"):
        pass
    sent.client.info("m")
    assert (sent.one().trace_id, sent.one().span_id) == (b"", b"")


def test_spans_within_each_other_share_the_trace(sent: SentLines) -> None:
    """And the innermost is the record's."""
    with tracer().start_as_current_span("outer"):
        sent.client.info("outer")
        with tracer().start_as_current_span("inner"):
            sent.client.info("inner")
    outer, inner = sent.all()
    assert outer.trace_id == inner.trace_id
    assert outer.span_id != inner.span_id


def test_a_record_of_logging_carries_them_too(sent: SentLines) -> None:
    """EmitdHandler runs in the thread, and so in the span, of its caller."""
    logger = logging.Logger("a")
    logger.addHandler(EmitdHandler(sent.client))
    with tracer().start_as_current_span("order") as span:
        logger.info("m")
    assert sent.one().span_id == span.get_span_context().span_id.to_bytes(8, "big")


@pytest.mark.parametrize("module", [None, SimpleNamespace(), SimpleNamespace(get_current_span=lambda: 1 / 0)])
def test_a_missing_or_broken_library_costs_no_record(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    """There are then no ids."""
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
    assert current_span() == NO_SPAN
