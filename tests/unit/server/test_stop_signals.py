"""`StopSignals`: which signals are one, and which force the end."""

import asyncio
import signal
from types import SimpleNamespace

import pytest

from emitd_server import process
from emitd_server.process import StopSignals
from emitd_server.settings import ShutdownSettings
from support.processes.own_calls import with_own

TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT


@pytest.mark.parametrize(
    ("came", "forced"),
    [
        ([(0.0, TERM), (0.9, TERM)], []),
        ([(0.0, TERM), (1.0, TERM)], ["second signal"]),
        ([(0.0, TERM), (0.2, HUP), (0.4, TERM), (0.6, INT)], []),
        ([(0.0, TERM), (0.9, HUP), (1.1, HUP)], ["second signal"]),
        ([(0.0, INT), (0.09, INT)], []),
        ([(0.0, INT), (0.11, INT)], ["second Ctrl-C"]),
        ([(0.0, TERM), (0.5, INT), (0.55, INT)], []),
        ([(0.0, TERM), (0.5, INT), (0.7, INT)], ["second Ctrl-C"]),
    ],
)
async def test_signals_close_together_are_one(
    monkeypatch: pytest.MonkeyPatch, came: list[tuple[float, signal.Signals]], forced: list[str]
) -> None:
    """A later one forces the end: after a second, and Ctrl-C after what one press of it may take."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "signal", with_own(signal, signal=lambda number, handler: None))
    signals = StopSignals(ShutdownSettings())
    whys: list[str] = []
    monkeypatch.setattr(signals, "_force", whys.append)
    monkeypatch.setattr(signals, "limit", lambda: None)
    for seconds, number in came:
        clock.now = 100.0 + seconds
        signals._on_signal(number, None)
    assert whys == forced
    async with asyncio.timeout(10):
        await signals.stop.wait()
