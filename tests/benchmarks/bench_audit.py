"""`make bench`: what the proof of the audit trail costs, beside the same trail without it.

Two servers take turns on the same load: one signs its log, one has neither interior hashes nor checkpoints. Then a log
of many lines is made with the real writer, and what must not grow with it is measured: a start, a checkpoint, a proof,
the process's memory. CPU time is the server's, read from the operating system.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median

import grpc

from bench_records import HERE, server
from emitd.v1 import audit_service_pb2 as audit_pb
from emitd.v1 import log_service_pb2 as log_pb
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.write.log import AuditLog
from emitd_handlers.durable.disk import Disk
from emitd_handlers.tlog.merkle import inclusion_proof, leaf_hash
from load import Measurement, audit_record, measure, requests, resident_bytes

CONFIG = """
server: {{listen: "127.0.0.1:0"}}
handler_paths: [{handlers}]
handlers:
  audit: {{type: {type}, levels: [AUDIT], path: {type}/audit.json.log}}
"""
TYPES = {"signed": "json_audit", "unsigned": "unsigned_audit.UnsignedAuditHandler"}
#: Calls of one run, by batch size: a second's worth or two, so that each run has checkpoints in it.
CALLS = {1: 1500, 64: 600, 512: 200}
ROUNDS = 9
#: One group of lines of the large log.
GROUP_LINES = 20_000


def command(name: str, folder: Path) -> list[str]:
    """Write the configuration of a kind of server, and return what runs it."""
    config = folder / f"{name}.yml"
    config.write_text(CONFIG.format(handlers=HERE / "handlers", type=TYPES[name]))
    return [sys.executable, "-m", "emitd_cli", "serve", "--config", config.name]


async def compare(folder: Path, batches: Sequence[int]) -> None:
    """Print what a record costs with and without the tree."""
    numbers = count()
    print(
        f"{'batch':>5} {'server':<9} {'CPU µs/record':>13} {'least':>7} {'× unsigned':>10} {'p50 ms':>7} {'p99 ms':>7}"
    )
    with ExitStack() as stack:
        servers = {name: stack.enter_context(server(command(name, folder), folder)) for name in TYPES}
        for batch in batches:
            runs: dict[str, list[Measurement]] = {name: [] for name in servers}
            for turn in range(ROUNDS + 1):
                for name, (address, pid) in servers.items():
                    result = await measure(
                        address, pid, requests("audit", batch, CALLS[batch], numbers), batch
                    )
                    if turn:  # the first turn warms up
                        runs[name].append(result)
            base = median(run.cpu_us_per_record for run in runs["unsigned"])
            for name, of_server in runs.items():
                costs = [run.cpu_us_per_record for run in of_server]
                print(
                    f"{batch:>5} {name:<9} {median(costs):>13.2f} {min(costs):>7.2f} {median(costs) / base:>10.2f} "
                    f"{median(run.percentile_ms(50) for run in of_server):>7.2f} "
                    f"{median(run.percentile_ms(99) for run in of_server):>7.2f}"
                )
        address, pid = servers["signed"]
        alone = await measure(address, pid, requests("audit", 1, 500, numbers), 1, in_flight=1)
        print(
            f"\na single durable Emit alone: p50 {alone.percentile_ms(50):.2f}, p99 {alone.percentile_ms(99):.2f} ms"
        )
        await cover_delay(address)


async def cover_delay(address: str) -> None:
    """Print how long an event waits for the checkpoint that covers it."""
    delays = []
    async with grpc.aio.insecure_channel(address) as channel:
        emit = channel.unary_unary("/emitd.v1.LogService/Emit")
        get = channel.unary_unary("/emitd.v1.AuditService/GetCheckpoint")
        for number in range(25):
            reply = await emit(log_pb.EmitRequest(record=audit_record(number)).SerializeToString())
            begin = time.perf_counter()
            index = log_pb.EmitResponse.FromString(reply).receipt.audit.leaf_index
            while audit_pb.GetCheckpointResponse.FromString(await get(b"")).tree_size <= index:
                await asyncio.sleep(0.005)
            delays.append(time.perf_counter() - begin)
    print(
        f"from the reply to a checkpoint that covers it: median {median(delays):.2f} s, most {max(delays):.2f} s"
    )


def make_log(path: Path, lines: int) -> AuditLog:
    """Write a log with the real writer, as fast as it will go."""
    log = AuditLog(path, Disk(), lambda line: None)
    log.open()
    for first in range(0, lines, GROUP_LINES):
        group = [make_line(number) for number in range(first, min(lines, first + GROUP_LINES))]
        log.append(b"\n".join([*group, b""]), list(map(leaf_hash, group)))
        log.write_checkpoint()
    return log


def make_line(number: int) -> bytes:
    """A line as a login service's events make it."""
    seconds, millis = divmod(number, 1000)
    at = f"2026-11-23T{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{millis:03}000000Z"
    return (
        f'{{"timestamp":"{at}","event_id":"0197a5c0-7c00-7000-8000-{number:012}","event_name":"user.login.failure",'
        f'"user_id":"user-{number % 997}","source_ip":"10.0.{number % 8}.{number % 250}",'
        f'"details":{{"method":"password","port":{40000 + number % 9999},"invalid":false,"attempt":3}},'
        f'"received_at":"{at}","source":"auth-service","record_id":"0197a5c0-7c00-4000-8000-{number:012}"}}'
    ).encode()


def milliseconds(call: Callable[[int], object], times: int = 20) -> str:
    """How long a call takes: the median and the most."""
    taken = []
    for number in range(times):
        begin = time.perf_counter()
        call(number)
        taken.append((time.perf_counter() - begin) * 1e3)
    return f"median {median(taken):.2f} ms, most {max(taken):.2f} ms"


def large(folder: Path, lines: int) -> None:
    """Print what does not grow with the log: a checkpoint, a proof, a start, memory."""
    path = folder / "json_audit" / "audit.json.log"
    begin = time.perf_counter()
    log = make_log(path, lines)
    print(
        f"\na log of {lines:,} lines, {path.stat().st_size / 1e9:.2f} GB, made in {time.perf_counter() - begin:.0f} s"
    )

    def checkpoint(number: int) -> None:
        line = make_line(lines + number)
        log.append(line + b"\n", [leaf_hash(line)])
        timed_from = time.perf_counter()
        log.write_checkpoint()
        covering.append((time.perf_counter() - timed_from) * 1e3)

    covering: list[float] = []
    for number in range(20):
        checkpoint(number)
    print(f"a checkpoint of it: median {median(covering):.2f} ms, most {max(covering):.2f} ms")
    log.close()

    def prove(number: int) -> None:
        with AuditTrail(path) as trail:
            index = (number * 7919 + 1) * lines // 160_000 % lines
            proof = inclusion_proof(index, lines, trail.read_hash)
            assert len(proof) > 10
            trail.line(index)

    print(f"a proof from it, with its line, files opened anew: {milliseconds(prove)}")
    starts = [start(folder, "signed") for _ in range(3)]
    print(f"a start on it: {median(seconds for seconds, _ in starts):.2f} s")
    small = folder / "small"
    make_log(small / "json_audit" / "audit.json.log", 10_000).close()
    few = [start(small, "signed") for _ in range(3)]
    print(f"a start on 10,000 lines: {median(seconds for seconds, _ in few):.2f} s")
    print(
        f"memory after a start: {starts[0][1] / 1e6:.1f} MB, on 10,000 lines {few[0][1] / 1e6:.1f} MB "
        "(the difference holds the ids of the last 100,000 lines)"
    )
    print(f"a start of Python with emitd's modules alone: {imports():.2f} s")


def start(folder: Path, name: str) -> tuple[float, int]:
    """Start a server; return the seconds until it listens, and its memory."""
    begin = time.perf_counter()
    with server(command(name, folder), folder) as (_, pid):
        return time.perf_counter() - begin, resident_bytes(pid)


def imports() -> float:
    """How long the interpreter takes to load what a server loads."""
    begin = time.perf_counter()
    modules = "emitd_cli.operate.config, emitd_server.rpc.server, emitd_handlers.audit.handler"
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=list(CALLS))
    parser.add_argument("--lines", type=int, default=10_000_000, help="of the large log; 0: none is made")
    parser.add_argument("--folder", type=Path, help="where the files are kept (default: temporary)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        asyncio.run(compare(Path(folder), arguments.batches))
    if arguments.lines:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            large(Path(folder), arguments.lines)


if __name__ == "__main__":
    main()
