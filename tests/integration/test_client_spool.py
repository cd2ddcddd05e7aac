"""The client's spool: what is kept on the disk in an outage, and how it is sent when that is over."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from emitd.client import LogClient
from emitd.errors import Unavailable
from emitd.spool import manager as spool_manager
from emitd.testing import serving
from emitd.v1 import JobState
from emitd_server.settings import ServerSettings
from support.client.fake_log_service import accept, fail, fake_log_service, record_error
from support.client.in_process import three_handlers
from support.client.sending import (
    Gate,
    audit,
    clients_in,
    commit_job,
    drops,
    lines_refused,
    log,
    numbers,
    records,
    taken,
    too_large_for,
    until,
)
from support.processes.server_process import ServerProcess
from support.soak.server import free_port


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Callable[..., LogClient]]:
    with clients_in(tmp_path) as make:
        yield make


def test_it_is_replayed_in_order_and_one_batch_at_a_time(make_client: Callable[..., LogClient]) -> None:
    """Whatever `max_in_flight` is."""
    port = free_port()
    client = make_client(f"127.0.0.1:{port}", batch_records=7, max_in_flight=4)
    assert {audit(client, number, timeout=0.001).state for number in range(30)} == {"SPOOLED"}
    gate = Gate()
    gate.is_open.set()
    with fake_log_service(gate, port=port) as service:
        until(lambda: client.stats()["replayed"] == 30)
        assert numbers(records(service)) == list(range(30))
        assert gate.most == 1
        assert max(len(request.records) for request in service.requests) == 7
    assert client.stats()["spool_records"] == 0


def test_a_record_that_is_refused_is_put_aside_and_told_of(
    make_client: Callable[..., LogClient], tmp_path: Path
) -> None:
    """Those behind it are sent, and it stays on the disk for people to read."""
    port = free_port()
    client = make_client(f"127.0.0.1:{port}")
    for number in range(5):
        audit(client, number, timeout=0.001)
    with fake_log_service(lines_refused(record_error(1, "no such user")), accept, port=port) as service:
        until(lambda: client.stats()["replayed"] == 4 and drops(service))
        assert numbers(records(service)) == list(range(5))
        (drop,) = drops(service)
        assert (drop["dropped.level"], drop["dropped.cause"]) == ("AUDIT", "refused")
        assert "no such user" in drop["dropped.error"]
    assert client.stats()["spool_rejected"] == 1
    assert client.stats()["spool_records"] == 0
    client.close()
    assert list((tmp_path / "spool").glob("*.db"))


def test_a_service_that_refuses_the_sender_rejects_no_event(
    make_client: Callable[..., LogClient], capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake in the configuration, of the service or of the client, is no fault of what is in the spool."""
    port = free_port()
    client = make_client(f"127.0.0.1:{port}", backoff_initial=0.01)
    for number in range(5):
        audit(client, number, timeout=0.001)
    denied = fail(grpc.StatusCode.PERMISSION_DENIED, "not you")
    with fake_log_service(denied, denied, accept, port=port) as service:
        until(lambda: client.stats()["replayed"] == 5)
        assert numbers(records(service)[-5:]) == list(range(5))
    assert client.stats()["spool_rejected"] == 0
    assert capsys.readouterr().err.count("records are not taken: PERMISSION_DENIED: not you") == 1


def test_a_record_of_a_newer_version_waits_for_a_newer_service(
    make_client: Callable[..., LogClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service of this version refuses it as worth another try; those around it are sent, and it is kept."""
    port = free_port()
    append = spool_manager.SpoolManager.append

    def append_newer(self: spool_manager.SpoolManager, spooled: Sequence[bytes]) -> None:
        field_500 = b"\xa0\x1f\x07"
        append(self, [record + field_500 * (b"number-1" in record) for record in spooled])

    monkeypatch.setattr(spool_manager.SpoolManager, "append", append_newer)
    client = make_client(f"127.0.0.1:{port}")
    for number in range(4):
        audit(client, number, timeout=0.001, message=f"number-{number}")
    config = (
        f"server: {{listen: '127.0.0.1:{port}'}}\nhandlers: {{audit: {{type: json_audit, path: audit.log}}}}"
    )
    with ServerProcess.start(config, tmp_path):
        until(lambda: client.stats()["replayed"] == 3)
        assert (client.stats()["spool_records"], client.stats()["spool_rejected"]) == (1, 0)
    client.close()
    with fake_log_service(accept, port=port) as service:
        audit(make_client(f"127.0.0.1:{port}"), 9)
        until(lambda: sorted(numbers(records(service))) == [1, 9])


def test_a_spooled_record_that_is_too_large_does_not_block_the_rest(
    make_client: Callable[..., LogClient],
) -> None:
    """It is found by halves, and put aside."""
    port = free_port()
    client = make_client(f"127.0.0.1:{port}")
    for number in range(9):
        audit(client, number, timeout=0.001, message="x" * 3_000 if number == 2 else "")
    with fake_log_service(too_large_for(2_000), port=port) as service:
        until(lambda: client.stats()["replayed"] == 8)
        assert numbers(taken(service)) == [0, 1, 3, 4, 5, 6, 7, 8]
    assert client.stats()["spool_rejected"] == 1


def test_what_comes_when_it_had_been_emptied_is_sent_too(make_client: Callable[..., LogClient]) -> None:
    """The thread that sends it sleeps, and is woken."""
    gate = Gate()
    with fake_log_service(gate) as service:
        client = make_client(service.address, call_timeout=0.05)
        assert audit(client, 0, timeout=0.001).state == "SPOOLED"
        gate.is_open.set()
        until(lambda: client.stats()["replayed"] == 1)
        gate.is_open.clear()
        assert audit(client, 1, timeout=0.001).state == "SPOOLED"
        gate.is_open.set()
        until(lambda: client.stats()["replayed"] == 2)


def test_two_clients_of_a_process_share_a_folder(make_client: Callable[..., LogClient]) -> None:
    """Each has a file of its own there, and sends that."""
    port = free_port()
    clients = [make_client(f"127.0.0.1:{port}") for _ in range(2)]
    for number in range(10):
        assert audit(clients[number % 2], number, timeout=0.001).state == "SPOOLED"
    with fake_log_service(accept, port=port) as service:
        until(lambda: [client.stats()["replayed"] for client in clients] == [5, 5])
        assert sorted(numbers(records(service))) == list(range(10))


def test_what_another_left_behind_is_sent_also_by_a_client_that_was_there_before(
    make_client: Callable[..., LogClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for such now and then."""
    monkeypatch.setattr(spool_manager, "ADOPT_INTERVAL_SECONDS", 0.02)
    port = free_port()
    one, other = (make_client(f"127.0.0.1:{port}") for _ in range(2))
    audit(one, 0, timeout=0.001)
    audit(other, 1, timeout=0.001)
    with fake_log_service(accept, port=port) as service:
        until(lambda: one.stats()["replayed"] == 1 and other.stats()["replayed"] == 1)
        service.answer_with(fail(grpc.StatusCode.UNAVAILABLE, "later", retry_seconds=60.0))
        assert audit(other, 2, timeout=0.05).state == "SPOOLED"
        other.close(0.0)
        service.answer_with(accept)
        until(lambda: one.stats()["replayed"] == 2)
        assert numbers(records(service))[-1] == 2


def test_a_folder_that_cannot_be_written_is_said_once_and_done_without(
    make_client: Callable[..., LogClient], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then an event that is not committed in time is Unavailable."""
    (tmp_path / "file").touch()
    client = make_client(f"127.0.0.1:{free_port()}", spool=tmp_path / "file" / "spool")
    for number in range(3):
        with pytest.raises(Unavailable, match="not committed within") as caught:
            audit(client, number, timeout=0.01)
        assert caught.value.retryable
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("emitd: shop: there is no spool: cannot make a spool in ")


def test_a_full_spool_refuses_by_name(make_client: Callable[..., LogClient]) -> None:
    """The error says how much may be kept, and where."""
    client = make_client(f"127.0.0.1:{free_port()}", max_spool_bytes=1_000)
    assert audit(client, timeout=0.01).state == "SPOOLED"
    with pytest.raises(Unavailable, match="may keep 1000 bytes"):
        audit(client, timeout=0.01, message="x" * 1_000)
    assert client.stats()["spool_bytes"] <= 1_000


def test_all_records_are_spooled_where_that_is_asked_for(make_client: Callable[..., LogClient]) -> None:
    """Log lines of an outage, and the end of a job; they are there when the client was closed and another came."""
    with fake_log_service(commit_job) as service:
        port = int(service.address.split(":")[1])
        client = make_client(service.address, spool_records="all", timeout=1.0)
        job = client.job("j", "t")
        job.__enter__()
    log(client, 5)
    job.__exit__(None, None, None)
    until(lambda: client.stats()["spool_records"] == 6)
    client.close(0.0)
    with fake_log_service(accept, port=port) as service:
        other = make_client(f"127.0.0.1:{port}")
        other.info("here")
        until(lambda: other.stats()["replayed"] == 6)
        assert sorted(numbers(records(service))) == list(range(5))
        ends = [record.job.status for record in records(service) if record.HasField("job")]
        assert ends == [JobState.Value("JOB_STATE_COMPLETED")]


@pytest.mark.parametrize(("settings", "arguments"), [({}, {"require_commit": True}), ({"spool": "off"}, {})])
def test_without_a_spool_an_event_is_committed_or_fails(
    make_client: Callable[..., LogClient], settings: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """Nothing is written, and nothing is sent later."""
    port = free_port()
    client = make_client(f"127.0.0.1:{port}", **settings)
    with pytest.raises(
        Unavailable, match=r"not committed within 0\.02 s; it may still be: (UNAVAILABLE|no answer so far)"
    ):
        audit(client, timeout=0.02, **arguments)
    assert client.stats()["spool_records"] == 0
    with fake_log_service(accept, port=port) as service:
        assert audit(client, 1, **arguments).state == "COMMITTED"
        assert numbers(records(service)) == [1]


def test_a_server_that_hangs_costs_the_timeout_and_no_more(make_client: Callable[..., LogClient]) -> None:
    """Each of many callers gets SPOOLED in time, and the server each event once more when it goes on."""
    gate = Gate()
    with fake_log_service(gate) as service:
        client = make_client(service.address)
        audit_in_time = []

        def send(number: int) -> None:
            begin = time.monotonic()
            state = audit(client, number, timeout=0.3).state
            audit_in_time.append((state, 0.29 <= time.monotonic() - begin < 5))

        threads = [threading.Thread(target=send, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert audit_in_time == [("SPOOLED", True)] * 10
        gate.is_open.set()
        until(lambda: client.stats()["replayed"] == 10)
        ids = {n: r.record_id for n, r in zip(numbers(records(service)), records(service), strict=True)}
        assert {record.record_id for record in records(service)} == set(ids.values())


def test_events_of_two_programs_with_the_same_ids_come_home(
    make_client: Callable[..., LogClient], tmp_path: Path
) -> None:
    """From the spool too: neither is rejected for the id of the other."""
    port = free_port()
    settings = ServerSettings(listen=f"127.0.0.1:{port}")
    clients = [make_client(f"127.0.0.1:{port}", source=source) for source in ("shop", "till")]

    def send(timeout: float) -> list[str]:
        return [
            client.audit("order.create", user_id="u1", record_id="order-17", timeout=timeout).state
            for client in clients
        ]

    assert send(0.001) == ["SPOOLED", "SPOOLED"]
    with serving(three_handlers(tmp_path), settings):
        until(lambda: [client.stats()["replayed"] for client in clients] == [1, 1])
        assert send(10.0) == ["COMMITTED", "COMMITTED"]
    assert [client.stats()["spool_rejected"] for client in clients] == [0, 0]
    assert len((tmp_path / "audit.json.log").read_bytes().splitlines()) == 2
