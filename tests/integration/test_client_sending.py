"""How the client sends: in batches, again where the service says so, to several servers; and what it tells of drops."""

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from emitd.client import LogClient
from emitd.errors import RecordRejected
from emitd.v1 import JobState
from emitd_server.settings import LimitSettings, ServerSettings
from support.client.fake_log_service import accept, fail, fake_log_service, record_error, refuse
from support.client.in_process import running, three_handlers
from support.client.sending import (
    Gate,
    audit,
    clients_in,
    commit_job,
    drops,
    job_reports,
    lines_refused,
    log,
    numbers,
    records,
    taken,
    too_large_for,
    until,
)
from support.soak.server import free_port


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Callable[..., LogClient]]:
    with clients_in(tmp_path) as make:
        yield make


class TestBatches:
    def test_a_batch_has_at_most_so_many_records_in_their_order(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """Full ones go out by themselves, the last one by the flush."""
        with fake_log_service(accept) as service:
            client = make_client(service.address, batch_records=10, linger=60.0, max_in_flight=1)
            log(client, 35)
            until(lambda: len(service.requests) == 3)  # those that are full go out by themselves
            assert client.flush(10)
            assert [len(request.records) for request in service.requests] == [10, 10, 10, 5]
            assert numbers(records(service)) == list(range(35))

    def test_a_batch_has_at_most_so_many_bytes(self, make_client: Callable[..., LogClient]) -> None:
        """But at least one record, however large."""
        with fake_log_service(accept) as service:
            client = make_client(service.address, batch_bytes=8_000, linger=60.0, max_in_flight=1)
            for size in (1_000,) * 12 + (20_000,):
                client.info("x" * size)
            assert client.flush(10)
            sizes = [request.ByteSize() for request in service.requests]
            assert max(sizes[:-1]) <= 8_000 < sizes[-1]
            assert len(records(service)) == 13
            assert len(sizes) < 6

    def test_a_line_waits_for_its_batch_no_longer_than_the_linger(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """Those that come meanwhile go with it."""
        with fake_log_service(accept) as service:
            client = make_client(service.address, linger=1.0)
            begin = time.monotonic()
            log(client, 3)
            until(lambda: service.requests)
            assert time.monotonic() - begin >= 0.99
            assert numbers(records(service)) == [0, 1, 2]

    def test_so_many_batches_are_under_way_at_once(self, make_client: Callable[..., LogClient]) -> None:
        """And no more."""
        gate = Gate()
        with fake_log_service(gate) as service:
            client = make_client(service.address, batch_records=5, max_in_flight=3)
            log(client, 50)
            until(lambda: gate.now == 3)
            gate.is_open.set()
            assert client.flush(10)
            assert gate.most == 3
            assert sorted(numbers(records(service))) == list(range(50))

    def test_audit_events_share_a_call_while_others_are_under_way(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """Forty callers at once need a few calls."""
        gate = Gate()
        with fake_log_service(gate) as service:
            client = make_client(service.address)
            threads = [threading.Thread(target=audit, args=(client, number)) for number in range(40)]
            threads[0].start()
            until(lambda: gate.now == 1)
            for thread in threads[1:]:
                thread.start()
            until(lambda: client.stats()["awaited"] == 40 and gate.now == 2)
            gate.is_open.set()
            for thread in threads:
                thread.join()
            assert len(service.requests) <= 4
            assert sorted(numbers(records(service))) == list(range(40))

    def test_ticks_of_a_job_coalesce_and_changes_of_its_status_never(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """The last tick before the end says where the job was, or the end does."""
        with fake_log_service(commit_job) as service:
            client = make_client(service.address, tick_interval=0.05)
            for _ in range(3):
                with client.job("j", "t", total=500) as job:
                    for _ in range(450):
                        job.advance()
                    until(lambda: job_reports(service)[-1].progress == 90)
            statuses = [JobState.Name(report.status) for report in job_reports(service)]
            assert [status for status in statuses if status == "JOB_STATE_COMPLETED"] == [
                "JOB_STATE_COMPLETED"
            ] * 3
            assert sum(report.new_attempt for report in job_reports(service)) == 3
            assert statuses[0] == "JOB_STATE_RUNNING"
            assert len(statuses) < 3 * (2 + 10)


class TestReplies:
    def test_each_line_of_a_batch_has_its_own_fate(self, make_client: Callable[..., LogClient]) -> None:
        """One is refused and told of, one is sent again under its id, the others were accepted."""
        errors = record_error(1, "too odd"), record_error(2, "later", retry_seconds=0.0)
        with fake_log_service(lines_refused(*errors), accept) as service:
            client = make_client(service.address, linger=60.0)
            log(client, 4)
            assert client.flush(10)
            until(lambda: drops(service))
            assert numbers(records(service)) == [0, 1, 2, 3, 2]
            twice = Counter(record.record_id for record in records(service)).most_common(1)
            assert twice == [(service.requests[0].records[2].record_id, 2)]
            (drop,) = drops(service)
            assert (drop["dropped.count"], drop["dropped.cause"]) == (1, "refused")
            assert "too odd" in drop["dropped.error"]
            assert client.stats()["dropped_refused"] == 1
            # The service has a line before the client has its answer.
            until(lambda: client.stats()["sent"] >= 3 + 1)
            assert client.stats()["sent"] == 3 + 1

    @pytest.mark.parametrize("kind", ["line", "audit", "spooled"])
    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
    def test_the_delay_that_the_service_asks_for_is_kept(
        self, make_client: Callable[..., LogClient], code: grpc.StatusCode, kind: str
    ) -> None:
        """By RetryInfo for the whole call; its own back-off would be much shorter."""
        answer = LaterOnce(code)
        port = free_port()
        client = make_client(f"127.0.0.1:{port}", timeout=0.05 if kind == "spooled" else 10.0)
        if kind == "spooled":
            audit(client)
        with fake_log_service(answer, port=port):
            if kind == "line":
                log(client, 1)
            elif kind == "audit":
                audit(client)
            until(lambda: len(answer.moments) == 2)
        assert 0.29 <= answer.moments[1] - answer.moments[0] < 3

    def test_a_record_that_the_service_can_take_later_keeps_its_delay_too(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """By RetryInfo for one record; it keeps its id."""
        with fake_log_service(refuse(record_error(0, "later", retry_seconds=0.2)), accept) as service:
            begin = time.monotonic()
            assert audit(make_client(service.address)).state == "COMMITTED"
            assert time.monotonic() - begin >= 0.19
            assert len({record.record_id for record in records(service)}) == 1

    def test_what_the_service_did_not_answer_in_time_is_sent_again(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """Under the same id: it may have been committed."""
        gate = Gate()
        with fake_log_service(gate, accept, gate, accept) as service:
            client = make_client(service.address, call_timeout=1.0)
            assert audit(client).state == "COMMITTED"
            log(client, 1)
            assert client.flush(10)
            gate.is_open.set()
            first, again, line, line_again = records(service)
            assert first == again
            assert line == line_again
            assert client.stats()["resent"] == 2

    @pytest.mark.parametrize("listens", [False, True])
    def test_what_never_left_is_not_counted_as_sent_again(
        self, make_client: Callable[..., LogClient], listens: bool
    ) -> None:
        """Without a server, and with one that takes connections and says nothing; also at the client's end."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if listens:
                listener.listen()
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            client = make_client(address, call_timeout=0.1, timeout=0.5, spool_records="all")
            log(client, 3)
            assert audit(client).state == "SPOOLED"
            log(client, 3)
            client.close(0.3)
            assert client.stats().get("resent", 0) == 0
            assert client.stats()["spooled"] == 7

    def test_what_the_service_asked_to_send_later_is_not_counted_as_sent_again(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """It has said that it did not take it."""
        busy = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_seconds=0.05)
        with fake_log_service(busy, busy, accept) as service:
            client = make_client(service.address)
            assert audit(client).state == "COMMITTED"
            assert len(service.requests) == 3
            assert client.stats().get("resent", 0) == 0

    @pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION])
    def test_what_the_service_refuses_for_good_is_sent_once(
        self, make_client: Callable[..., LogClient], code: grpc.StatusCode
    ) -> None:
        """An audit event fails at once and is not spooled; a log line is dropped."""
        with fake_log_service(fail(code, "no")) as service:
            client = make_client(service.address)
            with pytest.raises(RecordRejected, match="no"):
                audit(client)
            assert len(service.requests) == 1
            log(client, 1)
            assert client.flush(10)
            until(lambda: client.stats().get("dropped_refused") == 1)
            assert Counter(record.record_id for record in records(service)).most_common(1)[0][1] == 1
            assert client.stats()["spool_records"] == 0

    def test_a_batch_that_is_too_large_is_halved_until_only_the_one_to_blame_is_dropped(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """By RESOURCE_EXHAUSTED without RetryInfo; its neighbours arrive, and the drop_report tells of it."""
        with fake_log_service(too_large_for(2_000)) as service:
            client = make_client(service.address, linger=60.0)
            log(client, 7)
            client.info("x" * 3_000)
            log(client, 9, first=7)
            assert client.flush(10)
            until(lambda: drops(service))
            assert len(service.requests[0].records) == 17
            assert set(numbers(taken(service))) == set(range(16))
            (drop,) = drops(service)
            assert (drop["dropped.count"], drop["dropped.cause"]) == (1, "refused")
            assert "RESOURCE_EXHAUSTED" in drop["dropped.error"]

    def test_an_audit_event_that_is_too_large_fails_alone(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """Those that shared its call are committed."""
        gate = Gate(too_large_for(2_000))
        answers: dict[int, object] = {}
        with fake_log_service(gate) as service:
            client = make_client(service.address, max_in_flight=1)

            def send(number: int) -> None:
                try:
                    answers[number] = audit(client, number, message="x" * 3_000 if number == 4 else "").state
                except RecordRejected as error:
                    answers[number] = error

            threads = [threading.Thread(target=send, args=(number,)) for number in range(9)]
            for thread in threads:
                thread.start()
            until(lambda: client.stats()["awaited"] == 9)
            gate.is_open.set()
            for thread in threads:
                thread.join()
        assert isinstance(answers.pop(4), RecordRejected)
        assert set(answers.values()) == {"COMMITTED"}
        assert len(answers) == 8


class LaterOnce:
    """Fails the first call; notes when each came."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.moments: list[float] = []
        self._fail = fail(code, "later", retry_seconds=0.3)

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.moments.append(time.monotonic())
        return (accept if self.moments[1:] else self._fail)(request, context)


async def test_a_refused_audit_event_names_the_field_at_fault(tmp_path: Path) -> None:
    """By the words of a real service."""
    async with running(three_handlers(tmp_path)) as server:
        with LogClient(server.address, spool="off") as client:
            with pytest.raises(RecordRejected) as caught:
                await in_thread(lambda: client.audit("x", user_id=""))
            assert caught.value.field == "audit.user_id"
            with pytest.raises(RecordRejected) as caught:
                await in_thread(lambda: client.audit("x", user_id="u", source_ip="no address"))
            assert caught.value.field == "audit.source_ip"
            await in_thread(client.close)


async def test_a_real_service_gets_all_but_the_record_that_is_too_large_for_it(tmp_path: Path) -> None:
    """The batch with it is refused as a whole, and gets there in parts."""
    limits = LimitSettings(max_request_bytes=20_000)
    settings = ServerSettings(listen="127.0.0.1:0", limits=limits)
    handlers = three_handlers(tmp_path)
    async with running(handlers, settings) as server:
        client = LogClient(server.address, spool="off", linger=60.0, source="shop")
        log(client, 100)
        client.info("x" * 30_000)
        log(client, 100, first=100)
        await in_thread(client.close)
        lines = await handlers[0].wait_for(201)  # type: ignore[attr-defined]
    numbers = [json.loads(line.attributes_json).get("n") for line in lines]
    assert sorted(number for number in numbers if number is not None) == list(range(200))
    assert client.stats()["dropped_refused"] == 1


async def test_attributes_that_a_real_service_refuses_cost_no_line(tmp_path: Path) -> None:
    """They become the beginning of their text, with the reason; the neighbours get there too."""
    attributes = {"blob": "x" * 70_000}
    handlers = three_handlers(tmp_path)
    async with running(handlers) as server:
        client = LogClient(server.address, spool="off", source="shop")
        client.info("before")
        client.info("odd", **attributes)
        client.info("after")
        await in_thread(client.close)
        lines = await handlers[0].wait_for(3)  # type: ignore[attr-defined]
    (told,) = [json.loads(line.attributes_json) for line in lines if line.message == "odd"]
    assert sorted(line.message for line in lines) == ["after", "before", "odd"]
    assert json.dumps(attributes).replace(" ", "").startswith(told["attributes.text"][:100])
    assert "attributes_json: " in told["attributes.refused"]
    assert client.stats()["sent"] == 3


def test_attributes_are_mended_once(make_client: Callable[..., LogClient]) -> None:
    """A service that refuses the text too gets no third try: the line is dropped, and counted."""
    refused = record_error(0, "attributes_json: no")
    violation = error_details_pb2.BadRequest.FieldViolation(field="records[0].attributes_json")
    refused.status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    with fake_log_service(lines_refused(refused), lines_refused(refused), accept) as service:
        client = make_client(service.address)
        client.info("odd", a=1)
        client.close()
        assert [record.message for record in records(service)][:2] == ["odd", "odd"]
    assert client.stats()["dropped_refused"] == 1


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


#: Batches leave when they are full: how fast a test logs must not decide what is in them.
SMALL = {"max_queue_records": 20, "batch_records": 10, "max_in_flight": 1, "linger": 30.0}


class TestOverflow:
    @pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
    def test_what_an_outage_cost_is_told_when_it_is_over(
        self, make_client: Callable[..., LogClient], overflow: str
    ) -> None:
        """How many, of which level and source, why, and from when to when."""
        port, begin = free_port(), time.time()
        client = make_client(f"127.0.0.1:{port}", overflow=overflow, **SMALL)
        log(client, 200)
        until(lambda: client.stats()["queued"] == 20)
        log(client, 100, first=200)
        end = time.time()
        with fake_log_service(accept, port=port) as service:
            until(lambda: client.flush(10) and drops(service) and not client.stats()["queued"])
            arrived = numbers(records(service))
            told = drops(service)
        assert len(set(arrived)) == len(arrived)
        # A batch that was on its way counts neither as new nor as old.
        kept = set(range(280, 300)) if overflow == "drop_oldest" else set(range(20))
        assert kept <= set(arrived)
        assert len(arrived) <= 30
        assert sum(drop["dropped.count"] for drop in told) == 300 - len(arrived)
        assert {drop["dropped.cause"] for drop in told} == {"queue_full"}
        assert {(drop["dropped.level"], drop["dropped.source"]) for drop in told} == {("INFO", "shop")}
        for drop in told:
            assert (
                begin - 0.002 <= seconds(drop["dropped.from"]) <= seconds(drop["dropped.to"]) <= end + 0.002
            )
        assert client.stats()["dropped_queue_full"] == 300 - len(arrived)

    def test_a_blocked_caller_waits_for_room_and_only_so_long(
        self, make_client: Callable[..., LogClient]
    ) -> None:
        """In an outage each line then costs its caller that time, and is dropped."""
        port = free_port()
        client = make_client(f"127.0.0.1:{port}", overflow="block(2.0)", **SMALL)
        log(client, 20)
        until(lambda: client.stats()["queued"] == 10)
        log(client, 10, first=20)
        begin = time.monotonic()
        client.info("too much", n=30)
        assert 1.99 <= time.monotonic() - begin < 10
        assert client.stats()["dropped_queue_full"] == 1
        with fake_log_service(accept, port=port) as service:
            until(lambda: client.stats()["queued"] == 0)
            log(client, 200, first=31)
            assert client.flush(10)
            until(lambda: drops(service))
            assert sorted(numbers(records(service))) == [*range(30), *range(31, 231)]

    def test_drops_are_said_on_standard_error_once_in_an_interval(
        self, make_client: Callable[..., LogClient], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The first one at once, then what came together since."""
        client = make_client(f"127.0.0.1:{free_port()}", **SMALL)
        log(client, 500)
        assert capsys.readouterr().err == "emitd: shop: dropped 1 record: queue_full\n"
        client._engine.drop_report._last_told = time.monotonic() - client.settings.report_interval
        dropped = client.stats()["dropped_queue_full"]
        log(client, 50)
        assert capsys.readouterr().err == f"emitd: shop: dropped {dropped} records: queue_full\n"


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


class TestAddresses:
    @pytest.mark.parametrize("form", ["dns:///localhost:{}", "localhost:{}", "127.0.0.1:{0},localhost:{0}"])
    def test_a_server_is_found_by_any_form_of_its_address(
        self, make_client: Callable[..., LogClient], form: str
    ) -> None:
        """A name that is looked up by grpc, or by the client, and several."""
        with fake_log_service(accept) as service:
            client = make_client(form.format(service.address.split(":")[1]))
            assert audit(client).state == "COMMITTED"

    def test_several_servers_are_used_in_turn(self, make_client: Callable[..., LogClient]) -> None:
        """Every other call goes to each."""
        with fake_log_service(accept) as one, fake_log_service(accept) as other:
            client = make_client(f"{one.address}, {other.address}")
            until(lambda: audit(client) and one.requests and other.requests)
            before = len(one.requests)
            for number in range(10):
                audit(client, number)
            assert len(one.requests) - before == 5
