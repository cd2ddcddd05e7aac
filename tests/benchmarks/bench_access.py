"""`python tests/benchmarks/bench_access.py [ROUNDS]`: what it costs that a caller is known, judged and limited.

First the code that access adds to a call, in one process, each time for another request and record, as CPU of all
threads; next to it the whole way of the same call, from its bytes to its reply, and what grpc adds. Then the price of
TLS: the same load on loopback with and without it.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from bench_records import server
from emitd.v1 import log_service_pb2
from emitd_handlers.scope import ANYONE, Caller
from emitd_server.access.authenticator import Credentials, certificate_identity
from emitd_server.access.grants import Grants, refused_records
from emitd_server.access.limits import CallerLimits
from emitd_server.access.tokens import new_token
from emitd_server.access.trail import AccessTrail, address_of
from emitd_server.config.loader import load_config
from emitd_server.convert.records import RecordReader, _senders
from emitd_server.rpc.log_servicer import LogServicer
from emitd_server.service import LoggingService
from emitd_server.settings import AccessSettings, GrantSettings, LimitSettings, Role
from load import Measurement, cpu_seconds, requests

ROUNDS = 300
BATCHES = (1, 512)
GRANTS = [
    GrantSettings(
        to=("group:writers",), role=Role.WRITER, sources=("auth-*",), event_names=("user.*", "order.*")
    ),
    GrantSettings(to=("shop",), role=Role.WRITER),
]
CONFIG = "handlers: {audit: {type: json_audit, path: audit.json.log}}"
SERVED = """
server:
  listen: [{address: "localhost:0", {TLS} identity: {IDENTITY}}]
  access: {tokens_file: tokens.yml, grants: [{to: [shop, "spiffe://dev/client"], role: writer}]}
handlers: {audit: {type: json_audit, path: audit.json.log}}
"""
#: Turns of the comparison, and calls of each.
TURNS, CALLS = 5, {1: 400, 512: 60}
PEER = "ipv4:10.1.2.3:40000"


class _Call:
    """What an authenticator and a grant ask of a call."""

    def __init__(self, token: str) -> None:
        self._metadata = (("user-agent", "grpc-python"), ("authorization", f"Bearer {token}"))

    def invocation_metadata(self) -> Any:
        return self._metadata


def added(identity: str, batch: int, rounds: int, folder: Path) -> float:
    """Microseconds of a call that are there for access only."""
    token, _ = new_token(folder / "tokens.yml", "shop", ("writers",), None)
    credentials = Credentials(AccessSettings(tokens_file=folder / "tokens.yml"), lambda line: None)
    credentials.start()
    grants, limits = Grants(GRANTS), CallerLimits(LimitSettings(bytes_per_second=1 << 40))
    properties = {"peer_spiffe_id": [b"shop"], "transport_security_type": [b"ssl"]}
    method = f"emitd.v1.LogService/{'Emit' if batch == 1 else 'EmitBatch'}"
    reader = RecordReader(LimitSettings(), time.time_ns)
    costs = []
    for data in requests("audit", batch, rounds, count()):
        message = log_service_pb2.EmitBatchRequest.FromString(data) if batch > 1 else None
        wire = message.records if message else [log_service_pb2.EmitRequest.FromString(data).record]
        records, _, _ = reader.read_all(wire, data)
        names, call = [""] * batch, _Call(token)
        begin = time.process_time_ns()
        found = credentials.by_token(call) if identity == "token" else certificate_identity(properties, None)
        caller = Caller(found, grants.scope(found, method), address_of(PEER))
        allowance = limits.of(caller.principal)
        allowance.refuse_if_spent()
        allowance.spend(len(data))
        with allowance.holding(len(data)):
            assert len(_senders({}, names, caller)) == batch
            assert not refused_records(records, caller)
        costs.append(time.process_time_ns() - begin)
    return median(costs) / 1e3


async def whole(batch: int, rounds: int, folder: Path) -> float:
    """Microseconds from request bytes to reply bytes, durable, without grpc and without access."""
    (folder / "emitd.yml").write_text(CONFIG)
    costs = []
    async with LoggingService.from_config(load_config(folder / "emitd.yml", environ={})) as service:
        servicer = LogServicer(service, AccessTrail(service.own_events))
        emit = servicer.emit if batch == 1 else servicer.emit_batch
        for data in requests("audit", batch, rounds, count()):
            begin = time.process_time_ns()
            await emit(data, ANYONE)
            costs.append(time.process_time_ns() - begin)
    return median(costs) / 1e3


async def load(target: tuple[str, int, Any, str], payloads: Sequence[bytes], batch: int) -> Measurement:
    """Send the payloads, eight at a time."""
    address, pid, credentials, token = target
    method = "Emit" if batch == 1 else "EmitBatch"
    metadata = (("authorization", f"Bearer {token}"),) if token else None
    make: Callable[..., Any] = grpc.aio.insecure_channel if credentials is None else grpc.aio.secure_channel
    position, latencies = count(), []
    async with make(address, *([] if credentials is None else [credentials])) as channel:
        call = channel.unary_unary(f"/emitd.v1.LogService/{method}")
        await channel.channel_ready()

        async def worker() -> None:
            while (index := next(position)) < len(payloads):
                begin = time.perf_counter()
                await call(payloads[index], metadata=metadata)
                latencies.append(time.perf_counter() - begin)

        cpu, began = cpu_seconds(pid), time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(8)))
        wall = time.perf_counter() - began
        cpu = cpu_seconds(pid) - cpu
    return Measurement(len(payloads) * batch, cpu, wall, sorted(latencies), 0)


def main(rounds: int) -> None:
    """Print the tables."""
    print(f"{'µs of CPU a call':<24}{'token':>8}{'certificate':>13}{'whole, without grpc':>21}{'share':>8}")
    for batch in BATCHES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            by_token, by_certificate = (
                added(kind, batch, rounds, folder) for kind in ("token", "certificate")
            )
            total = asyncio.run(whole(batch, rounds, folder))
        title = "Emit" if batch == 1 else f"EmitBatch({batch})"
        print(
            f"{title:<24}{by_token:>8.1f}{by_certificate:>13.1f}{total:>21.0f}{by_token / total:>8.1%}",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name))


def compare(folder: Path) -> None:
    """Print what the same load costs a server by the kind of its listener."""
    import subprocess
    from contextlib import ExitStack

    command = [sys.executable, "-m", "emitd_cli"]
    subprocess.run([*command, "tls", "dev", "certs"], cwd=folder, check=True, capture_output=True)
    token, _ = new_token(folder / "tokens.yml", "shop", (), None)
    read = lambda name: (folder / "certs" / name).read_bytes()  # noqa: E731
    tls = "tls: {cert_file: ../certs/server.pem, key_file: ../certs/server.key},"
    both = tls.replace("}", ", client_ca_file: ../certs/ca.pem}")
    trusting = grpc.ssl_channel_credentials(read("ca.pem"))
    named = grpc.ssl_channel_credentials(read("ca.pem"), read("client.key"), read("client.pem"))
    kinds: dict[str, tuple[str, str, Any, str]] = {
        "open": ("", "none", None, ""),
        "token": ("", "token", None, token),
        "TLS, token": (tls, "token", trusting, token),
        "TLS, certificate": (both, "certificate", named, ""),
    }
    with ExitStack() as stack:
        targets = {}
        for name, (tls_text, identity, credentials, sent) in kinds.items():
            place = folder / name.replace(", ", "-")
            place.mkdir()
            (place / "tokens.yml").write_bytes((folder / "tokens.yml").read_bytes())
            text = SERVED.replace("{TLS}", tls_text).replace("{IDENTITY}", identity)
            (place / "emitd.yml").write_text(
                text if identity != "none" else text.replace("identity: none", "")
            )
            address, pid = stack.enter_context(server([*command, "serve", "--config", "emitd.yml"], place))
            targets[name] = (address, pid, credentials, sent)
        runs: dict[tuple[str, int], list[Measurement]] = {}
        for turn in range(TURNS + 1):
            for batch, calls in CALLS.items():
                payloads = requests("audit", batch, calls, count())
                for name, target in targets.items():
                    result = asyncio.run(load(target, payloads, batch))
                    if turn:  # the first turn warms up
                        runs.setdefault((name, batch), []).append(result)
    print(
        f"\n{'µs of server CPU a call':<24}"
        + "".join(f"{f'batch {batch}':>12}{'× open':>8}" for batch in CALLS)
    )
    for name in kinds:
        cells = ""
        for batch in CALLS:
            cost, base = (
                median(run.cpu_us_per_record for run in runs[each, batch]) * batch for each in (name, "open")
            )
            cells += f"{cost:>12.0f}{cost / base:>8.2f}"
        print(f"{name:<24}{cells}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
