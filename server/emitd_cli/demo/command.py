"""`emitd demo`: the whole service on one screen in a quarter of a minute, with data of its own.

It leaves nothing behind: the service runs in a temporary folder, and is stopped however the demo ends. The demo checks
what it shows, and exits with 1 if anything is wrong.
"""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import grpc

from emitd_cli.connection import describe
from emitd_cli.demo.play import DemoPlay
from emitd_cli.demo.screen import Screen
from emitd_cli.errors import CommandError, ExitCode

#: Each ends the demo as Ctrl-C does: it has a process to stop and a folder to remove.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: argparse.Namespace) -> int:
    """Play; return 0. Raises CommandError if anything was wrong."""
    screen, begin = Screen(is_fast=options.fast), time.monotonic()
    with _stopped_by_signals(), TemporaryDirectory(prefix="emitd-demo-") as folder:
        play = DemoPlay(screen, Path(folder))
        try:
            play.run()
        except grpc.RpcError as error:
            raise CommandError(
                f"the demo's service did not answer as it should: {describe(error, '')}"
            ) from error
    if play.problems:
        raise CommandError(f"not as it should be: {'; '.join(play.problems)}")
    seconds, program = time.monotonic() - begin, _program()
    screen.line(
        f"\nAll as it should be, after {seconds:.0f} s. Your turn (the last two in a second terminal):"
    )
    screen.command(program, "serve")
    screen.command(program, "emit --job first --type trial --status RUNNING --progress 40")
    screen.command(program, "job watch first")
    return ExitCode.GOOD


def _program() -> str:
    """Return what to type for this `emitd`: its name is enough only if the shell finds it."""
    called, found = Path(sys.argv[0]), shutil.which("emitd")
    if called.name != "emitd":
        return "python -m emitd_cli"
    return "emitd" if found is not None and called.samefile(found) else str(called)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let each signal that ends the process raise KeyboardInterrupt, once, so that cleaning up is not disturbed."""
    # A signal that is ignored already, as in the background or under nohup, stays ignored.
    previous = {s: signal.getsignal(s) for s in _STOP_SIGNALS if signal.getsignal(s) is not signal.SIG_IGN}

    def interrupt(_: int, __: FrameType | None) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
