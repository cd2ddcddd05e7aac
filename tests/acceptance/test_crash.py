"""Promises 1 and 4: after SIGKILL at any instant, every acknowledged record is there, once, and the trail verifies.

The real process is killed at random moments under load, and its files are held against a model of what was
acknowledged. `EMITD_CRASH_ROUNDS` and `EMITD_CRASH_SEED` change the number of kills and the seed,
`EMITD_CRASH_CHECK_EVERY` after how many kills all files are read again: that takes the longer, the more there is.
"""

import asyncio
import json
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from emitd.v1 import log_service_pb2 as pb
from emitd.v1 import log_service_pb2_grpc
from emitd.v1 import record_pb2 as rec
from emitd_handlers.audit.format.files import AuditPaths, split_notes
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from support.processes.server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("EMITD_CRASH_ROUNDS", "20"))
SEED = int(os.environ.get("EMITD_CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
CHECK_EVERY = int(os.environ.get("EMITD_CRASH_CHECK_EVERY", "1"))
SENDERS = 4
JOBS_OF_A_SENDER = 3
CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  audit: {type: json_audit, levels: [AUDIT], path: audit.json.log}
  jobs: {type: database_job, levels: [JOB_STATUS], database: "sqlite:///jobs.db"}
"""


@dataclass
class Model:
    """What the senders sent, and what they were promised."""

    sent: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    #: By job: the highest progress that was acknowledged.
    progress: dict[str, int] = field(default_factory=dict)
    #: The checkpoints after the last start.
    notes: list[bytes] = field(default_factory=list)
    #: Requests without an answer when the server died: they are sent again.
    unanswered: list[pb.EmitBatchRequest] = field(default_factory=list)


class Sender:
    """Sends batches of new audit events and job reports, one after the other, until its server dies."""

    def __init__(self, number: int, model: Model, chance: random.Random) -> None:
        self._number = number
        self._model = model
        self._chance = chance
        self._serial = 0
        self._progress = 0

    async def run(self, stub: log_service_pb2_grpc.LogServiceStub) -> None:
        while True:
            request = self._request()
            try:
                await deliver(stub, request, self._model)
            except grpc.aio.AioRpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
                self._model.unanswered.append(request)
                return

    def _request(self) -> pb.EmitBatchRequest:
        records = [self._audit() for _ in range(self._chance.choice((1, 1, 5, 60)))]
        if self._chance.random() < 0.7:
            self._progress += 1
            records += [self._report(job) for job in range(JOBS_OF_A_SENDER)]
        self._chance.shuffle(records)
        self._model.sent |= {record.audit.event_id for record in records if record.HasField("audit")}
        return pb.EmitBatchRequest(records=records)

    def _audit(self) -> rec.LogRecord:
        self._serial += 1
        event_id = f"e-{self._number}-{self._serial}"
        details = json.dumps({"padding": "x" * self._chance.choice((0, 10, 5000))})
        return rec.LogRecord(
            record_id=f"r-{event_id}",
            audit=rec.AuditEvent(
                event_id=event_id, event_name="n", user_id="u", source_ip="unknown", details_json=details
            ),
        )

    def _report(self, job: int) -> rec.LogRecord:
        # Progress beyond 100 % would be refused: it goes into the details, which are merged alike.
        return rec.LogRecord(
            record_id=f"p-{self._number}-{job}-{self._progress}",
            time_unix_nano=self._progress + 1,
            job=rec.JobStatus(
                job_id=f"j-{self._number}-{job}",
                job_type="t",
                status=rec.JOB_STATE_RUNNING,
                details_json=json.dumps({"step": self._progress}),
            ),
        )


async def deliver(
    stub: log_service_pb2_grpc.LogServiceStub, request: pb.EmitBatchRequest, model: Model
) -> None:
    """Send a request and write down what its reply promises."""
    reply: pb.EmitBatchResponse = await stub.EmitBatch(request, timeout=30)
    assert not reply.errors, reply.errors
    for record in request.records:
        if record.HasField("audit"):
            model.acknowledged.add(record.audit.event_id)
        else:
            step = json.loads(record.job.details_json)["step"]
            job_id = record.job.job_id
            model.progress[job_id] = max(step, model.progress.get(job_id, 0))


def check_audit(folder: Path, model: Model) -> None:
    """Every line parses, every acknowledged event is there, no event is there twice, none was made up."""
    lines = (folder / "audit.json.log").read_bytes().splitlines()
    counts = Counter(json.loads(line)["event_id"] for line in lines)
    missing = model.acknowledged - counts.keys()
    twice = {event_id: count for event_id, count in counts.items() if count > 1}
    assert not missing, f"{len(missing)} acknowledged events are missing: {sorted(missing)[:5]}"
    assert not twice, twice
    assert counts.keys() <= model.sent


def check_proofs(folder: Path, model: Model) -> None:
    """The trail verifies, hashes and checkpoints included, and no checkpoint of before is gone."""
    path = folder / "audit.json.log"
    notes = read_notes(path)
    assert notes[: len(model.notes)] == model.notes, "a checkpoint is gone"
    model.notes = notes
    report = verify_log(path, workers=1)
    # The service may have signed one more meanwhile.
    assert len(notes) <= report.checkpoints <= len(read_notes(path))
    assert report.verdict is (Verdict.GOOD if report.checkpoints else Verdict.CANNOT_TELL), report


def read_notes(path: Path) -> list[bytes]:
    """The checkpoints of a log."""
    return [note for _, note in split_notes(AuditPaths.of(path).checkpoints.read_bytes())]


def check_jobs(folder: Path, model: Model) -> None:
    """Every job stands at least where an acknowledged report put it; its revisions are complete."""
    with sqlite3.connect(folder / "jobs.db") as database:
        rows = database.execute("SELECT job_id, details, revision FROM job_logs").fetchall()
    steps = {job_id: json.loads(details)["step"] for job_id, details, _ in rows}
    for job_id, step in model.progress.items():
        assert steps[job_id] >= step, (job_id, steps[job_id], step)
    for job_id, _, revision in rows:
        assert revision == steps[job_id], f"{job_id}: a report was applied twice or lost"


def check_all(folder: Path, model: Model) -> None:
    check_audit(folder, model)
    check_proofs(folder, model)
    check_jobs(folder, model)


async def send_until_killed(
    server: ServerProcess, senders: Sequence[Sender], model: Model, chance: random.Random, folder: Path | None
) -> None:
    """Send the unanswered again, check what is in the folder, if any, then send new records until the server dies."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = log_service_pb2_grpc.LogServiceStub(channel)
        retries, model.unanswered = model.unanswered, []
        for request in retries:
            await deliver(stub, request, model)
        if folder is not None:
            check_all(folder, model)
        tasks = [asyncio.create_task(sender.run(stub)) for sender in senders]
        await asyncio.sleep(chance.uniform(0.02, 0.6))
        server.kill()
        await asyncio.gather(*tasks)


async def test_every_acknowledged_record_survives_sigkill(tmp_path: Path) -> None:
    """Kill, start, send the unanswered again, check, and once more."""
    print(f"seed {SEED}, {ROUNDS} rounds")
    chance = random.Random(SEED)
    model = Model()
    senders = [Sender(number, model, chance) for number in range(SENDERS)]
    for round_number in range(ROUNDS):
        with ServerProcess.start(CONFIG, tmp_path) as server:
            is_checked = round_number % CHECK_EVERY == 0
            await send_until_killed(server, senders, model, chance, tmp_path if is_checked else None)
        assert len(model.unanswered) == SENDERS, f"round {round_number}: the kill found nobody sending"
    with ServerProcess.start(CONFIG, tmp_path) as server:
        server.terminate()
        assert server.wait() == 0
    check_all(tmp_path, model)
    print(
        f"{len(model.acknowledged)} audit events, {len(model.notes)} checkpoints and {len(model.progress)} jobs after "
        f"{ROUNDS} kills: all there"
    )
    assert len(model.acknowledged) > ROUNDS
