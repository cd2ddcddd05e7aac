"""What both clients read, over a real service: many jobs, a job's history, the audit trail and its
proofs, log lines.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd import (
    AsyncLogClient,
    AuditNotFound,
    EmitError,
    JobNotFound,
    LeaseLost,
    LogClient,
    Receipt,
    ReceiptState,
    RequestRejected,
    Unavailable,
    VerificationFailed,
    v1,
)
from emitd.testing import serving
from emitd_handlers.audit.handler import JsonAuditHandler, JsonAuditSettings
from emitd_handlers.file import FileHandler
from emitd_handlers.jobs.database_url import DatabaseUrl
from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_server.settings import ServerSettings, WatchSettings
from support.audit.log_reader import verify_consistency
from support.soak.server import free_port

QUICK: dict[str, Any] = {
    "source": "reader",
    "tick_interval": 0.01,
    "backoff_initial": 0.01,
    "backoff_max": 0.02,
    "spool": "off",
}
LOG_ID = "example.com/log"


class Service:
    """A service with jobs and an audit log, which can go away and come back at its address."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._folder = folder
        self._running = ExitStack()
        self.start()

    def start(self) -> None:
        database = DatabaseUrl.resolve("sqlite:///jobs.db", self._folder)
        audit = JsonAuditSettings(
            path=self._folder / "audit.json.log", log_id=LOG_ID, checkpoint_seconds=0.02
        )
        handlers = [
            FileHandler(FileHandler.Settings(path=self._folder / "lines.jsonl"), name="lines"),
            DatabaseJobHandler(DatabaseJobHandler.Settings(database=database), name="jobs"),
            JsonAuditHandler(audit, name="audit"),
        ]
        settings = ServerSettings(listen=self.address, watch=WatchSettings(heartbeat_seconds=0.2))
        self._running.enter_context(serving(handlers, settings))

    def stop(self) -> None:
        self._running.close()

    @property
    def vkey(self) -> str:
        return (self._folder / "audit.json.log.vkey").read_text()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop()


@pytest.fixture
def client(service: Service) -> Iterator[LogClient]:
    with LogClient(service.address, **QUICK) as client:
        yield client


@pytest.fixture
async def async_client(service: Service) -> AsyncIterator[AsyncLogClient]:
    async with AsyncLogClient(service.address, **QUICK) as client:
        yield client


def audited(client: LogClient, count: int, name: str = "order.create") -> list[Receipt]:
    return [client.audit(name, user_id=f"u{number}", source_ip="192.0.2.7") for number in range(count)]


def send_event(service: Service, event_id: str, source: str) -> v1.AuditReceipt:
    """Send an audit event with an id of its own."""
    event = v1.AuditEvent(
        event_id=event_id, event_name="login", user_id="u1", source_ip="unknown", details_json="{}"
    )
    with grpc.insecure_channel(service.address) as channel:
        emit = v1.LogServiceStub(channel).Emit
        request = v1.EmitRequest(record=v1.LogRecord(source=source, audit=event))
        receipt: v1.AuditReceipt = emit(request).receipt.audit
        assert emit(request).receipt.duplicate
    return receipt


def told(message: v1.WatchJobsResponse) -> set[tuple[str, str, bool]]:
    return {
        (change.job.job_id, v1.JobState.Name(change.job.status)[10:], change.left_filter)
        for change in message.changes
    }


def next_news(watch: Iterator[Any]) -> Any:
    return next(message for message in watch if not message.heartbeat)


def snapshot(watch: Iterator[v1.WatchJobsResponse]) -> set[tuple[str, str, bool]]:
    """Read all jobs that match when a watch begins."""
    found: set[tuple[str, str, bool]] = set()
    for message in watch:
        found |= told(message)
        if message.snapshot_end:
            break
    return found


class TestJobs:
    def test_a_list_can_ask_for_ids_and_labels(self, client: LogClient) -> None:
        """As the command line's can."""
        for job_id, tenant in (("a", "acme"), ("b", "acme"), ("c", "other")):
            with client.job(job_id, "sync", labels={"tenant": tenant}):
                pass
        assert [job.job_id for job in client.list_jobs(job_ids=["a", "c"])] == ["c", "a"]
        assert [job.job_id for job in client.list_jobs(labels={"tenant": "acme"})] == ["b", "a"]

    def test_a_history_has_each_transition_of_each_attempt(self, client: LogClient) -> None:
        """Also after a revision alone; that of no job is an error."""
        with pytest.raises(KeyError), client.job("j", "sync"):
            raise KeyError
        with client.job("j", "sync"):
            pass
        history = client.job_history("j")
        assert [(change.attempt, v1.JobState.Name(change.status)[10:]) for change in history.transitions] == [
            (1, "RUNNING"),
            (1, "FAILED"),
            (2, "RUNNING"),
            (2, "COMPLETED"),
        ]
        assert not history.truncated
        later = client.job_history("j", after_revision=history.transitions[2].revision)
        assert later.transitions == history.transitions[3:]
        with pytest.raises(JobNotFound):
            client.job_history("other")

    def test_a_wish_to_cancel_reaches_the_job(self, client: LogClient) -> None:
        """The first reason counts; there must be such a job."""
        with client.job("j", "sync", total=1000) as job:
            asked = client.request_cancel("j", "too slow")
            assert (asked.cancel_requested, asked.cancel_reason, asked.ended) == (True, "too slow", False)
            give_up_at = time.monotonic() + 10
            while not job.cancel_requested and time.monotonic() < give_up_at:
                job.advance()
                time.sleep(0.01)
            assert job.cancel_requested
        assert client.request_cancel("j").ended
        with pytest.raises(JobNotFound):
            client.request_cancel("other")

    def test_a_watch_of_many_jobs_begins_with_all_that_match(self, client: LogClient) -> None:
        """Then come their changes, and what left the filter; others never come."""
        with client.job("before", "sync"), client.job("other", "backup"):
            watch = client.watch_jobs(job_type="sync", statuses=["RUNNING"])
            assert snapshot(watch) == {("before", "RUNNING", False)}
            with client.job("later", "sync"):
                assert told(next_news(watch)) == {("later", "RUNNING", False)}
            assert told(next_news(watch)) == {("later", "COMPLETED", True)}
        watch.close()  # type: ignore[attr-defined]

    def test_a_watch_of_many_jobs_goes_on_after_an_outage(self, service: Service, client: LogClient) -> None:
        """It tells what changed during it, and no more: not the snapshot again. A call reports the outage."""
        outages: list[EmitError | None] = []
        with pytest.raises(LeaseLost), client.job("same", "sync"), client.job("gone", "sync"):
            watch = client.watch_jobs(statuses="RUNNING", on_outage=outages.append)
            assert len(snapshot(watch)) == 2
            came: list[Any] = []
            reader = threading.Thread(target=lambda: came.append(next_news(watch)))
            service.stop()
            reader.start()
            give_up_at = time.monotonic() + 10
            while not outages and time.monotonic() < give_up_at:
                time.sleep(0.01)
            service.start()
            # `gone` is ended behind the client's back before the watch is back, or after: the result is the same.
            with LogClient(service.address, **QUICK) as other:
                gone = next(job for job in other.list_jobs(job_ids=["gone"]))
                report = v1.JobStatus(
                    job_id="gone", job_type="sync", status=v1.JOB_STATE_COMPLETED, attempt=gone.attempt
                )
                with grpc.insecure_channel(service.address) as channel:
                    record = v1.LogRecord(record_id="r", source="s", job=report)
                    v1.LogServiceStub(channel).Emit(v1.EmitRequest(record=record))
            reader.join()
            assert [(change.job.job_id, change.left_filter) for change in came[0].changes] == [("gone", True)]
            assert isinstance(outages[0], Unavailable)
            assert outages[-1] is None
            watch.close()  # type: ignore[attr-defined]

    def test_what_the_call_on_an_outage_raises_ends_the_watch(
        self, service: Service, client: LogClient
    ) -> None:
        """So that a program can lose patience."""

        class Enough(Exception):
            pass

        def lose_patience(error: EmitError | None) -> None:
            raise Enough from error

        watch = client.watch_jobs(on_outage=lose_patience)
        snapshot(watch)
        service.stop()
        with pytest.raises(Enough) as caught:
            list(watch)
        assert isinstance(caught.value.__cause__, Unavailable)

    def test_a_watch_without_a_server_raises_in_time(self) -> None:
        """As a question does."""
        with LogClient(f"127.0.0.1:{free_port()}", **QUICK, timeout=0.2) as client:
            for watch in (client.watch_jobs(), client.tail_audit_events(), client.tail_log_lines()):
                with pytest.raises(Unavailable):
                    next(watch)

    def test_a_question_that_makes_no_sense_names_its_field(self, client: LogClient) -> None:
        """Before anything is sent."""
        with pytest.raises(RequestRejected, match="statuses: 'DONE'"):
            next(client.watch_jobs(statuses=["DONE"]))
        with pytest.raises(RequestRejected, match="after_revision"):
            client.job_history("j", after_revision=-1)
        with pytest.raises(TypeError, match="user"):
            list(client.audit_events(user="u1"))  # type: ignore[call-arg]


class TestAudit:
    def test_events_are_listed_by_filters(self, client: LogClient) -> None:
        """From either end, over pages."""
        audited(client, 5)
        audited(client, 2, "login")
        assert [entry.leaf_index for entry in client.audit_events(page_size=2)] == list(range(7))
        assert [e.leaf_index for e in client.audit_events(event_name_prefix="log", newest_first=True)] == [
            6,
            5,
        ]
        assert [e.leaf_index for e in client.audit_events(user_id="u1", log_id=LOG_ID)] == [1, 6]
        assert list(client.audit_events(source_ip="unknown")) == []
        with pytest.raises(AuditNotFound):
            list(client.audit_events(log_id="other"))

    def test_one_event_is_found_by_its_id_and_by_its_index(self, client: LogClient) -> None:
        """The same entry; None if the log has none."""
        receipts = audited(client, 5)
        for receipt in receipts:
            entry = client.audit_event(receipt.audit.event_id)
            assert entry is not None
            assert (entry.leaf_index, entry.leaf_hash) == (receipt.audit.leaf_index, receipt.audit.leaf_hash)
            assert entry.record.audit.user_id == f"u{entry.leaf_index}"
            assert client.audit_event(entry.leaf_index) == entry
        assert client.audit_event("other") is None
        assert client.audit_event(99) is None
        with pytest.raises(RequestRejected):
            client.audit_event("")

    def test_an_event_is_found_by_its_id_and_its_source(self, service: Service, client: LogClient) -> None:
        """If several sources have an event with that id, the source is asked for, and the sources are named."""
        receipts = [send_event(service, "e1", source) for source in ("a", "b", "")]
        for receipt, source in zip(receipts, ("a", "b", ""), strict=True):
            entry = client.audit_event("e1", source=source)
            assert entry is not None
            assert (entry.leaf_index, entry.leaf_hash) == (receipt.leaf_index, receipt.leaf_hash)
            assert client.audit_event(receipt.leaf_index) == entry
            assert client.inclusion_proof("e1", source=source).leaf_index == receipt.leaf_index
        for ask in (client.audit_event, client.inclusion_proof):
            with pytest.raises(RequestRejected, match="'', 'a', 'b': name one") as caught:
                ask("e1")
            assert caught.value.field == "source"
        assert client.audit_event("e1", source="c") is None
        with pytest.raises(AuditNotFound):
            client.inclusion_proof("e1", source="c")

    def test_a_tail_goes_on_after_an_outage(self, service: Service, client: LogClient) -> None:
        """Each event comes once, in order, also what was committed before the tail began."""
        audited(client, 3)
        came: list[int] = []
        tail = client.tail_audit_events(from_index=1)

        def read_to(count: int) -> None:
            while len(came) < count:
                came.extend(entry.leaf_index for entry in next(tail).entries)

        read_to(2)
        service.stop()
        service.start()
        audited(client, 2)
        read_to(4)
        assert came == [1, 2, 3, 4]
        tail.close()  # type: ignore[attr-defined]
        with pytest.raises(AuditNotFound):
            next(client.tail_audit_events(from_index=99))

    def test_checkpoints_and_proofs_fit_together(self, client: LogClient) -> None:
        """An older checkpoint is a beginning of a newer one."""
        receipts = audited(client, 3)
        client.inclusion_proof(2)  # waits for the checkpoint
        old = client.checkpoint()
        receipts += audited(client, 4)
        proof = client.inclusion_proof(receipts[-1].audit.event_id)
        assert (proof.leaf_index, leaf_hash(proof.line)) == (6, receipts[-1].audit.leaf_hash)
        new = client.checkpoint(LOG_ID)
        consistent = client.consistency_proof(old.tree_size, new.tree_size)
        assert verify_consistency(
            old.tree_size, new.tree_size, old.root_hash, new.root_hash, list(consistent.hashes)
        )
        with pytest.raises(AuditNotFound):
            client.inclusion_proof("other")

    def test_a_receipt_is_verified_by_the_key(self, service: Service, client: LogClient) -> None:
        """As soon as a checkpoint covers it; the message of the receipt alone is enough."""
        for receipt in audited(client, 3):
            proof = client.verify_receipt(receipt, service.vkey)
            assert proof.leaf_index == receipt.audit.leaf_index
            assert client.verify_receipt(receipt.audit, service.vkey).leaf_index == proof.leaf_index

    def test_a_receipt_of_something_else_is_not_verified(self, service: Service, client: LogClient) -> None:
        """Another leaf, another place, another key, and one that cannot be verified at all."""
        first, second = audited(client, 2)
        moved = v1.AuditReceipt(log_id=LOG_ID, leaf_index=0, leaf_hash=second.audit.leaf_hash)
        with pytest.raises(VerificationFailed, match="line 0"):
            client.verify_receipt(moved, service.vkey)
        other_key = f"other+{service.vkey.split('+', 1)[1]}"
        with pytest.raises(RequestRejected, match="vkey"):
            client.verify_receipt(first, other_key)
        with pytest.raises(RequestRejected, match="vkey: is empty"):
            client.verify_receipt(first, " ")
        unknown = "example.org+8d2ba3d0+AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g"
        with pytest.raises((VerificationFailed, RequestRejected)):
            client.verify_receipt(first, unknown)
        spooled = Receipt(ReceiptState.SPOOLED, v1.Receipt(record_id="r"))
        with pytest.raises(RequestRejected, match="no audit event that is committed"):
            client.verify_receipt(spooled, service.vkey)

    def test_without_the_extra_the_error_names_it(
        self, service: Service, client: LogClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is missing, and what brings it."""
        receipt = audited(client, 1)[0]
        monkeypatch.setitem(__import__("sys").modules, "emitd_handlers.tlog.note", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'emitd\[audit\]'"):
            client.verify_receipt(receipt, service.vkey)


class TestLines:
    def test_lines_are_listed_by_filters(self, client: LogClient) -> None:
        """From either end, over pages; every field of the record comes back."""
        for number in range(5):
            client.info(f"line {number}", number=number, job_id="j1" if number % 2 else "j2")
        client.error("Timeout", job_id="j1")
        client.flush()
        lines = list(client.log_lines(page_size=2))
        assert [line.record.message for line in lines] == [*(f"line {n}" for n in range(5)), "Timeout"]
        assert (lines[0].record.level, lines[0].record.source) == (v1.LEVEL_INFO, "reader")
        assert lines[0].record.attributes_json == '{"number":0,"job_id":"j2"}'
        assert lines[0].receive_time_unix_nano >= lines[0].record.time_unix_nano > 0

        def found(**wanted: Any) -> list[str]:
            return [line.record.message for line in client.log_lines(**wanted)]

        assert found(newest_first=True, page_size=4)[:2] == ["Timeout", "line 4"]
        assert found(min_level="WARNING") == found(text="timeOUT") == ["Timeout"]
        assert found(job_id="j1") == ["line 1", "line 3", "Timeout"]
        assert found(sources=["other", "read*"]) == found(since=timedelta(hours=1)) == found()
        assert found(sources="other") == found(until=timedelta(hours=1)) == []
        assert found(since=lines[-1].receive_time_unix_nano)[-1] == "Timeout"
        with pytest.raises(RequestRejected, match=r"filter\.text: has 300 bytes"):
            found(text="x" * 300)

    def test_a_tail_goes_on_after_an_outage(self, service: Service, client: LogClient) -> None:
        """Each line comes once, in order, also of the time when it was away; a call reports the outage."""
        client.info("0")
        client.flush()
        outages: list[EmitError | None] = []
        came: list[str] = []
        tail = client.tail_log_lines(last=1, sources="read*", on_outage=outages.append)

        def read_to(count: int) -> None:
            while len(came) < count:
                message = next(tail)
                assert not message.missed_count
                assert not message.history_truncated
                came.extend(line.record.message for line in message.lines)

        def log(*messages: str) -> None:
            for message in messages:
                client.info(message)
            assert client.flush(10)

        read_to(1)
        log("1", "2")
        read_to(3)
        service.stop()
        service.start()
        log("3", "4")
        read_to(5)
        assert came == ["0", "1", "2", "3", "4"]
        assert isinstance(outages[0], Unavailable)
        assert outages[-1] is None
        tail.close()  # type: ignore[attr-defined]
        with pytest.raises(RequestRejected, match="last: is 1001, more than 1000"):
            list(client.tail_log_lines(last=1001))


async def test_the_asynchronous_client_reads_lines_and_goes_on(
    service: Service, async_client: AsyncLogClient
) -> None:
    """As the other one does."""
    async_client.info("0")
    await async_client.flush()
    assert [line.record.message async for line in async_client.log_lines(min_level=20)] == ["0"]
    came: list[str] = []
    async with asyncio.timeout(20), aclosing(async_client.tail_log_lines(since=timedelta(hours=1))) as tail:
        while not came:
            came += [line.record.message for line in (await anext(tail)).lines]
        await asyncio.to_thread(service.stop)
        await asyncio.to_thread(service.start)
        async_client.info("1")
        while len(came) < 2:
            came += [line.record.message for line in (await anext(tail)).lines]
    assert came == ["0", "1"]


async def test_the_asynchronous_client_reads_the_same(service: Service, async_client: AsyncLogClient) -> None:
    """Every call, once."""
    async with async_client.job("j", "sync", labels={"tenant": "acme"}):
        async with asyncio.timeout(10), aclosing(async_client.watch_jobs(labels={"tenant": "acme"})) as watch:
            assert told(await anext(watch)) == {("j", "RUNNING", False)}
        assert (await async_client.request_cancel("j", "why")).cancel_reason == "why"
    assert [change.status for change in (await async_client.job_history("j")).transitions] == [
        v1.JOB_STATE_RUNNING,
        v1.JOB_STATE_COMPLETED,
    ]
    assert [job.job_id async for job in async_client.list_jobs(job_ids="j")] == ["j"]
    receipt = await async_client.audit("login", user_id="u1")
    assert (await async_client.verify_receipt(receipt, service.vkey)).leaf_index == 0
    assert [entry.leaf_index async for entry in async_client.audit_events(user_id="u1")] == [0]
    for source in ("a", "b"):
        await asyncio.to_thread(send_event, service, "e1", source)
    with pytest.raises(RequestRejected, match="'a', 'b'"):
        await async_client.audit_event("e1")
    with pytest.raises(RequestRejected, match="'a', 'b'"):
        await async_client.inclusion_proof("e1")
    for index, source in ((1, "a"), (2, "b")):
        found = await async_client.audit_event("e1", source=source)
        assert found is not None
        assert (
            found.leaf_index == (await async_client.inclusion_proof("e1", source=source)).leaf_index == index
        )
    entry = await async_client.audit_event(0)
    assert entry is not None
    assert entry == await async_client.audit_event(receipt.audit.event_id)
    assert (await async_client.checkpoint()).tree_size == 3
    assert (await async_client.inclusion_proof(0)).line == entry.line
    assert list((await async_client.consistency_proof(3)).hashes) == []
    async with asyncio.timeout(10), aclosing(async_client.tail_audit_events(from_index=0)) as tail:
        while not (message := await anext(tail)).entries:
            pass
        assert message.entries[0] == entry


async def test_an_asynchronous_tail_goes_on_after_an_outage(
    service: Service, async_client: AsyncLogClient
) -> None:
    """As the other one does."""
    await async_client.audit("login", user_id="u1")
    came: list[int] = []
    async with asyncio.timeout(20), aclosing(async_client.tail_audit_events(from_index=0)) as tail:
        while not came:
            came += [entry.leaf_index for entry in (await anext(tail)).entries]
        await asyncio.to_thread(service.stop)
        await asyncio.to_thread(service.start)
        await async_client.audit("login", user_id="u1")
        while len(came) < 2:
            came += [entry.leaf_index for entry in (await anext(tail)).entries]
    assert came == [0, 1]
