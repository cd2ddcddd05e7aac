"""The standard streams of the process: one that is missing, cannot be written, or has lost its reader."""

import io
import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from emitd_cli.errors import CannotTell, ExitCode


def prepare_streams() -> None:
    """Make standard output and error safe to write to: without one, and with characters that a terminal lacks."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number, which is this one. Otherwise a socket would get it, and then what others print.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # `print` takes None for standard output, also if it is standard error that is missing.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks becomes an escape instead of an error.
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def writing_to(stream: TextIO) -> Iterator[None]:
    """Discard what the stream does not take, now and later, so that it does not fail again when the interpreter ends.

    Of standard output it raises CannotTell, as on a full disk, or BrokenPipeError, if nobody wants to read it. Without
    standard error the exit code still says how the command went.
    """
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError) and stream is sys.stdout:
            raise
        if stream is sys.stdout:
            raise CannotTell(f"standard output cannot be written: {error.strerror or error}") from error


def end_with_reader() -> None:
    """From now on, end the process with exit code 0 as soon as the pipe at standard output has no reader.

    For commands that wait for what to print next, and write it out at once. They may be blocked anywhere, so a thread
    ends the process.
    """
    try:
        fd = sys.stdout.fileno()
    except OSError:  # it is no file
        return
    poll = select.poll()
    poll.register(fd, 0)  # these two come unasked

    def wait() -> None:
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll()):
            os._exit(ExitCode.GOOD)

    threading.Thread(target=wait, name="emitd-reader", daemon=True).start()
