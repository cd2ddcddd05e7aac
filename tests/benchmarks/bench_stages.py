"""`make bench`, second table: where the time of an audit record goes, stage by stage, without gRPC.

Each stage runs alone, each time over other records; the figure is the median of the CPU time of all threads. The last
row is the whole way through the service in one process.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from emitd.v1 import log_service_pb2
from emitd_handlers.audit.format.line import encode_lines
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.outcome import Committed, Outcome
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.scope import ANYONE
from emitd_handlers.settings import Delivery
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_server.access.trail import AccessTrail
from emitd_server.config.loader import load_config
from emitd_server.convert.records import RecordReader
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.service import LoggingService
from emitd_server.settings import LimitSettings
from load import requests

BATCHES = (64, 512)
ROUNDS = 60
CONFIG = "handlers: {audit: {type: json_audit, path: audit.json.log}}"


class _Nothing(BaseLogHandler):
    """Takes audit events at no cost, so that what is left is the dispatch."""

    default_levels = frozenset({Level.AUDIT})
    default_delivery = Delivery.COMMITTED

    async def emit(self, record: LogRecord) -> None:
        """Never called."""

    async def emit_batch(self, records: "list[LogRecord]") -> "list[Outcome]":
        """Take them all."""
        return [Committed()] * len(records)


def typical(stage: Callable[[Any], object], inputs: Sequence[Any], batch: int) -> float:
    """Microseconds of CPU for each record: the median over the inputs, each of one batch."""
    costs = []
    for each in inputs:
        begin = time.process_time()
        stage(each)
        costs.append(time.process_time() - begin)
    return median(costs) / batch * 1e6


def stages(batch: int, folder: Path) -> dict[str, float]:
    """The stages of a batch of audit events, in order."""
    datas = requests("audit", batch, ROUNDS, count())
    reader = RecordReader(LimitSettings(), time.time_ns)
    wire = [(log_service_pb2.EmitBatchRequest.FromString(data).records, data) for data in datas]
    batches = [reader.read_all(*each)[0] for each in wire]
    lines = [encode_lines(records) or [] for records in batches]
    texts = [b"\n".join(each) for each in lines]
    descriptor = os.open(folder / "stages", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    result = {
        "parse": typical(log_service_pb2.EmitBatchRequest.FromString, datas, batch),
        "validate and convert": typical(lambda each: reader.read_all(*each), wire, batch),
        "encode": typical(encode_lines, batches, batch),
        "hash": typical(lambda each: [leaf_hash(line) for line in each], lines, batch),
        "write": typical(lambda each: os.write(descriptor, each), texts, batch),
        "sync": typical(lambda _: (os.write(descriptor, b"x"), os.fdatasync(descriptor)), texts, batch),
    }
    os.close(descriptor)
    return result


async def dispatch(batch: int) -> float:
    """Dispatch and window alone, to a handler that does nothing."""
    reader = RecordReader(LimitSettings(), time.time_ns)
    costs = []
    async with LoggingService([_Nothing()]) as service:
        for data in requests("audit", batch, ROUNDS, count()):
            request = log_service_pb2.EmitBatchRequest.FromString(data)
            records, _, _ = reader.read_all(request.records, data)
            begin = time.process_time()
            await service.dispatch(records)
            costs.append(time.process_time() - begin)
    return median(costs) / batch * 1e6


async def whole_way(batch: int, folder: Path) -> float:
    """From request bytes to reply bytes, durable."""
    file = folder / "emitd.yml"
    file.write_text(CONFIG)
    costs = []
    async with LoggingService.from_config(load_config(file, environ={})) as service:
        servicer = LogServicer(service, AccessTrail(service.own_events))
        for data in requests("audit", batch, ROUNDS, count()):
            begin = time.process_time()
            await servicer.emit_batch(data, ANYONE)
            costs.append(time.process_time() - begin)
    return median(costs) / batch * 1e6


def main() -> None:
    """Print the table."""
    columns = []
    for batch in BATCHES:
        with tempfile.TemporaryDirectory() as folder:
            column = stages(batch, Path(folder))
            column["dispatch and window"] = asyncio.run(dispatch(batch))
            column["the whole way"] = asyncio.run(whole_way(batch, Path(folder)))
            columns.append(column)
    print("µs of CPU for each audit record, without gRPC, by batch size")
    print(f"{'':<22}" + "".join(f"{batch:>8}{'share':>8}" for batch in BATCHES))
    for stage in columns[0]:
        cells = (
            f"{column[stage]:>8.2f}{column[stage] / column['the whole way']:>8.0%}" for column in columns
        )
        print(f"{stage:<22}" + "".join(cells))


if __name__ == "__main__":
    main()
