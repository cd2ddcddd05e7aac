"""A server with two listeners, one that asks for tokens and one that asks nobody, and things that grants tell apart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from emitd import v1 as pb
from emitd.v1 import AuditServiceStub, LogRecord, LogServiceStub
from emitd_handlers.audit.handler import JsonAuditHandler
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_server.access import watched
from emitd_server.access.tokens import new_token
from emitd_server.process import make_grpc_server
from emitd_server.rpc import open_streams
from emitd_server.service import LoggingService
from emitd_server.settings import AccessSettings, GrantSettings, Identity, ListenEntry, Role, ServerSettings
from support.client.in_process import CHANNEL_OPTIONS, in_memory

WAIT_SECONDS = 20.0
#: Has every role for everything: what it sees shows that foreign things are there to be seen.
EVERYTHING = "everything"
NAMED = (*(role.value for role in Role), EVERYTHING, "nobody")
CALLERS = (*NAMED, "without a token", "with a wrong token")
_numbers = count(1)


class Thing(NamedTuple):
    """What a caller may or may not send and read: log lines, an event and a job."""

    name: str
    source: str
    event_name: str
    job_type: str

    def line(self, text: str = "") -> LogRecord:
        return LogRecord(level=pb.LEVEL_INFO, source=self.source, message=f"{self.name}:{text}")

    def event(self, event_id: str = "", text: str = "") -> LogRecord:
        event = pb.AuditEvent(
            event_id=event_id, event_name=self.event_name, user_id="u", source_ip="unknown", details_json="{}"
        )
        return LogRecord(source=self.source, message=f"{self.name}:{text}", audit=event)

    def report(self, job_id: str = "", text: str = "") -> LogRecord:
        job_id = job_id or f"new-{next(_numbers)}"
        job = pb.JobStatus(job_id=job_id, job_type=self.job_type, status=pb.JOB_STATE_RUNNING)
        return LogRecord(source=self.source, message=f"{self.name}:{text}", job=job)


OWN = Thing("own", "shop.till", "user.login", "import")
#: What is foreign by its source alone, and what is by its name alone, which lines have not.
BY_SOURCE = Thing("by-source", "bank", "user.login", "import")
BY_NAME = Thing("by-name", "shop", "admin.login", "export")
FOREIGN = (BY_SOURCE, BY_NAME)
THINGS = (OWN, *FOREIGN)


def records_of(thing: Thing, event_id: str = "", job_id: str = "") -> list[LogRecord]:
    """What is the thing's in every respect: a line has no name."""
    named = [thing.event(event_id), thing.report(job_id)]
    return named if thing is BY_NAME else [*named, thing.line()]


def grants() -> tuple[GrantSettings, ...]:
    covered: dict[str, Any] = {"sources": ("shop*",), "event_names": ("user.*",), "job_types": ("import",)}
    return (
        *(GrantSettings(to=(role.value,), role=role, **covered) for role in Role),
        *(GrantSettings(to=(EVERYTHING,), role=role) for role in Role),
    )


class World:
    """A server with two listeners, where everyone who calls the open one may do everything."""

    def __init__(self, folder: Path, grpc_server: Any, audit: JsonAuditHandler, *addresses: str) -> None:
        self.tokens_file = folder / "tokens.yml"
        self.server = grpc_server
        self.guarded, self.open = (
            grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) for address in addresses
        )
        self._audit = audit
        self.leaf_indexes: dict[Thing, int] = {}

    def token(self, name: str, *groups: str, expires: datetime | None = None) -> "Caller":
        token, _ = new_token(self.tokens_file, name, groups, expires)
        return Caller(self, name, (("authorization", f"Bearer {token}"),))

    async def send(self, *records: LogRecord) -> list[Any]:
        """Send records as a caller that nobody asks for a name; return their receipts."""
        stub = LogServiceStub(self.open)
        return [(await stub.Emit(pb.EmitRequest(record=record))).receipt for record in records]

    async def seed(self) -> None:
        for thing in THINGS:
            receipts = await self.send(*records_of(thing, f"e-{thing.name}", f"j-{thing.name}"))
            self.leaf_indexes[thing] = receipts[0].audit.leaf_index
        await self._audit.write_checkpoint()

    async def job(self, thing: Thing) -> Any:
        return (await LogServiceStub(self.open).GetJob(pb.GetJobRequest(job_id=f"j-{thing.name}"))).job


class Caller:
    """Calls with a token, or without one."""

    def __init__(self, world: World, name: str, metadata: Any) -> None:
        self.world = world
        self.name = name
        self.options = {"metadata": metadata, "timeout": WAIT_SECONDS}
        self.log = LogServiceStub(world.guarded)
        self.audit = AuditServiceStub(world.guarded)
        self.health = health_pb2_grpc.HealthStub(world.guarded)
        self.reflection = reflection_pb2_grpc.ServerReflectionStub(world.guarded)


@asynccontextmanager
async def made(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """Serve a world, which looks at its tokens all the time."""
    (folder / "tokens.yml").touch(mode=0o600)
    audit = JsonAuditHandler(
        JsonAuditHandler.Settings(path=folder / "audit.json.log", checkpoint_seconds=0.05), name="audit"
    )
    jobs = DatabaseJobHandler(
        DatabaseJobHandler.Settings(database=DatabaseUrl.resolve("sqlite:///jobs.db", folder)), name="jobs"
    )
    listen = (
        ListenEntry(address="127.0.0.1:0", identity=Identity.TOKEN),
        ListenEntry(address="127.0.0.1:0"),
    )
    access = AccessSettings(tokens_file=folder / "tokens.yml", grants=settings.pop("grants", grants()))
    service = LoggingService(
        [in_memory(), audit, jobs], settings=ServerSettings(listen=listen, access=access, **settings)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watched, "LOOK_SECONDS", 0.02)
        patch.setattr(open_streams, "CHECK_SECONDS", 0.02)
        await service.start()
        grpc_server = make_grpc_server(service)
        world = World(folder, grpc_server, audit, *await grpc_server.start())
        try:
            yield world
        finally:
            await world.guarded.close()
            await world.open.close()
            await service.stop(await grpc_server.stop())


async def caller(world: World, kind: str) -> Caller:
    """A caller whose token the server has read."""
    if kind == "without a token":
        return Caller(world, kind, ())
    if kind == "with a wrong token":
        return Caller(world, kind, (("authorization", "Bearer emitd_wrong"),))
    who = world.token(kind)
    await until_known(who)
    return who


async def until_known(who: Caller) -> None:
    """Wait until the server has read the token."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (
            await who.health.Check(health_pb2.HealthCheckRequest(), **who.options).code()
            is not grpc.StatusCode.OK
        ):
            await asyncio.sleep(0.01)
