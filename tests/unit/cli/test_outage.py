"""`Outage`: one outage of a server as several streams notice it."""

import time

import grpc
import pytest

from emitd_cli.connection import Outage
from emitd_cli.errors import CannotTell

SAID = "cannot reach a:1; is the service running there? (--address, or EMITD_ADDRESS); trying again for 60 s"


class Unavailable(grpc.RpcError):
    """A connection that broke."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return ""

    def trailing_metadata(self) -> tuple[()]:
        return ()


class Streams:
    """What several streams say of the outage that they share."""

    def __init__(self) -> None:
        self.outage = Outage("a:1", retry_seconds=60.0, is_patient=False)

    def breaks(self, opened_at: float) -> str:
        return self.outage.pause_after(Unavailable(), opened_at)[1]


def test_a_message_that_was_under_way_is_no_return() -> None:
    """One stream has broken, another still brings what was sent before: the outage goes on, and is reported once."""
    before = time.monotonic()
    streams = Streams()
    streams.outage.answered(before)
    assert streams.breaks(before) == SAID
    assert not streams.outage.answered(before)
    assert streams.breaks(before) == ""


def test_who_notices_late_tells_nothing_new() -> None:
    """A stream may break after another is back already; when that one breaks too, it is another outage."""
    before = time.monotonic()
    streams = Streams()
    streams.outage.answered(before)
    assert streams.breaks(before) == SAID
    again = time.monotonic()
    assert streams.outage.answered(again)
    assert not streams.outage.answered(again)
    assert streams.breaks(before) == ""
    assert streams.breaks(again) == SAID


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    """It is probably a wrong address."""
    with pytest.raises(CannotTell):
        Streams().breaks(time.monotonic())
