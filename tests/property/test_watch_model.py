"""WatchJob and WatchJobs against a model: random senders and readers, failures, kills and restarts.

`EMITD_MODEL_STEPS` says how many things happen, and `EMITD_MODEL_SEED` which; the same seed is the same run, 0 is
another each time. The seed is printed (`pytest -s`) and shown with a failure.
"""

import asyncio
import os
from pathlib import Path
from random import Random, SystemRandom

import pytest

from emitd_handlers.jobs import handler
from emitd_handlers.jobs.sqlite import store
from emitd_handlers.jobs.watch import broadcaster as broadcaster
from support.jobs.model import JobModel
from support.jobs.simulated import SimulatedSqlite
from support.jobs.simulation import JobSimulation
from support.processes.virtual_time import VirtualTimeLoop

STEPS = int(os.environ.get("EMITD_MODEL_STEPS", "4000"))
SEED = int(os.environ.get("EMITD_MODEL_SEED", "20261127")) or SystemRandom().getrandbits(32)
#: Each begins with an empty database and other settings.
STEPS_A_RUN = 500

pytestmark = pytest.mark.timeout(120 + STEPS // 20)


async def simulate(folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int, steps: int) -> JobSimulation:
    random = Random(seed)
    database = SimulatedSqlite(folder, random, JobModel())
    monkeypatch.setattr(store, "SqliteConnection", database)
    monkeypatch.setattr(handler, "RETENTION_SECONDS", random.choice([2.0, 60.0]))
    monkeypatch.setattr(broadcaster, "MAX_KNOWN_TRANSITIONS", random.choice([1, 3, 256]))
    simulation = JobSimulation(database, random)
    try:
        await simulation.start()
        for _ in range(steps):
            await simulation.step()
        await simulation.finish()
    except BaseException as error:
        error.add_note("\n".join([*simulation.log, f"seed {seed}, step {simulation.steps}"]))
        raise
    return simulation


def test_no_reader_is_ever_lied_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens: every report is answered as the rules say, every message is a state that was committed, the
    current one comes first, transitions come complete, in order and once over all connections of a reader, what was
    left out is counted, and whoever reads on comes to know the last state.
    """
    for number, begun in enumerate(range(0, STEPS, STEPS_A_RUN)):
        seed = SEED + number
        print(f"EMITD_MODEL_SEED={seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            simulation = runner.run(simulate(folder, monkeypatch, seed, min(STEPS_A_RUN, STEPS - begun)))
        print(dict(simulation.happened), simulation.model.counts)
