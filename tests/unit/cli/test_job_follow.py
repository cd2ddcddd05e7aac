"""`Patience` and `JobStreams`: one outage of a server as several streams notice it, and the end of them all."""

import time
from unittest.mock import Mock

import grpc
import pytest

from emitd_cli.errors import CannotTell
from emitd_cli.jobs.follow import Patience
from emitd_cli.jobs.streams import JobStreams, Note, StreamsClosed

TOLD = [
    Note(
        "cannot reach a:1; is the service running there? (--address, or EMITD_ADDRESS); trying again for 60 s"
    )
]


class Unavailable(grpc.RpcError):
    """A connection that broke."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def trailing_metadata(self) -> tuple[()]:
        return ()


class Outage:
    """The notes that the patience of some streams puts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(JobStreams, "pause", lambda *_: None)
        self._streams = JobStreams()
        self.patience = Patience(self._streams, "a:1", retry_seconds=60.0, is_patient=False)

    def notes(self) -> list[object]:
        notes = []
        while (note := self._streams.take(0)) is not None:
            notes.append(note)
        return notes

    def breaks(self, opened_at: float) -> list[object]:
        self.patience.wait(Unavailable(), opened_at)
        return self.notes()


def test_a_message_that_was_under_way_is_no_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream has broken, another still brings what was sent before: the outage is not over, and is told once."""
    before = time.monotonic()
    outage = Outage(monkeypatch)
    outage.patience.answered(before)
    assert outage.breaks(before) == TOLD
    assert not outage.patience.answered(before)
    assert outage.breaks(before) == []


def test_who_notices_late_tells_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may break after another is back already; when that one breaks too, it is another outage."""
    before = time.monotonic()
    outage = Outage(monkeypatch)
    outage.patience.answered(before)
    assert outage.breaks(before) == TOLD
    again = time.monotonic()
    assert outage.patience.answered(again)
    assert not outage.patience.answered(again)
    assert outage.breaks(before) == []
    assert outage.breaks(again) == TOLD


def test_whoever_waits_notices_that_nobody_takes_anything() -> None:
    """A closed place takes nothing, makes no call and sleeps no longer; it may be closed again."""
    streams = JobStreams()
    streams.close()
    streams.close()
    for use in (
        lambda: streams.put(Note("x")),
        lambda: streams.pause(60),
        lambda: streams.opened(lambda _: pytest.fail("a call was made"), None).__enter__(),
    ):
        with pytest.raises(StreamsClosed):
            use()


def test_closing_cancels_the_streams_that_are_open() -> None:
    """Else their threads would wait for messages for ever."""
    streams = JobStreams()
    first, second = Mock(), Mock()
    with streams.opened(lambda _: first, None):
        pass
    with streams.opened(lambda _: second, None):
        streams.close()
    first.cancel.assert_not_called()
    second.cancel.assert_called_once_with()


def test_closing_waits_for_the_threads() -> None:
    """What they do at their end is done before the connection is closed."""
    streams = JobStreams()
    done: list[str] = []

    def follow() -> None:
        try:
            streams.pause(60)
        finally:
            time.sleep(0.2)
            done.append("ended")

    streams.start("a", follow)
    streams.close()
    assert done == ["ended"]


def test_a_server_that_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is probably a wrong address."""
    outage = Outage(monkeypatch)
    with pytest.raises(CannotTell):
        outage.breaks(time.monotonic())
    assert outage.notes() == []
