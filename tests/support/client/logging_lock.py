"""A program that configures `logging` again and again while it logs: `python logging_lock.py ADDRESS SECONDS`.

Prints what it counted, and ends. Should it hang, it prints where, and ends with code 1.
"""

import faulthandler
import json
import logging
import logging.config
import sys
import threading
import time
from itertools import count

from emitd.logging import EmitdHandler

WATCHDOG_SECONDS = 90.0
WRITERS = 3
#: So often the settings of the handler change, and so its client.
SETTINGS_SECONDS = 0.5
#: On a busy machine they take longer than they should.
MIN_CONFIGURATIONS = 21

address, seconds = sys.argv[1], float(sys.argv[2])
handled = count()
slowest = {"log": 0.0, "configure": 0.0}


def counted(record: logging.LogRecord) -> bool:
    next(handled)
    return True


def configure() -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"counted": {"()": lambda: counted}},
            "handlers": {
                "emitd": {
                    "class": "emitd.logging.EmitdHandler",
                    "address": address,
                    "source": f"configured-{int(time.monotonic() / SETTINGS_SECONDS)}",
                    "filters": ["counted"],
                }
            },
            "root": {"level": "DEBUG", "handlers": ["emitd"]},
        }
    )


def timed(what: str, began: float) -> None:
    slowest[what] = max(slowest[what], time.monotonic() - began)


def write(number: int, is_over: threading.Event) -> None:
    for line in count():
        if is_over.is_set():
            return
        # A new logger each time: its level is not cached, so that the lock of `logging` is needed.
        logger = logging.getLogger(f"writer{number}.{line % 100}" if line % 2 else "kept")
        began = time.monotonic()
        logger.info("line %d of %d", line, number)
        timed("log", began)
        time.sleep(0.002)


def main() -> None:
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
    kept = logging.getLogger("kept")  # no configuration names it, but each closes its handler
    kept.propagate = False
    kept.addHandler(EmitdHandler(address=address, source="kept"))
    kept.handlers[0].addFilter(counted)
    configure()
    is_over = threading.Event()
    writers = [threading.Thread(target=write, args=(number, is_over)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    configurations = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until or configurations < MIN_CONFIGURATIONS:
        began = time.monotonic()
        configure()
        timed("configure", began)
        configurations += 1
    is_over.set()
    for writer in writers:
        writer.join()
    counts = {"handled": next(handled), "configurations": configurations, "threads": _threads(), **slowest}
    time.sleep(float(sys.argv[3]))
    print(json.dumps({**counts, "threads_later": _threads(), "ended": time.time()}), flush=True)


def _threads() -> int:
    return len([thread for thread in threading.enumerate() if thread.name.startswith("emitd")])


main()
