"""What both clients are tested with: quick settings, an address of nobody, and every way in which a call can fail."""

from collections.abc import Mapping
from typing import Any

import grpc

from support.client.fake_log_service import Answer, accept

NOWHERE = "127.0.0.1:1"
FAILURES = sorted(set(grpc.StatusCode) - {grpc.StatusCode.OK}, key=lambda code: code.name)
#: Those that may pass by themselves.
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
}
#: Those for which records are kept, and questions given up.
KEPT = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
QUICK: Mapping[str, Any] = {"backoff_initial": 0.01, "backoff_max": 0.02, "linger": 0.01}


def routed(**answers: Answer) -> Answer:
    """Answer each kind of request in its own way; records are accepted."""
    routes = {"EmitBatchRequest": accept, **answers}
    return lambda request, context: routes[type(request).__name__](request, context)
