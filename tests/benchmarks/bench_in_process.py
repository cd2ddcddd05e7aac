"""`python tests/benchmarks/bench_in_process.py [TURNS]`: what the client in the process of the service costs.

Beside it runs what ADR 7 decided against: an `AsyncLogClient` with its threads, whose transport hands the bytes of each
call to the service's event loop. Both use one service, in alternate turns; the figures are medians. The CPU is that of
the whole process, so also what the service does with a record. Compare the CPU: the disk decides the time of an audit
event.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from emitd import AsyncLogClient, AsyncLogger
from emitd.transport.grpc_transport import Transport, batch_request
from emitd.transport.reply import Reply, read_response
from emitd.v1 import log_service_pb2
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.service import LoggingService

TURNS = 7
SECONDS_A_TURN = 0.7
AT_ONCE = (1, 8, 64)
LINES = 10_000
LINES_A_BURST = 500
CONFIG = """
handlers:
  lines: {type: discard, levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL]}
  audit: {type: json_audit, path: audit.json.log}
"""


class LoopTransport(Transport):
    """Calls the servicer in the service's loop instead of a server. It never fails here."""

    def __init__(self, settings: Any, service: LoggingService) -> None:
        super().__init__(settings)
        self._loop = asyncio.get_running_loop()
        self._servicer = LogServicer(service)

    def emit(self, records: Sequence[bytes], timeout: float, *, want_receipts: bool) -> Reply:
        """Wait in this thread for what the loop does."""
        call = self._servicer.emit_batch(batch_request(records, want_receipts=want_receipts))
        answer = asyncio.run_coroutine_threadsafe(call, self._loop).result(timeout)
        return read_response(log_service_pb2.EmitBatchResponse.FromString(answer))


class Costs:
    """What one contestant needed, a value a turn, by the name of the figure."""

    def __init__(self, client: AsyncLogger) -> None:
        self._client = client
        self.values: dict[str, list[float]] = {}

    async def take_turn(self) -> None:
        """Measure each figure once."""
        for at_once in AT_ONCE:
            await self._audits(at_once)
        await self._lines()

    async def _audits(self, at_once: int) -> None:
        events = 0
        began, cpu_began = time.perf_counter(), time.process_time()

        async def send() -> None:
            nonlocal events
            while time.perf_counter() < began + SECONDS_A_TURN:
                await self._client.audit("order.create", user_id="u1", details={"order": 17})
                events += 1

        await asyncio.gather(*(send() for _ in range(at_once)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        self._note(f"audit, {at_once} at once: events a second", events / seconds)
        self._note(f"audit, {at_once} at once: µs of CPU an event", cpu / events * 1e6)

    async def _lines(self) -> None:
        calls = 0.0
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(LINES // LINES_A_BURST):
            burst_began = time.perf_counter()
            for number in range(LINES_A_BURST):
                self._client.info("order taken", order=number)
            calls += time.perf_counter() - burst_began
            await self._client.flush()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        self._note("info: µs a call", calls / LINES * 1e6)
        self._note("info: lines a second, flushed", LINES / seconds)
        self._note("info: µs of CPU a line", cpu / LINES * 1e6)

    def _note(self, figure: str, value: float) -> None:
        self.values.setdefault(figure, []).append(value)


async def main(turns: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "emitd.yml"
        file.write_text(CONFIG)
        async with (
            LoggingService.from_config(file) as service,
            AsyncLogClient(spool="off", linger=0) as threaded,
        ):
            threaded._engine.transport = LoopTransport(threaded.settings, service)
            direct, by_threads = Costs(service.client("shop")), Costs(threaded)
            for _ in range(turns):
                await direct.take_turn()
                await by_threads.take_turn()
    print(f"{'medians of ' + str(turns) + ' turns':<40}{'in process':>12}{'by threads':>12}{'ratio':>8}")
    for figure, values in direct.values.items():
        ours, theirs = median(values), median(by_threads.values[figure])
        print(f"{figure:<40}{ours:>12.1f}{theirs:>12.1f}{theirs / ours:>8.2f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else TURNS))
