"""The span of OpenTelemetry in which a record is made, where the program uses OpenTelemetry at all."""

import sys

__all__ = ["NO_SPAN", "current_span"]

#: Trace id and span id of a record that is made in no span.
NO_SPAN = (b"", b"")

_modules = sys.modules


def current_span() -> tuple[bytes, bytes]:
    """Return the ids of the current trace (16 bytes) and span (8 bytes); both empty where there is none."""
    trace = _modules.get("opentelemetry.trace")
    if trace is None:
        return NO_SPAN
    try:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return NO_SPAN
        return context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
    except Exception:  # half imported, or another library under this name: a log line must not fail for it
        return NO_SPAN
