"""A program with a client for each case, which ends in one way: `python matrix.py ENDING SPOOL UP DOWN HANGING`.

Cases are servers by spools by ways to log. Nothing is sent before the end, but for audit events. The last line on
standard output says when the end began, after a JSON object of the audit events' fates.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from emitd.async_client import AsyncLogClient
from emitd.client import LogClient
from emitd.errors import Unavailable
from emitd.logging import EmitdHandler

CLOSE_SECONDS = 1.0
LINES = 3
SERVERS = ("up", "down", "hanging")
#: What is spooled.
SPOOLS = ("off", "audit", "all")
APIS = ("client", "handler", "async")
#: How a program ends, and its exit code.
ENDINGS: Mapping[str, int] = {"return": 0, "sys.exit": 7, "exception": 1, "sigterm": 143}


def settings_of(case: str, address: str, spool: str, folder: str) -> dict[str, Any]:
    return {
        "address": address,
        "source": case,
        "spool": "off" if spool == "off" else folder,
        "spool_records": "audit" if spool == "off" else spool,
        "close_timeout": CLOSE_SECONDS,
        "linger": 60.0,
    }


def log_by_client(settings: Mapping[str, Any], keys: list[str]) -> None:
    client = LogClient(**settings)
    for key in keys:
        client.info(key)


def log_by_handler(settings: Mapping[str, Any], keys: list[str]) -> None:
    logger = logging.getLogger(str(settings["source"]))
    logger.propagate = False
    logger.addHandler(EmitdHandler(**settings))
    for key in keys:
        logger.warning(key)


def log_by_async(settings: Mapping[str, Any], keys: list[str]) -> None:
    async def log() -> None:
        client = AsyncLogClient(**settings)
        for key in keys:
            client.info(key)

    asyncio.run(log())


def audit(settings: Mapping[str, Any], key: str) -> str:
    """Return what became of an audit event."""
    seconds = 5.0 if settings["source"].startswith("up") else 0.2
    try:
        return LogClient(**settings).audit(key, user_id="u1", timeout=seconds).state.value
    except Unavailable:
        return "Unavailable"


def log_everything(ending: str, folder: str, addresses: Mapping[str, str]) -> None:
    fates: dict[str, str] = {}
    # Clients end in the order in which they were made: first those that use up the time for all.
    for server, address in reversed(addresses.items()):
        for spool in SPOOLS:
            for api, log in zip(APIS, (log_by_client, log_by_handler, log_by_async), strict=True):
                case = f"{server}-{spool}-{api}"
                settings = settings_of(case, address, spool, folder)
                log(settings, [f"{ending}:{case}:{line}" for line in range(LINES)])
            fates[f"{server}-{spool}"] = audit(settings, f"{ending}.{server}.{spool}")
    print(json.dumps(fates))


def end(ending: str) -> None:
    print(time.time(), flush=True)
    if ending == "sys.exit":
        sys.exit(ENDINGS[ending])
    if ending == "exception":
        raise ValueError("nobody handles this")
    if ending == "sigterm":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()


if __name__ == "__main__":
    way, spool_folder, *servers = sys.argv[1:]
    log_everything(way, spool_folder, dict(zip(SERVERS, servers, strict=True)))
    end(way)
