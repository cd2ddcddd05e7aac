"""`emitd demo`: the whole service on one screen in a quarter of a minute, with data of its own.

What it leaves behind is nothing: the service runs in a folder that is removed, and is stopped however the demo
ends. It looks at what it shows, and exits with 1 if anything is not as it should be.
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
from emitd_cli.errors import CannotRun, CommandError, Misuse
from emitd_cli.exit_codes import ExitCode

try:
    from emitd_cli.demo.picture import picture_console, save_picture
    from emitd_cli.demo.play import DemoPlay
    from emitd_cli.demo.screen import DemoConsole, Screen
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "rich":
        raise
    raise CannotRun("there is no module 'rich'; pip install 'emitd[server,cli]' brings it") from error

#: What ends the demo as Ctrl-C does: it has a process to stop and a folder to remove.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: argparse.Namespace) -> int:
    """Play; return 0 if everything was as it should be, else 1."""
    if options.picture is not None:
        return _draw(Path(options.picture), is_fast=options.fast)
    console = DemoConsole()
    is_live = sys.stdout.isatty() and console.is_interactive
    return _play(Screen(console, is_live=is_live, is_fast=options.fast))


def _draw(path: Path, *, is_fast: bool) -> int:
    if not path.parent.is_dir():  # said before the demo has run, not after
        raise Misuse(f"--picture: there is no folder {path.parent}", field="--picture")
    console = picture_console()
    code = _play(Screen(console, is_live=True, is_fast=is_fast))
    console.print()  # a margin
    save_picture(console, path)
    print(f"{path}: written")
    return code


def _play(screen: Screen) -> int:
    begin = time.monotonic()
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
    _say_where_to_go(screen, time.monotonic() - begin)
    return ExitCode.GOOD


def _say_where_to_go(screen: Screen, seconds: float) -> None:
    program = _program()
    screen.blank()
    screen.line(f"All as it should be, after {seconds:.0f} s. Your turn (the last two in a second terminal):")
    screen.command(program, "serve")
    screen.command(program, "emit --job first --type trial --status RUNNING --progress 40")
    screen.command(program, "job watch first")


def _program() -> str:
    """Return what to type for this very `emitd`: its name alone is enough only where the shell finds it."""
    called, found = Path(sys.argv[0]), shutil.which("emitd")
    if called.name != "emitd":
        return "python -m emitd_cli"
    return "emitd" if found is not None and called.samefile(found) else str(called)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let each signal that ends the process raise KeyboardInterrupt, once; what it starts is not disturbed."""
    # What is ignored already, as in the background or under nohup, stays so.
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
