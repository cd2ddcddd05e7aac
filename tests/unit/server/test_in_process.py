"""`InProcessClient`: audit events, the reading of jobs, and its life, in the process of the service."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from emitd import (
    AuditNotFound,
    ClientNotOpen,
    JobNotFound,
    RecordRejected,
    RequestRejected,
    Unavailable,
    v1,
)
from emitd.receipt import ReceiptState
from emitd.runtime.backoff import Backoff
from emitd.v1 import audit_service_pb2, log_service_pb2
from emitd_handlers.errors import HandlerUnavailable, RecordInvalid
from emitd_handlers.record import Level
from emitd_server.in_process import ingress as intake
from emitd_server.in_process.client import InProcessClient
from emitd_server.service import LoggingService
from emitd_server.settings import ServerSettings, WatchSettings
from support.client.in_process import in_memory, three_handlers
from support.client.in_process_client import (
    CONFIG,
    EndlessJobs,
    Opened,
    committed_memory,
    opened,
    until,
)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(three_handlers(tmp_path)) as opening:
        yield opening


class TestAudit:
    @pytest.mark.parametrize("require_commit", [False, True])
    async def test_the_receipt_is_that_of_the_wire_and_the_line_is_on_disk(
        self, require_commit: bool, app: Opened, tmp_path: Path
    ) -> None:
        """When `audit` returns, the event is a line of the trail, and the receipt says which."""
        receipt = await app.logger.audit(
            "order.create",
            user_id="u1",
            source_ip="192.0.2.7",
            details={"order": 17},
            message="Order taken.",
            require_commit=require_commit,
        )
        (line,) = [json.loads(text) for text in (tmp_path / "audit.json.log").read_text().splitlines()]
        assert (receipt.state, receipt.job) == (ReceiptState.COMMITTED, v1.JobReceipt())
        assert receipt.message.audit.leaf_hash == receipt.audit.leaf_hash != b""
        assert not receipt.duplicate
        assert receipt.handlers[0].delivery == v1.DELIVERY_COMMITTED
        assert (receipt.audit.leaf_index, receipt.audit.event_id) == (0, line["event_id"])
        assert (line["event_name"], line["user_id"], line["source_ip"]) == ("order.create", "u1", "192.0.2.7")
        assert (line["details"], line["message"], line["source"]) == ({"order": 17}, "Order taken.", "shop")
        assert line["record_id"] == receipt.record_id != ""

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"user_id": ""}, "audit.user_id"),
            ({"user_id": "u1", "source_ip": "localhost"}, "audit.source_ip"),
            ({"user_id": "u1", "details": {"x": "y" * 70_000}}, "audit.details_json"),
            ({"user_id": "u1", "record_id": "r" * 300}, "record_id"),
        ],
    )
    async def test_a_bad_event_is_refused_by_its_field(
        self, arguments: dict[str, Any], field: str, app: Opened
    ) -> None:
        """The checks are those of the wire: RecordRejected names the field, and no retry is invited."""
        with pytest.raises(RecordRejected) as caught:
            await app.logger.audit("user.login", **arguments)
        assert caught.value.field == field
        assert not caught.value.retryable
        assert app.logger.stats() == {"failed": 1}

    async def test_details_that_are_no_json_are_the_callers_fault(self, app: Opened) -> None:
        """A TypeError names the key, and nothing is written."""
        with pytest.raises(TypeError, match=r"details\['card'\]"):
            await app.logger.audit("user.login", user_id="u1", details={"card": object()})
        assert app.logger.stats() == {}

    async def test_a_retry_after_a_restart_is_a_duplicate(self, tmp_path: Path) -> None:
        """The same `record_id` and content gets the first receipt, also from a new service on the same file."""
        (tmp_path / "emitd.yml").write_text(CONFIG)
        event: dict[str, Any] = {"user_id": "u1", "details": {"order": 17}, "record_id": "order-17"}
        receipts = []
        for _ in range(2):
            async with InProcessClient.from_config(tmp_path / "emitd.yml", source="shop") as logger:
                receipts.append(await logger.audit("order.create", **event))
                receipts.append(await logger.audit("order.create", **event))
        assert [receipt.duplicate for receipt in receipts] == [False, True, True, True]
        assert len({receipt.audit.leaf_hash for receipt in receipts}) == 1
        assert len((tmp_path / "audit.json.log").read_text().splitlines()) == 1
        async with InProcessClient.from_config(tmp_path / "emitd.yml", source="shop") as logger:
            with pytest.raises(RecordRejected, match="used before") as caught:
                await logger.audit("order.delete", **event)
            assert caught.value.field == "record_id"

    async def test_a_handler_that_recovers_in_time_costs_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While another try can help there is one, under the same id."""
        monkeypatch.setattr(intake, "BACKOFF", Backoff(0.001, 2.0))
        memory = committed_memory(Level.AUDIT)
        memory.fail_next(2)
        async with opened([memory]) as app:
            receipt = await app.logger.audit("user.login", user_id="u1")
            assert [record.record_id for record in memory.records] == [receipt.record_id]
            assert app.logger.stats() == {"sent": 1}

    async def test_a_handler_that_does_not_recover_is_unavailable(self) -> None:
        """After `timeout` seconds the caller gets the last failure, which invites another try."""
        memory = committed_memory(Level.AUDIT)
        memory.fail_next(1_000_000, HandlerUnavailable("the disk is full"))
        async with opened([memory]) as app:
            with pytest.raises(Unavailable, match="the disk is full") as caught:
                await app.logger.audit("user.login", user_id="u1", timeout=0.05)
            assert caught.value.retryable

    async def test_a_handler_that_hangs_is_unavailable(self) -> None:
        """The caller is not kept longer than `timeout`, and is told that the outcome is not known."""
        memory = committed_memory(Level.AUDIT)
        async with opened([memory]) as app:
            memory.hang()
            with pytest.raises(Unavailable, match="may still be committed"):
                await app.logger.audit("user.login", user_id="u1", timeout=0.05)
            memory.release()

    @pytest.mark.parametrize("is_refused", [False, True])
    async def test_an_event_whose_caller_was_cancelled_is_committed(self, is_refused: bool) -> None:
        """Only the waiting ends. If it cannot be committed, the operator learns it."""
        memory = committed_memory(Level.AUDIT)
        async with opened([memory]) as app:
            memory.hang()
            caller = asyncio.ensure_future(app.logger.audit("user.login", user_id="u1"))
            await until(lambda: memory.batch_sizes)
            caller.cancel()
            await asyncio.wait([caller])
            memory.fail_next(int(is_refused), RecordInvalid("audit", "told to refuse"))
            memory.release()
            await until(lambda: app.lines if is_refused else memory.records)
        expected = ["an audit event, whose caller no longer waited, was not committed: audit: told to refuse"]
        assert app.lines == expected * is_refused

    async def test_no_handler_for_audit_events_is_a_refusal(self) -> None:
        """Without a handler for AUDIT an event is refused and not lost in silence."""
        async with opened([in_memory()]) as app:
            with pytest.raises(RecordRejected, match="no handler takes records of level AUDIT"):
                await app.logger.audit("user.login", user_id="u1")


class TestReading:
    async def test_an_unknown_job_is_none_to_get_and_an_error_to_watch(self, app: Opened) -> None:
        """Asking is a normal question; watching what is not there would never end."""
        assert await app.logger.get_job("nobody's") is None
        with pytest.raises(JobNotFound):
            await anext(app.logger.watch_job("nobody's"))

    async def test_jobs_are_listed_over_all_pages(self, app: Opened) -> None:
        """Filters hold, newest first, however small the pages."""
        for number in range(5):
            async with app.logger.job(f"j{number}", "sync"):
                pass
        async with app.logger.job("other", "backup"):
            found = [job.job_id async for job in app.logger.list_jobs(job_type="sync", page_size=2)]
            assert found == ["j4", "j3", "j2", "j1", "j0"]
            assert [job.job_id async for job in app.logger.list_jobs(statuses=["RUNNING"])] == ["other"]
        with pytest.raises(RequestRejected, match="'DONE' is not a job state") as caught:
            await anext(app.logger.list_jobs(statuses=["DONE"]))
        assert caught.value.field == "statuses"

    async def test_a_watch_resumes_and_ends_by_itself(self, app: Opened) -> None:
        """From a revision on only what is new is told; after the end the iterator ends."""
        async with app.logger.job("j1", "sync"):
            first = await anext(app.logger.watch_job("j1"))
        updates = [update async for update in app.logger.watch_job("j1", after_revision=first.job.revision)]
        assert [t.status for update in updates for t in update.transitions] == [v1.JOB_STATE_COMPLETED]
        assert updates[-1].job.ended

    async def test_a_closed_watch_frees_its_place(self) -> None:
        """Watches count towards the service's limit, and leaving early gives the place back."""
        settings = ServerSettings(watch=WatchSettings(max_watchers=1))

        async with opened([EndlessJobs(name="memory")], settings) as app:
            first = app.logger.watch_job("j1", wait_for_creation=True)
            assert (await anext(first)).heartbeat
            with pytest.raises(Unavailable, match=r"limit of server\.watch\.max_watchers"):
                await anext(app.logger.watch_job("j1", wait_for_creation=True))
            await first.aclose()
            second = app.logger.watch_job("j1", wait_for_creation=True)
            assert (await anext(second)).heartbeat
            await second.aclose()

    async def test_a_stop_ends_the_watches(self, tmp_path: Path) -> None:
        """Who watches while the service stops gets Unavailable, whichever task that is, and no task is cancelled."""
        async with opened(three_handlers(tmp_path)) as app:
            await app.logger.job("j1", "sync").queued()
            updates = app.logger.watch_job("j1")
            await anext(updates)
            watcher = asyncio.ensure_future(anext(updates))
            await asyncio.sleep(0)
            await app.service.stop()
            with pytest.raises(Unavailable):
                await watcher

    async def test_a_stop_ends_the_watches_of_any_source(self) -> None:
        """Where the handler for jobs does not end its watches, they end at the next heartbeat."""
        async with opened([EndlessJobs(name="memory")]) as app:
            updates = app.logger.watch_job("j1", wait_for_creation=True)
            assert (await anext(updates)).heartbeat
            await app.service.stop()
            with pytest.raises(Unavailable, match="going down"):
                await anext(updates)

    async def test_every_rpc_of_the_contract_can_be_asked(self, app: Opened) -> None:
        """By the name that a client has for it, whichever servicer answers."""
        for file in (log_service_pb2, audit_service_pb2):
            for service in file.DESCRIPTOR.services_by_name.values():
                for rpc in service.methods:
                    assert callable(app.logger._reader._served(f"{service.name}/{rpc.name}"))

    async def test_log_lines_can_be_read_here(self, app: Opened) -> None:
        """Listed and followed; the tail ends when the service stops."""
        logger = app.logger
        logger.info("one", job_id="j1")
        logger.error("two", job_id="j1")
        await logger.flush()
        lines = [line async for line in logger.log_lines(job_id="j1", newest_first=True)]
        assert [line.record.message for line in lines] == ["two", "one"]
        async with asyncio.timeout(10), aclosing(logger.tail_log_lines(last=1, min_level="ERROR")) as tail:
            while not (message := await anext(tail)).lines:
                pass
            assert [line.record.message for line in message.lines] == ["two"]
            logger.critical("three")
            assert [line.record.message for line in (await anext(tail)).lines] == ["three"]

    async def test_whatever_a_remote_client_reads_can_be_read_here(self, app: Opened) -> None:
        """The audit trail too; a stream ends with its reader, and says what is not there."""
        logger = app.logger
        receipt = await logger.audit("user.login", user_id="u1")
        (entry,) = [entry async for entry in logger.audit_events()]
        assert entry == await logger.audit_event(0)
        assert (await logger.checkpoint()).log_id == receipt.audit.log_id
        async with aclosing(logger.tail_audit_events(from_index=0)) as tail:
            async for message in tail:
                if message.entries:
                    break
            assert list(message.entries) == [entry]
        with pytest.raises(AuditNotFound, match="no-such-log"):
            await logger.checkpoint("no-such-log")
        async with logger.job("j1", "sync"), aclosing(logger.watch_jobs()) as jobs:
            assert [change.job.job_id for change in (await anext(jobs)).changes] == ["j1"]
            assert (await logger.request_cancel("j1", "enough")).cancel_requested
        history = await logger.job_history("j1")
        assert [transition.status for transition in history.transitions][-1] == v1.JOB_STATE_COMPLETED
        with pytest.raises(JobNotFound):
            await logger.job_history("nobody's")

    async def test_without_a_handler_for_jobs_the_question_is_refused(self) -> None:
        """A service that keeps no jobs says so."""
        async with opened([in_memory()]) as app:
            with pytest.raises(RequestRejected, match="no active handler serves jobs"):
                await app.logger.get_job("j1")


class TestLife:
    async def test_a_closed_client_says_so(self, app: Opened) -> None:
        """Plain calls are counted, awaited ones raise ClientNotOpen, also of bound loggers; closing twice is fine."""
        bound = app.logger.bind(user="u1")
        app.logger.info("in time")
        await app.logger.close()
        await app.logger.close()
        bound.info("late")
        with pytest.raises(ClientNotOpen, match="the client is closed"):
            await bound.audit("user.login", user_id="u1")
        with pytest.raises(ClientNotOpen):
            await anext(app.logger.list_jobs())
        other = app.service.client("other")
        other.info("still open")
        await other.flush(10)
        assert other.stats() == {"sent": 2, "dropped_closed": 1}

    async def test_a_client_of_a_service_that_is_not_running_says_so(self) -> None:
        """The message tells what to do."""
        with pytest.raises(ClientNotOpen, match="inside of its `async with`"):
            await LoggingService([in_memory()]).client().audit("user.login", user_id="u1")

    async def test_the_one_line_form_starts_and_stops_its_service(self, tmp_path: Path) -> None:
        """`async with InProcessClient.from_config(...)` is all that an application needs."""
        (tmp_path / "emitd.yml").write_text(CONFIG)
        async with InProcessClient.from_config(tmp_path / "emitd.yml", source="shop") as logger:
            async with logger.job("j1", "sync"):
                pass
            await logger.audit("user.login", user_id="u1")
        async with InProcessClient.from_config(tmp_path / "emitd.yml") as logger:
            job = await logger.get_job("j1")
        assert job is not None
        assert job.ended
        with pytest.raises(ClientNotOpen):
            await logger.get_job("j1")

    async def test_clients_from_threads_share_one_intake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A framework may ask for the first client in its thread pool, in several threads at once."""
        made: list[intake.Ingress] = []

        class SlowIntake(intake.Ingress):
            def __init__(self, *arguments: Any) -> None:
                time.sleep(0.05)  # so that the others arrive meanwhile
                made.append(self)
                super().__init__(*arguments)

        monkeypatch.setattr("emitd_server.in_process.client.Ingress", SlowIntake)
        async with LoggingService([in_memory()]) as service:
            barrier = threading.Barrier(4)

            def ask() -> None:
                barrier.wait(10)
                service.client("shop").info("from a thread")

            await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(4)))
            assert await service.client().flush(10)
            assert service.client().stats() == {"sent": 4}
        assert len(made) == 1

    async def test_a_service_can_be_started_again(self) -> None:
        """After a stop and a new start the same clients work."""
        memory = in_memory()
        service = LoggingService([memory])
        logger = service.client()
        for text in ("first", "second"):
            async with service:
                logger.info(text)
        assert [record.message for record in memory.records] == ["first", "second"]
