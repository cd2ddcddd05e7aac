"""The fixtures that emitd brings to pytest; its entry point is in the group `pytest11`."""

from collections.abc import Iterator

import pytest

from emitd.testing import RunningServer, running_server


@pytest.fixture
def emitd_server() -> Iterator[RunningServer]:
    """A real server in this process, on a free port, with what it was sent: see `emitd.testing`."""
    with running_server() as server:
        yield server
