"""What the service says about itself: the same lines as its handlers'."""

from emitd_handlers.diagnostics import Report, report

__all__ = ["Report", "report"]
