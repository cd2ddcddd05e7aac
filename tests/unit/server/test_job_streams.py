"""JobWatches: what becomes of a watch when its job goes, and how often an update is serialised."""

from collections.abc import AsyncGenerator

import pytest
from msgspec.structs import replace

from emitd.v1 import job_pb2 as pb
from emitd_handlers.jobs.source import Job, JobPage, JobQuery, JobUpdate
from emitd_handlers.record import JobState
from emitd_server.errors import JobNotFound
from emitd_server.rpc.job_streams import ENCODED_UPDATES, MAX_ENCODED_BYTES, JobWatches
from emitd_server.settings import WatchSettings

JOB = Job(job_id="j", job_type="t", status=JobState.RUNNING)


class Source:
    """A `JobSource` whose job is removed while it is looked for: its watch is idle."""

    async def get(self, job_id: str) -> Job | None:
        return JOB

    async def list(self, query: JobQuery) -> JobPage:
        return JobPage([], "")

    async def watch(
        self,
        job_id: str,
        *,
        after_revision: int | None = None,
        min_interval_seconds: float = 0.0,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[JobUpdate | None, None]:
        for update in (None, JobUpdate(JOB), None):
            yield update


def watch(**fields: bool) -> AsyncGenerator[bytes, None]:
    watches = JobWatches(WatchSettings())
    return watches.watch(Source(), pb.WatchJobRequest(job_id="j", **fields))  # type: ignore[return-value]  # it is one


async def test_an_update_is_serialised_once_for_all_its_watchers() -> None:
    """What is kept for that has a bound, and a large message is not kept."""
    watches = JobWatches(WatchSettings())
    updates = [JobUpdate(replace(JOB, revision=revision)) for revision in range(1, 2 * ENCODED_UPDATES)]
    for update in updates:
        assert watches._encode(update) is watches._encode(update)
        assert len(watches._encoded) <= ENCODED_UPDATES
    kept = len(watches._encoded)
    watches._encode(JobUpdate(replace(JOB, message="x" * MAX_ENCODED_BYTES)))
    assert len(watches._encoded) == kept


async def test_a_job_that_is_removed_before_its_first_state_is_not_found() -> None:
    """Its watcher does not wait for another under its id, unless asked to."""
    with pytest.raises(JobNotFound):
        await anext(watch(follow=True))


async def test_a_watcher_may_wait_for_the_job_after_the_removed_one() -> None:
    """It gets heartbeats, without a job until there is one."""
    messages = watch(wait_for_creation=True)
    seen = [pb.WatchJobResponse.FromString(await anext(messages)) for _ in range(3)]
    assert [(message.heartbeat, message.HasField("job")) for message in seen] == [
        (True, False),
        (False, True),
        (True, True),
    ]
    await messages.aclose()
