"""Faults: replies that would be large, readers that take nothing, and peers that are gone."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from emitd.transport.channel import OPTIONS
from emitd.v1 import LogServiceStub, audit_service_pb2, job_pb2, log_service_pb2, record_pb2
from support.access.known_peer import GuardedServer, connect, token_of
from support.processes.server_process import ServerProcess

#: Real processes that wait for clocks, signals and retries.
pytestmark = pytest.mark.slow

MAX_REPLY_BYTES = 2 * 1024 * 1024
CONFIG = """
server:
  listen: "127.0.0.1:0"
  watch: {stall_seconds: 1}
handlers:
  jobs: {type: database_job, levels: [JOB_STATUS], database: "sqlite:///jobs.db"}
  audit: {type: json_audit, levels: [AUDIT], path: audit.json.log}
"""
#: Of a reader that takes nothing.
SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 65_535), ("grpc.use_local_subchannel_pool", 1))
RUNNING, FAILED = record_pb2.JOB_STATE_RUNNING, record_pb2.JOB_STATE_FAILED


@pytest.fixture(params=["open", "token"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that asks nobody, or one whose peers have a valid token: the verdicts are the same."""
    start = ServerProcess.start if request.param == "open" else GuardedServer.guarded
    with start(CONFIG, tmp_path) as server:
        yield server


@contextmanager
def connected(server: ServerProcess) -> Iterator[LogServiceStub]:
    limit = ("grpc.max_receive_message_length", MAX_REPLY_BYTES)
    with connect(server, options=[limit]) as channel:
        yield LogServiceStub(channel)


def job(**fields: Any) -> record_pb2.LogRecord:
    return record_pb2.LogRecord(job=record_pb2.JobStatus(**{"job_type": "t", "status": RUNNING} | fields))


def emit(
    stub: LogServiceStub, *records: record_pb2.LogRecord, **fields: Any
) -> log_service_pb2.EmitBatchResponse:
    return stub.EmitBatch(log_service_pb2.EmitBatchRequest(records=records, **fields))


def make_long_history(stub: LogServiceStub, attempts: int = 60, size: int = 100_000) -> None:
    for attempt in range(1, attempts + 1):
        emit(stub, job(job_id="long", status=FAILED, attempt=attempt, failure_message="x" * size))


def test_a_batch_of_refusals_has_a_small_reply(server: ServerProcess) -> None:
    """The first hundred say why; each of the others has its index, its code, and whether to try again."""
    with connected(server) as stub:
        reply = emit(stub, *[job(job_id="ä" * 140) for _ in range(9_800)])
    assert reply.ByteSize() < MAX_REPLY_BYTES // 4
    assert [error.index for error in reply.errors] == list(range(9_800))
    assert all(error.status.details and "job_id" in error.status.message for error in reply.errors[:100])
    assert all(error.status.code == 3 and not error.status.message for error in reply.errors[100:])
    assert not any(error.retryable for error in reply.errors)


def test_a_batch_of_notices_has_a_small_reply(server: ServerProcess) -> None:
    """The ids of jobs are left out where they are too many; the places in the batch are complete."""
    ids = [f"{number:05}" + "j" * 250 for number in range(9_000)]
    with connected(server) as stub:
        for start in (0, 4_500):
            emit(stub, *[job(job_id=job_id, attempt=2) for job_id in ids[start : start + 4_500]])
        reply = emit(stub, *[job(job_id=job_id) for job_id in ids])
    assert reply.ByteSize() < MAX_REPLY_BYTES // 2
    assert [notice.index for notice in reply.job_notices] == list(range(9_000))
    assert {notice.stale_reason for notice in reply.job_notices} == {"SUPERSEDED"}
    assert [notice.job_id for notice in reply.job_notices[:1000]] == ids[:1000]


def test_receipts_that_could_not_fit_are_refused_before_anything_is_committed(server: ServerProcess) -> None:
    """The error names the field and the limit; without receipts the same batch is taken."""
    records = [job(job_id=f"j{number}") for number in range(9_000)]
    for number, record in enumerate(records):
        record.record_id = f"{number:06}" + "r" * 200
    with connected(server) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            emit(stub, *records, want_receipts=True)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "want_receipts: 9000 receipts may have" in str(caught.value.details())
        assert "more than 1048576" in str(caught.value.details())
        assert not stub.ListJobs(job_pb2.ListJobsRequest()).jobs
        assert emit(stub, *records).accepted_count == 9_000
        reply = emit(stub, *records[:2_000], want_receipts=True)
    assert (reply.duplicate_count, len(reply.receipts)) == (2_000, 2_000)


def test_an_error_is_small_whatever_was_sent(server: ServerProcess) -> None:
    """Its text and its details together, as they travel, are under 4 KiB."""
    with connected(server) as stub:
        for text in ("x" * 100_000, "ä" * 50_000, "\U0001f600" * 30_000, "%" * 100_000, "\x01" * 100_000):
            for call in (
                lambda text=text: stub.GetJob(job_pb2.GetJobRequest(job_id=text)),
                lambda text=text: stub.ListJobs(job_pb2.ListJobsRequest(page_token=text)),
                lambda text=text: stub.Emit(log_service_pb2.EmitRequest(record=job(job_id=text))),
                lambda text=text: stub.RequestCancel(job_pb2.RequestCancelRequest(job_id="j", reason=text)),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                error = caught.value
                trailers = dict(error.trailing_metadata())
                details = trailers["grpc-status-details-bin"]
                assert 3 * len(str(error.details()).encode()) + len(details) * 4 // 3 < 4096


def test_a_long_history_comes_in_parts(server: ServerProcess, tmp_path: Path) -> None:
    """Every transition once and in order, whatever the size; the last part has the state."""
    with connected(server) as stub:
        make_long_history(stub)
        parts = list(stub.WatchJob(job_pb2.WatchJobRequest(job_id="long", after_revision=0)))
        assert len(parts) > 10
        assert max(part.ByteSize() for part in parts) < MAX_REPLY_BYTES // 2
        assert [item.revision for part in parts for item in part.transitions] == list(range(1, 61))
        assert [part.has_more for part in parts] == [True] * (len(parts) - 1) + [False]
        assert [part.job.ended for part in parts] == [False] * (len(parts) - 1) + [True]
        assert (parts[-1].job.attempt, parts[-1].job.revision) == (60, 60)
        # A reader that knows nothing of parts goes on where it was.
        middle = parts[4].job.revision
        rest = list(stub.WatchJob(job_pb2.WatchJobRequest(job_id="long", after_revision=middle)))
        assert [item.revision for part in rest for item in part.transitions] == list(range(middle + 1, 61))
        pages, token = [], ""
        while token or not pages:
            request = job_pb2.ListJobTransitionsRequest(job_id="long", page_size=1000, page_token=token)
            pages.append(stub.ListJobTransitions(request))
            token = pages[-1].next_page_token
        assert max(page.ByteSize() for page in pages) <= MAX_REPLY_BYTES
        assert [item.revision for page in pages for item in page.transitions] == list(range(1, 61))
    lines = _watch(server, tmp_path)
    assert len(lines) == 60
    assert [line.count("COMPLETED") + line.count("FAILED") > 0 for line in lines] == [True] * 60
    messages = [json.loads(line) for line in _watch(server, tmp_path, "--json")]
    assert sum(len(message.get("transitions", [])) for message in messages) == 60


def _watch(server: ServerProcess, folder: Path, *flags: str) -> list[str]:
    command = [sys.executable, "-m", "emitd_cli", "job", "watch", "long", "--after-revision", "0", *flags]
    run = subprocess.run(
        [*command, "--address", server.address],
        cwd=folder,
        env={**os.environ, "EMITD_TOKEN": token_of(server)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1, run.stderr  # the job has failed
    return run.stdout.splitlines()


def test_a_history_of_many_small_transitions_comes_in_parts(server: ServerProcess) -> None:
    """A thousand at most in each."""
    with connected(server) as stub:
        emit(stub, *[job(job_id="long", attempt=attempt) for attempt in range(1, 3_501)])
        parts = list(_until_last(stub.WatchJob(job_pb2.WatchJobRequest(job_id="long", after_revision=0))))
    assert [len(part.transitions) for part in parts] == [1000, 1000, 1000, 500]


def _until_last(parts: Any) -> Iterator[job_pb2.WatchJobResponse]:
    for part in parts:
        yield part
        if not part.has_more:
            parts.cancel()
            return


@pytest.mark.parametrize("kind", ["WatchJob", "WatchJobs", "TailAuditEvents", "ListJobs", "EmitBatch"])
def test_a_reader_that_takes_nothing_is_ended(server: ServerProcess, kind: str) -> None:
    """With a reason that names the setting and a time to come back; the service goes on meanwhile."""
    with connected(server) as stub:
        make_long_history(stub, 90)
        for number in range(90):
            emit(stub, job(job_id=f"j{number}", details_json='{"x":"' + "x" * 65_000 + '"}'))
        event = record_pb2.AuditEvent(
            event_name="e", user_id="u", source_ip="unknown", details_json='{"x":"' + "x" * 60_000 + '"}'
        )
        for _ in range(4):
            emit(stub, *[record_pb2.LogRecord(audit=event)] * 50)
    requests: dict[str, tuple[str, Any]] = {
        "WatchJob": ("LogService", job_pb2.WatchJobRequest(job_id="long", after_revision=0)),
        "WatchJobs": ("LogService", job_pb2.WatchJobsRequest()),
        "TailAuditEvents": ("AuditService", audit_service_pb2.TailAuditEventsRequest(from_index=0)),
        "ListJobs": ("LogService", job_pb2.ListJobsRequest(page_size=1000)),
        "EmitBatch": ("LogService", log_service_pb2.EmitBatchRequest(records=[job()] * 9_800)),
    }
    service, request = requests[kind]
    options = [*SMALL_WINDOW, ("grpc.http2.bdp_probe", 0)]
    with connect(server, options=options) as channel:
        call = channel.unary_stream(f"/emitd.v1.{service}/{kind}")(request.SerializeToString())
        time.sleep(2.5)
        with connected(server) as stub:  # nobody else is held up
            assert emit(stub, job(job_id="other")).accepted_count == 1
        call.cancel()
    with connect(server, options=options) as channel:
        if kind in ("WatchJob", "WatchJobs", "TailAuditEvents"):
            call = channel.unary_stream(f"/emitd.v1.{service}/{kind}")(request.SerializeToString())
            with pytest.raises(grpc.RpcError) as caught:
                for number, _ in enumerate(call):
                    time.sleep(
                        2.5 if number < 3 else 0
                    )  # a loaded service has not sent much at the first one
            _check_stalled(caught.value)


def _check_stalled(error: Any) -> None:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "not read for 1 s, the limit of server.watch.stall_seconds" in error.details()
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.seconds == 1


def test_health_and_reflection_are_bounded_too(server: ServerProcess) -> None:
    """A long name is refused by its field, not kept; ordinary questions are answered."""
    with connect(server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="x" * 1_000_000))
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "service: has " in str(caught.value.details())
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        questions = [reflection_pb2.ServerReflectionRequest(list_services="")]
        (answer,) = reflection.ServerReflectionInfo(iter(questions))
        assert "emitd.v1.LogService" in {service.name for service in answer.list_services_response.service}
        questions = [reflection_pb2.ServerReflectionRequest(file_containing_symbol="x" * 1_000_000)]
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection.ServerReflectionInfo(iter(questions)))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class Proxy:
    """Forwards connections to a server until it is silenced: then it keeps them open, and reads and sends nothing."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = host, int(port)
        self._silent = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        self._silent.set()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        self._sockets += [client, server]
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while (data := source.recv(65_536)) and not self._silent.is_set():
                target.sendall(data)

    def is_closed_by_server(self) -> bool:
        """Whether the server has closed its connection."""
        server = self._sockets[1]
        try:
            while select.select([server], [], [], 0.2)[0]:
                if not server.recv(65_536):
                    return True
        except OSError:
            return True
        return False


@pytest.mark.parametrize("server", ["open"], indirect=True)
def test_a_dead_peer_is_found_within_a_minute(server: ServerProcess) -> None:
    """Its packets vanish, the connection stays: the server closes it, and the watch with it."""
    proxy = Proxy(server.address)
    with grpc.insecure_channel(proxy.address) as channel:
        stub = LogServiceStub(channel)
        emit(stub, job(job_id="j"))
        watch = stub.WatchJob(job_pb2.WatchJobRequest(job_id="j"))
        next(watch)
        proxy.silence()
        began = time.monotonic()
        while not proxy.is_closed_by_server():
            assert time.monotonic() - began < 55


@pytest.mark.parametrize("server", ["open"], indirect=True)
def test_our_own_clients_may_ping(server: ServerProcess) -> None:
    """Neither an idle channel nor an idle watch of a client with our options is sent away for its pings."""
    with grpc.insecure_channel(server.address, options=OPTIONS) as channel:
        stub = LogServiceStub(channel)
        emit(stub, job(job_id="j"))
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        watch = stub.WatchJob(job_pb2.WatchJobRequest(job_id="j"), timeout=200)
        seen: list[int] = []
        reader = threading.Thread(target=lambda: seen.extend(message.job.revision for message in watch))
        reader.start()
        time.sleep(95)  # three pings
        emit(stub, job(job_id="j", status=record_pb2.JOB_STATE_COMPLETED))
        reader.join(20)
        assert seen[-1] == 2
        assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states
        assert states.count(grpc.ChannelConnectivity.READY) == 1
