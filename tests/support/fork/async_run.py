"""A program on asyncio that forks in its event loop: `python async.py ADDRESS SPOOL FORKS`. Prints a JSON object.

Its `AsyncLogClient` has watches open and a job running all the while. Children end in turn without using it, using it,
and as workers of an executor.
"""

import asyncio
import faulthandler
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from emitd.async_client import AsyncLogClient
from emitd.client import LogClient
from load import CHILD_SECONDS, use, wait_for

JOB = "fork-async"
WATCHES = 3

ADDRESS, SPOOL, FORKS = sys.argv[1], sys.argv[2], int(sys.argv[3])
#: Beside the asynchronous one; it is used by children only.
plain = LogClient(ADDRESS, source="fork", spool=SPOOL)


def use_plain(key: str) -> None:
    use(plain, key)


async def use_async(client: AsyncLogClient, key: str) -> None:
    """Log, audit and read, in a child's own loop."""
    for line in range(3):
        client.info("a child's", key=f"{key}.{line}")
    await client.audit("fork.child", user_id="child", details={"key": key})
    job = await client.get_job(JOB)
    assert job is not None
    await client.close()


async def watch(client: AsyncLogClient) -> list[int]:
    return [
        news.job.progress async for news in client.watch_job(JOB, wait_for_creation=True, min_interval_ms=1)
    ]


async def main() -> None:
    keys, errors = [], []
    async with AsyncLogClient(ADDRESS, source="fork", spool=SPOOL) as client:
        watches = [asyncio.create_task(watch(client)) for _ in range(WATCHES)]
        async with client.job(JOB, "test", total=FORKS, lease=5) as job:
            for number in range(FORKS):
                key = f"child{number}"
                kind = ("unused", "plain", "async", "executor")[number % 4]
                keys += [key] if kind != "unused" else []
                if kind == "executor":
                    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
                        await asyncio.get_running_loop().run_in_executor(executor, use_plain, key)
                else:
                    process_id = os.fork()
                    if not process_id:
                        child(kind, client, key)
                    status = await asyncio.to_thread(wait_for, process_id, time.monotonic() + CHILD_SECONDS)
                    errors += [f"{kind}: {status}"] if status else []
                client.info("the parent's", key=f"parent{number}")
                job.advance()
        progress = await asyncio.gather(*watches)
    json.dump({"keys": keys, "errors": errors, "progress": progress}, sys.stdout)


def child(kind: str, client: AsyncLogClient, key: str) -> None:
    """Never returns; the loop that it is in is a copy of the parent's."""
    asyncio._set_running_loop(None)
    if kind == "plain":
        use_plain(key)
        plain.close()
    if kind == "async":
        asyncio.run(use_async(client, key))
    os._exit(0)


if __name__ == "__main__":
    faulthandler.enable()
    asyncio.run(main())
