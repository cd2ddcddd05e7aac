"""A web application for gunicorn, whose client is made when it is loaded: before the workers are forked, or in each.

With FORK_WEB_USES=1 it is used then too, so that a parent has its threads and its connection.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

from emitd.client import LogClient

client = LogClient()
if os.environ["FORK_WEB_USES"] == "1":
    client.audit("web.load", user_id="web", details={"key": f"load{os.getpid()}"})
    client.info("loaded", key=f"load{os.getpid()}")


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Log and audit under the key that is the path; answer with what became of it."""
    key = environ["PATH_INFO"].strip("/")
    client.info("a request", key=key)
    receipt = client.audit("web.request", user_id="web", details={"key": key})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [receipt.state.name.encode()]
