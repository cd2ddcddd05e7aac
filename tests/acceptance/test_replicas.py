"""Two replicas on one PostgreSQL: reported to on one, watched on the other, killed at any moment.

Workers run jobs from QUEUED to their end over whichever replica answers; watchers follow each job and resume by
revision on whichever answers. Each round kills one replica with SIGKILL under load and starts it again.
`EMITD_REPLICA_ROUNDS` and `EMITD_REPLICA_SEED` change the number of kills and the seed.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from emitd.v1 import job_pb2, log_service_pb2_grpc
from emitd.v1 import log_service_pb2 as pb
from emitd.v1 import record_pb2 as rec
from support.processes.server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("EMITD_REPLICA_ROUNDS", "6"))
SEED = int(os.environ.get("EMITD_REPLICA_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
WORKERS = 6
STEPS = 12
CONFIG = """
server: {{listen: "127.0.0.1:0"}}
handlers:
  jobs:
    type: database_job
    database: "{dsn}"
    lease_check_seconds: 0.2
"""
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass
class Replica:
    """One server, which may be killed and started again."""

    folder: Path
    config: str
    server: ServerProcess | None = None
    #: To each of its runs; the last one is for new calls. Closing the others would cancel calls that find out by
    #: themselves that nobody is there any more.
    channels: list["grpc.aio.Channel"] = field(default_factory=list)

    async def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.server = await asyncio.to_thread(ServerProcess.start, self.config, self.folder)
        self.channels.append(grpc.aio.insecure_channel(self.server.address))

    async def kill(self) -> None:
        if self.server is not None:
            await asyncio.to_thread(self.server.kill)
            assert "Traceback" not in self.server.stderr, self.server.stderr
            self.server = None

    async def close(self) -> None:
        await self.kill()
        for channel in self.channels:
            await channel.close()

    @property
    def stub(self) -> log_service_pb2_grpc.LogServiceStub:
        return log_service_pb2_grpc.LogServiceStub(self.channels[-1])


@dataclass
class Told:
    """What a watcher of one job was told, over all its connections."""

    job: job_pb2.Job = field(default_factory=job_pb2.Job)
    transitions: list[job_pb2.JobTransition] = field(default_factory=list)
    connections: int = 0
    truncated: bool = False


@dataclass
class World:
    """The replicas, and what was acknowledged and told."""

    replicas: Sequence[Replica]
    chance: random.Random
    #: By job: the (status, progress) of each report that was applied, in order.
    applied: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    watches: list["asyncio.Task[None]"] = field(default_factory=list)
    finished: int = 0

    def any_replica(self) -> Replica:
        return self.chance.choice(self.replicas)

    async def report(self, job_id: str, status: rec.JobState, progress: int, step: int) -> None:
        """Report until a replica has acknowledged it; each retry is the same record."""
        record = rec.LogRecord(
            record_id=f"{job_id}-{step}",
            time_unix_nano=step + 1,
            job=rec.JobStatus(
                job_id=job_id, job_type="t", status=status, progress=progress, lease_seconds=30
            ),
        )
        while True:
            try:
                reply: pb.EmitResponse = await self.any_replica().stub.Emit(
                    pb.EmitRequest(record=record), timeout=20
                )
            except grpc.aio.AioRpcError as error:
                assert error.code() in AWAY, error
                await asyncio.sleep(0.02)
                continue
            receipt = reply.receipt.job
            # A retry of a report that was committed before its replica died finds itself there already.
            assert receipt.applied or receipt.stale_reason in ("OUT_OF_ORDER", "ATTEMPT_ENDED"), receipt
            self.applied.setdefault(job_id, []).append((status, progress))
            return

    async def run_job(self, job_id: str) -> None:
        """Take one job from its beginning to its end."""
        self.watches.append(asyncio.create_task(self.watch(job_id)))
        await self.report(job_id, rec.JOB_STATE_QUEUED, 0, 0)
        for step in range(1, STEPS):
            await self.report(job_id, rec.JOB_STATE_RUNNING, step, step)
        end = self.chance.choice((rec.JOB_STATE_COMPLETED, rec.JOB_STATE_FAILED))
        await self.report(job_id, end, STEPS, STEPS)
        self.finished += 1

    async def watch(self, job_id: str) -> None:
        """Follow a job to its end, over as many connections as that takes."""
        told = self.told[job_id] = Told()
        while not told.job.ended:
            request = job_pb2.WatchJobRequest(
                job_id=job_id, wait_for_creation=True, after_revision=told.job.revision, min_interval_ms=1
            )
            told.connections += 1
            try:
                async for message in self.any_replica().stub.WatchJob(request):
                    told.truncated |= message.history_truncated
                    told.transitions += message.transitions
                    told.job.CopyFrom(message.job)
            except grpc.aio.AioRpcError as error:
                assert error.code() in AWAY, error
                await asyncio.sleep(0.02)

    async def work(self, number: int, until: asyncio.Event) -> None:
        """Run one job after the other."""
        serial = 0
        while not until.is_set():
            await self.run_job(f"j-{number}-{serial}")
            serial += 1


@asynccontextmanager
async def two_replicas(dsn: str, folder: Path, seed: int) -> AsyncIterator[World]:
    replicas = [Replica(folder / name, CONFIG.format(dsn=dsn)) for name in ("one", "two")]
    try:
        for replica in replicas:
            await replica.start()
        yield World(replicas, random.Random(seed))
    finally:
        for replica in replicas:
            await replica.close()


async def test_a_kill_of_either_replica_loses_no_state_and_no_transition(
    postgres_dsn: str, tmp_path: Path
) -> None:
    """Every acknowledged state is there, every watcher saw every transition once, and no job is stuck."""
    print(f"seed {SEED}, {ROUNDS} rounds")
    async with two_replicas(postgres_dsn, tmp_path, SEED) as world:
        stop = asyncio.Event()
        workers = [asyncio.create_task(world.work(number, stop)) for number in range(WORKERS)]
        for _ in range(ROUNDS):
            await asyncio.sleep(world.chance.uniform(0.2, 1.0))
            victim = world.any_replica()
            await victim.kill()
            await asyncio.sleep(world.chance.uniform(0.0, 0.3))
            await victim.start()
        stop.set()
        await asyncio.gather(*workers)
        await asyncio.wait_for(asyncio.gather(*world.watches), 30)
        for job_id, told in world.told.items():
            await check_job(world, job_id, told)
        again = sum(told.connections > 1 for told in world.told.values())
        print(
            f"{world.finished} jobs, {again} of them watched over more than one connection: all as acknowledged"
        )
        assert again > 0
    assert world.finished >= WORKERS


async def check_job(world: World, job_id: str, told: Told) -> None:
    """Hold what a watcher was told, and what is stored, against what was acknowledged."""
    reply: job_pb2.GetJobResponse = await world.replicas[0].stub.GetJob(job_pb2.GetJobRequest(job_id=job_id))
    job = reply.job
    status, progress = world.applied[job_id][-1]
    assert (job.status, job.progress, job.revision) == (status, progress, STEPS + 1), job
    assert told.job == job
    assert not told.truncated
    assert [(item.revision, item.status) for item in told.transitions] == [
        (1, rec.JOB_STATE_QUEUED),
        (2, rec.JOB_STATE_RUNNING),
        (STEPS + 1, status),
    ]


async def test_a_lease_ends_though_the_replica_that_took_the_report_is_gone(
    postgres_dsn: str, tmp_path: Path
) -> None:
    """The survivor ends it, once, and tells who watches there."""
    async with two_replicas(postgres_dsn, tmp_path, SEED) as world:
        one, two = world.replicas
        record = rec.LogRecord(
            job=rec.JobStatus(job_id="j", job_type="t", status=rec.JOB_STATE_RUNNING, lease_seconds=1)
        )
        await one.stub.Emit(pb.EmitRequest(record=record))
        await one.kill()
        request = job_pb2.WatchJobRequest(job_id="j", after_revision=0)
        messages = [message async for message in two.stub.WatchJob(request, timeout=30)]
        assert (messages[-1].job.status, messages[-1].job.failure_reason) == (
            rec.JOB_STATE_FAILED,
            "LEASE_EXPIRED",
        )
        assert [item.revision for message in messages for item in message.transitions] == [1, 2]
