"""Peak memory of the real server process while it gets requests that would become large, and lines nobody reads.

Each row is a server of its own: its peak of resident memory before and after, how the calls ended, and how long another
call took at worst meanwhile. `PYTHONPATH` may name the product's folders of another release, to compare with it.
"""

import asyncio
import collections
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

SERVICE = "/emitd.v1.LogService/"
CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit, path: audit.json.log, levels: [AUDIT]}
  jobs: {type: database_job, database: "sqlite:///jobs.db"}
"""
Calls = Callable[[grpc.aio.Channel], Awaitable[collections.Counter[str]]]


def field(tag: int, content: bytes) -> bytes:
    """Return a field with a length, as on the wire."""
    length, parts = len(content), bytearray((tag,))
    while length > 0x7F:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(parts) + bytes((length,)) + content


def labels(count: int) -> bytes:
    """Return map entries with keys of four characters, as fields of a JobStatus."""
    return b"".join(field(0x32, field(0x0A, b"%04x" % number)) for number in range(count))


def batch_of(record: bytes, total: int) -> bytes:
    """Return an EmitBatchRequest of about `total` bytes."""
    one = field(0x0A, record)
    return one * (total // len(one))


MIB = 1 << 20
LINE = field(0x0A, b"\x18\x14" + field(0x22, b"x" * 200_000))
REQUESTS = {
    "EmitBatch, 8 Mi empty records": ("EmitBatch", b"\x0a\x00" * (8 * MIB)),
    "EmitBatch, 2 Mi empty records": ("EmitBatch", b"\x0a\x00" * (2 * MIB)),
    "EmitBatch, 10,000 tiny lines": ("EmitBatch", b"\x0a\x02\x18\x14" * 10_000),
    "EmitBatch, labels in one record": ("EmitBatch", field(0x0A, field(0x5A, labels(0x10000) * 5))),
    "EmitBatch, payloads replaced": ("EmitBatch", batch_of(b"\x52\x00\x5a\x00" * 100, 4 * MIB - 999)),
    "EmitBatch, payloads replaced, 512 KiB": ("EmitBatch", batch_of(b"\x52\x00\x5a\x00" * 100, MIB // 2)),
    "Emit, labels": ("Emit", field(0x0A, field(0x5A, labels(0x10000) * 5))),
    "ListJobs, 8 Mi job_ids": ("ListJobs", b"\x32\x00" * (8 * MIB)),
    "ListJobs, 128 Ki job_ids": ("ListJobs", b"\x32\x00" * (MIB // 8)),
    "ListJobs, statuses in one field": ("ListJobs", field(0x12, b"\x01" * (4 * MIB))),
    "WatchJobs, 8 Mi job_ids": ("WatchJobs", b"\x1a\x00" * (8 * MIB)),
    "GetJob, unknown fields": ("GetJob", b"\xa0\x06\x00" * MIB),
    "GetJob, groups": ("GetJob", b"\x13\x14" * (2 * MIB)),
}


def repeated(method: str, data: bytes, times: int) -> Calls:
    """Make a request many times at once, compressed."""

    async def calls(channel: grpc.aio.Channel) -> collections.Counter[str]:
        kind = channel.unary_stream if method.startswith("Watch") else channel.unary_unary
        call = kind(SERVICE + method)

        async def one() -> str:
            try:
                answer = call(data, compression=grpc.Compression.Gzip, timeout=60)
                await (answer.read() if method.startswith("Watch") else answer)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return "OK"

        return collections.Counter(await asyncio.gather(*[one() for _ in range(times)]))

    return calls


def pumped(total_bytes: int) -> Calls:
    """Send log lines of 200 kB, as fast as they are taken, until they are so many bytes."""

    async def calls(channel: grpc.aio.Channel) -> collections.Counter[str]:
        call = channel.unary_unary(SERVICE + "EmitBatch")
        ends: collections.Counter[str] = collections.Counter()
        request = LINE * 20
        gate = asyncio.Semaphore(32)

        async def one() -> None:
            async with gate:
                try:
                    await call(request, timeout=60)
                    ends["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    ends[error.code().name] += 1

        await asyncio.gather(*[one() for _ in range(total_bytes // len(request))])
        return ends

    return calls


def peak(pid: int) -> int:
    """Return a process's peak of resident memory in MB."""
    match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) // 1000 if match else 0


def ping(address: str, done: threading.Event) -> list[float]:
    """Ask for a job again and again until `done`; return how long each call took."""
    times: list[float] = []
    with grpc.insecure_channel(address) as channel:
        get = channel.unary_unary(SERVICE + "GetJob")
        while not done.is_set():
            begin = time.perf_counter()
            try:
                get(b"\x0a\x01x", timeout=60)
            except grpc.RpcError as error:
                code = error.code()
            times.append(time.perf_counter() - begin)
            if code is grpc.StatusCode.UNAVAILABLE:
                times.append(float("inf"))
                break
            time.sleep(0.005)
    return times


def measure(name: str, calls: Calls) -> None:
    """Run one server and print its row."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "c.yml").write_text(CONFIG)
        reader, writer = os.pipe()  # nobody reads it
        command = [sys.executable, "-m", "emitd_cli", "serve", "--config", "c.yml"]
        server = subprocess.Popen(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            said = ""
            while "listening on" not in said:
                said = server.stderr.readline()
            threading.Thread(target=server.stderr.read, daemon=True).start()
            address = said.split()[-1]
            before = peak(server.pid)
            ends, slowest = asyncio.run(_run(address, calls))
            after = peak(server.pid)
        finally:
            server.kill()
            server.wait()
            os.close(reader)
            os.close(writer)
    print(f"{name:48} {before:5} -> {after:5} MB  {slowest * 1000:7.0f} ms  {dict(ends)}", flush=True)


async def _run(address: str, calls: Calls) -> tuple[collections.Counter[str], float]:
    done = threading.Event()
    pinging = asyncio.create_task(asyncio.to_thread(ping, address, done))
    await asyncio.sleep(0.3)
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            ends = await calls(channel)
        finally:
            done.set()
    return ends, max(await pinging)


def main() -> None:
    """Print all rows, or those whose names contain the first argument."""
    rows: dict[str, Calls] = {}
    for name, (method, data) in REQUESTS.items():
        rows[name] = repeated(method, data, 1)
        rows[f"{name}, 100 at once"] = repeated(method, data, 100)
    for limit in (256, 2560):
        rows[f"a blocked console, {limit} MiB of log lines"] = pumped(limit * MIB)
    wanted = sys.argv[1] if sys.argv[1:] else ""
    print(f"{'':48} peak of memory      another call, at worst")
    for name, calls in rows.items():
        if wanted in name:
            measure(name, calls)


if __name__ == "__main__":
    main()
