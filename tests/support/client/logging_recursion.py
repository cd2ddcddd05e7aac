"""A program of which everything logs: `python logging_recursion.py ADDRESS`.

The root logger is at DEBUG; asyncio is in its debug mode; grpc is instrumented as tracing libraries do it, so that each
call logs; standard error goes into `logging`. It works until its standard input ends, then prints what it counted.
"""

import asyncio
import contextlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

import emitd
from emitd.logging import EmitdHandler

QUIET_SECONDS = 2.0


class Counting(logging.Handler):
    """Counts all records that are made, by logger."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.made[record.name] += 1


class IntoLogging:
    """Stands for standard error."""

    def write(self, text: str) -> None:
        if text.strip():
            logging.getLogger("stderr").warning(text.strip())

    def flush(self) -> None:
        pass


class LoggedCalls(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Logs each call of grpc, before and after."""

    def intercept_unary_unary(self, go_on: Callable[..., Any], details: Any, request: Any) -> Any:
        logging.getLogger("grpc.calls").debug("calls %s", details.method)
        call = go_on(details, request)
        logging.getLogger("grpc.calls").debug("called %s: %s", details.method, call.code())
        return call


def instrument() -> None:
    open_channel = grpc.insecure_channel

    def instrumented(*arguments: Any, **more: Any) -> Any:
        return grpc.intercept_channel(open_channel(*arguments, **more), LoggedCalls())

    grpc.insecure_channel = instrumented


async def work(client: emitd.AsyncLogClient) -> int:
    """Log, audit and watch until standard input ends; return how many lines were logged."""

    async def watch() -> None:
        async for _ in client.watch_job("nobody", wait_for_creation=True):
            pass

    watching = asyncio.create_task(watch())
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    lines = 0
    while not ended.done():
        logging.getLogger("program").info("line %d", lines)
        lines += 1
        with contextlib.suppress(emitd.EmitError):
            await client.audit("line.write", user_id="u1", timeout=0.2, require_commit=True)
        await asyncio.sleep(0.02)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return lines


async def main(address: str, counting: Counting, handler: EmitdHandler) -> None:
    async with emitd.AsyncLogClient(address, source="direct", linger=0) as client:
        lines = await work(client)
    await asyncio.to_thread(handler.client.flush, 30)  # type: ignore[attr-defined]
    await asyncio.sleep(0.5)
    made = counting.made.copy()
    await asyncio.sleep(QUIET_SECONDS)
    in_quiet = counting.made - made
    stats = dict(handler.client.stats())
    print(json.dumps({"lines": lines, "made": made, "in_quiet": in_quiet, "stats": stats}))


def log_everything(address: str) -> tuple[Counting, EmitdHandler]:
    counting = Counting()
    handler = EmitdHandler(address=address, source="handler", linger=0, report_interval=0.01)
    logging.basicConfig(level=logging.DEBUG, handlers=[counting, handler])
    sys.stderr = IntoLogging()  # type: ignore[assignment]
    instrument()
    return counting, handler


asyncio.run(main(sys.argv[1], *log_everything(sys.argv[1])), debug=True)
