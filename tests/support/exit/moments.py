"""A program for each way to log at the end, or to end: `python moments.py MOMENT SPOOL RECORDS ADDRESS`.

SPOOL is a folder or `off`, RECORDS is what is spooled. Lines on standard output say what calls returned or raised; one
that begins with `end` says when the end began.
"""

import asyncio
import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

#: Run after the client's own flush: callbacks run in the reverse order, and the client is imported below.
_very_late: list[Callable[[], object]] = []
atexit.register(lambda: [call() for call in _very_late])

from emitd.async_client import AsyncLogClient  # noqa: E402
from emitd.client import LogClient  # noqa: E402
from emitd.jobs.reporter import JobReporter  # noqa: E402

EXIT_CODE = 7
CLOSE_SECONDS = 1.0

MOMENT, SPOOL, RECORDS, ADDRESS = sys.argv[1:]
SETTINGS = {"address": ADDRESS, "spool": SPOOL, "spool_records": RECORDS, "close_timeout": CLOSE_SECONDS}
client = LogClient(source=MOMENT, linger=60.0, timeout=5.0, **SETTINGS)  # type: ignore[arg-type]
#: What the end of the interpreter takes away.
_globals: list[object] = []


def log(text: str = "line") -> None:
    client.info(f"{MOMENT} {text}")


def audit(timeout: float | None = None) -> None:
    try:
        tell(client.audit(MOMENT.replace("_", "."), user_id="u1", timeout=timeout).state.value)
    except Exception as error:
        tell(f"{type(error).__name__}: {error}")


def tell(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def end_now() -> None:
    tell(f"end {time.time()}")


class LastWill:
    """Does something when it is taken away."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __del__(self) -> None:
        self._call()


def start(call: Callable[[], object], *, daemon: bool) -> None:
    threading.Thread(target=call, daemon=daemon).start()


def log_in_atexit_before() -> None:
    atexit.register(log)


def log_in_atexit_after() -> None:
    _very_late.extend([log, lambda: log("second"), lambda: tell(client.flush(1.0))])


def log_in_del() -> None:
    _globals.append(LastWill(log))


def log_in_threading_atexit() -> None:
    threading._register_atexit(log)  # type: ignore[attr-defined]


def log_in_thread() -> None:
    """The main thread has ended by then, and Python 3.12 starts no thread any more."""

    def work() -> None:
        for line in range(3):
            time.sleep(0.1)
            log(str(line))
        end_now()

    start(work, daemon=False)


def log_in_daemon() -> None:
    def work() -> None:
        for line in range(1_000_000):
            client.info(f"daemon {line}")
            time.sleep(0.001)

    log()
    start(work, daemon=True)
    time.sleep(0.2)


def audit_in_atexit_before() -> None:
    atexit.register(audit)


def audit_in_atexit_after() -> None:
    _very_late.append(audit)


def audit_in_del() -> None:
    _globals.append(LastWill(audit))


def audit_in_thread() -> None:
    def work() -> None:
        time.sleep(0.2)
        audit(timeout=0.5)
        end_now()

    start(work, daemon=False)


def audit_waits_in_thread() -> None:
    def work() -> None:
        audit(timeout=1.0)
        end_now()

    start(work, daemon=False)
    time.sleep(0.2)


def audit_waits_in_daemon() -> None:
    start(audit, daemon=True)
    time.sleep(0.2)


def exit_in_job() -> None:
    with client.job("exit-in-job", "t"):
        end_now()
        sys.exit(EXIT_CODE)


def job_in_generator() -> None:
    """Nobody leaves the block but the end of the interpreter."""

    def steps() -> Iterator[JobReporter]:
        with client.job("job-in-generator", "t") as job:
            yield job

    _globals.append(steps())
    next(_globals[0])  # type: ignore[call-overload]


def exception_in_track() -> None:
    for step in client.track(range(10), job_type="t", job_id="exception-in-track"):
        if step == 3:
            end_now()
            raise ValueError("nobody handles this")


def watch_in_daemon() -> None:
    def watch() -> None:
        for _ in client.watch_job("never", wait_for_creation=True):
            pass

    start(watch, daemon=True)
    time.sleep(0.3)
    log()


def close_twice() -> None:
    log()
    client.close()
    client.close()
    log("closed")
    tell(client.stats()["dropped_closed"])


def close_concurrently() -> None:
    """Each of the threads returns when everything is sent, not only the first."""
    log()
    threads = [
        threading.Thread(target=lambda: (client.close(), tell(client.stats()["sent"]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def close_in_signal_handler() -> None:
    """It comes while the main thread waits in a call of the client."""
    signal.signal(signal.SIGALRM, lambda *_: client.close())
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    log()
    audit()
    time.sleep(0.5)


def close_within_close() -> None:
    """A signal handler closes without time what the main thread is closing: that goes on."""
    signal.signal(signal.SIGALRM, lambda *_: client.close(timeout=0))
    log()
    end_now()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    began = time.monotonic()
    client.close()
    tell(time.monotonic() - began > CLOSE_SECONDS / 2)


def close_in_async() -> None:
    async def work() -> None:
        async with AsyncLogClient(source=MOMENT, linger=60.0, **SETTINGS) as own:  # type: ignore[arg-type]
            own.info(f"{MOMENT} line")
            log("blocking")
            client.close()

    asyncio.run(work())


def async_at_exit() -> None:
    """No executor takes work any more, also where there was one before."""
    asyncio.run(asyncio.to_thread(int))
    own = AsyncLogClient(source=MOMENT, linger=60.0, timeout=2.0, **SETTINGS)  # type: ignore[arg-type]

    async def work() -> None:
        own.info(f"{MOMENT} line")
        tell((await own.audit("async.at.exit", user_id="u1")).state.value)
        tell(await own.flush(1.0))
        await own.close()

    atexit.register(lambda: asyncio.run(work()))


def close_without_time() -> None:
    log()
    began = time.monotonic()
    client.close(timeout=0)
    tell(time.monotonic() - began < CLOSE_SECONDS * 0.8)


def closed_stderr() -> None:
    log()
    sys.stderr.close()


def interrupted_exit() -> None:
    """Ctrl-C while the end waits for a server."""
    log()
    atexit.register(lambda: signal.setitimer(signal.ITIMER_REAL, 0.3))
    signal.signal(signal.SIGALRM, signal.default_int_handler)


def in_children() -> None:
    """Each only logs and returns; the parent has used its client before, with a thread running."""
    log("parent")
    for method in ("fork", "spawn"):
        child = multiprocessing.get_context(method).Process(target=log, args=(method,))
        child.start()
        child.join()
        tell(f"{method} {child.exitcode}")


def server_stops() -> None:
    """A server that has answered before, and hangs from then on; its process's id is in the environment."""
    audit()
    log()
    os.kill(int(os.environ["SERVER_PID"]), signal.SIGSTOP)


def killed_by_default() -> None:
    """Only what was answered survives."""
    audit(timeout=0.3)
    log()
    end_now()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def left_by_os_exit() -> None:
    audit(timeout=0.3)
    log()
    end_now()
    os._exit(EXIT_CODE)


if __name__ == "__main__":
    globals()[MOMENT]()
    end_now()
    sys.exit(EXIT_CODE)
