"""`InProcessClient` used wrongly: too early, too late, from elsewhere, or with what makes no sense."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from emitd import ClientNotOpen, RecordRejected, RequestRejected, v1
from emitd_handlers.record import Level
from emitd_server.in_process.client import InProcessClient
from emitd_server.service import LoggingService
from support.client.in_process import in_memory, three_handlers

Call = Callable[[InProcessClient], Coroutine[Any, Any, object]]


async def begin_job(logger: InProcessClient) -> None:
    async with logger.job("j1", "sync"):
        pass


async def list_with(logger: InProcessClient, **filters: Any) -> list[str]:
    return [job.job_id async for job in logger.list_jobs(**filters)]


async def watch_with(logger: InProcessClient, **settings: Any) -> None:
    async for _ in logger.watch_job("j1", **settings):
        pass


#: Every awaited verb that needs a service.
AWAITED: dict[str, Call] = {
    "audit": lambda logger: logger.audit("user.login", user_id="u1"),
    "job": begin_job,
    "queued": lambda logger: logger.job("j1", "sync").queued(),
    "get_job": lambda logger: logger.get_job("j1"),
    "list_jobs": list_with,
    "watch_job": watch_with,
}


@pytest.mark.parametrize("verb", AWAITED)
async def test_awaited_verbs_say_that_the_start_was_forgotten(verb: str) -> None:
    """A service that was not started is ClientNotOpen at once, not trouble that another try could mend."""
    with pytest.raises(ClientNotOpen, match="is not running"):
        await AWAITED[verb](LoggingService([in_memory()]).client("shop"))


@pytest.mark.parametrize("verb", AWAITED)
async def test_awaited_verbs_say_that_the_client_is_closed(verb: str, tmp_path: Path) -> None:
    """A closed client begins nothing, though its service is running."""
    async with LoggingService(three_handlers(tmp_path)) as service:
        logger = service.client("shop")
        await logger.close()
        with pytest.raises(ClientNotOpen, match="closed"):
            await AWAITED[verb](logger)


async def test_a_job_that_has_begun_ends_after_its_client(tmp_path: Path) -> None:
    """Closing a client does not leave the job that it reports RUNNING."""
    async with LoggingService(three_handlers(tmp_path)) as service:
        logger = service.client("shop")
        async with logger.job("j1", "sync"):
            await logger.close()
        job = await service.client().get_job("j1")
    assert job is not None
    assert job.ended


@pytest.mark.parametrize("verb", [*AWAITED, "flush"])
async def test_awaited_verbs_refuse_another_event_loop(verb: str, tmp_path: Path) -> None:
    """`asyncio.run` in a thread, as in a plain route, is told at once; there it would wait for what never comes."""
    call: Call = {**AWAITED, "flush": lambda logger: logger.flush(5)}[verb]
    async with LoggingService(three_handlers(tmp_path)) as service:
        logger = service.client("shop")
        with pytest.raises(RuntimeError, match="event loop that the service was started in"):
            await asyncio.to_thread(lambda: asyncio.run(call(logger)))


async def test_lines_for_a_service_that_was_never_started_are_counted(tmp_path: Path) -> None:
    """Closing a client whose opening was forgotten counts what was logged as dropped."""
    (tmp_path / "emitd.yml").write_text("handlers: {console: {type: console}}")
    logger = InProcessClient.from_config(tmp_path / "emitd.yml")
    logger.info("lost")
    await logger.close()
    assert logger.stats() == {"dropped_at_close": 1}


def test_the_end_of_the_process_tells_what_was_never_sent(tmp_path: Path) -> None:
    """Where nobody started the service, and nobody closed anything, standard error says what was lost."""
    program = (
        "from emitd_server.service import LoggingService\n"
        "logger = LoggingService().client('shop')\n"
        "logger.info('one'); logger.info('two')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "lost 2 log lines of this process: the service was not started" in done.stderr


async def test_the_first_line_after_the_end_is_told() -> None:
    """Whoever logs to a service that has stopped is told so, once."""
    told: list[str] = []
    service = LoggingService([in_memory()], report=told.append)
    async with service:
        logger = service.client("shop")
    logger.info("too late")
    logger.info("far too late")
    assert told == ["dropped 1 log lines of this process: closed"]
    assert logger.stats() == {"dropped_closed": 2}


async def test_any_level_will_do() -> None:
    """A level of the wrong type is no reason to raise in the middle of somebody's work."""
    memory = in_memory()
    async with LoggingService([memory]) as service:
        logger = service.client()
        for level in ([], {}, None, 2.5):
            logger.log(level, "line")  # type: ignore[arg-type]
        assert await logger.flush(10)
        await memory.wait_for(4)
    assert {record.level for record in memory.records} == {Level.INFO}
    assert memory.records[0].attributes_json == '{"level":[]}'


@pytest.mark.parametrize("field", ["event_name", "user_id", "source_ip"])
async def test_none_is_not_recorded_as_a_name(field: str, tmp_path: Path) -> None:
    """A mandatory field that is None is missing: an audit trail must not say that the user was `None`."""
    arguments: dict[str, Any] = {"event_name": "user.login", "user_id": "u1", field: None}
    async with LoggingService(three_handlers(tmp_path)) as service:
        with pytest.raises(RecordRejected, match="is mandatory") as refused:
            await service.client().audit(**{"event_name": "", **arguments})
    assert refused.value.field == f"audit.{field}"


async def test_a_record_id_of_none_is_a_new_one(tmp_path: Path) -> None:
    """Two events without an id of their own are two events."""
    async with LoggingService(three_handlers(tmp_path)) as service:
        logger = service.client()
        ids = {
            (await logger.audit("user.login", user_id=user, record_id=None)).record_id  # type: ignore[arg-type]
            for user in ("u1", "u2")
        }
    assert len(ids) == 2
    assert "None" not in ids


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda logger: logger.get_job(""), "job_id"),
        (lambda logger: list_with(logger, page_size=2**40), "page_size"),
        (lambda logger: list_with(logger, updated_after_unix_nano=-1), "updated_after_unix_nano"),
        (lambda logger: list_with(logger, statuses=["running"]), "statuses"),
        (lambda logger: watch_with(logger, after_revision=-1), "after_revision"),
        (lambda logger: watch_with(logger, min_interval_ms=-1), "min_interval_ms"),
    ],
)
async def test_a_question_that_makes_no_sense_names_its_field(call: Call, field: str, tmp_path: Path) -> None:
    """RequestRejected names the parameter, as the server would."""
    async with LoggingService(three_handlers(tmp_path)) as service:
        with pytest.raises(RequestRejected, match=field) as refused:
            await call(service.client())
    assert refused.value.field == field


async def test_one_status_may_stand_alone(tmp_path: Path) -> None:
    """`statuses="RUNNING"` asks for RUNNING, not for a status R."""
    async with LoggingService(three_handlers(tmp_path)) as service:
        logger = service.client()
        async with logger.job("j1", "sync"):
            assert await list_with(logger, statuses="RUNNING") == ["j1"]
        assert await list_with(logger, statuses="RUNNING") == []


@pytest.mark.parametrize(
    ("failure", "reason"), [(None, "RecordRejected"), (ValueError("no paper"), "ValueError")]
)
async def test_details_that_are_too_large_do_not_leave_the_job_running(
    failure: Exception | None, reason: str, tmp_path: Path
) -> None:
    """The job ends as FAILED with the details it had; the caller gets the refusal, or the exception under way."""
    told: list[str] = []
    async with LoggingService(three_handlers(tmp_path), report=told.append) as service:
        logger = service.client()
        with pytest.raises(type(failure) if failure else RecordRejected):
            async with logger.job("j1", "sync", details={"part": 1}) as reporter:
                reporter.details({"all": "x" * 100_000})
                if failure:
                    raise failure
        job = await logger.get_job("j1")
    assert job is not None
    assert (job.ended, job.failure_reason, job.details_json) == (True, reason, '{"part":1}')


async def test_a_long_message_of_a_job_is_cut(tmp_path: Path) -> None:
    """What a job says it is doing must not keep its reports from being taken."""
    async with LoggingService(three_handlers(tmp_path)) as service:
        logger = service.client()
        async with logger.job("j1", "sync") as reporter:
            reporter.message("ü" * 1_000_000)
        job = await logger.get_job("j1")
    assert job is not None
    assert (v1.JobState.Name(job.status), len(job.message)) == ("JOB_STATE_COMPLETED", 4_000)
