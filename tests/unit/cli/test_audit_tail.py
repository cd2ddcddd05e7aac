"""`emitd audit tail`: what it prints, and how it goes on after an outage."""

import time
from collections.abc import Iterator

import grpc
import pytest

from emitd.v1 import TailAuditEventsRequest, TailAuditEventsResponse
from emitd_cli import connection
from emitd_handlers.audit.read.scan import entry_of
from emitd_server.convert.audit import entry_to_wire
from support.audit.sealed_log import make_line
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.own_calls import with_own
from support.processes.run_main import Done, run_main

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
INTERRUPTED = 130


def tail(service: FakeLogService, *flags: str) -> Done:
    return run_main("audit", "tail", "--address", service.address, *flags)


def begin(index: int) -> TailAuditEventsResponse:
    return TailAuditEventsResponse(log_id="log", heartbeat=True, next_index=index)


def events(first: int, end: int, next_index: int | None = None) -> TailAuditEventsResponse:
    entries = [entry_to_wire(entry_of(number, make_line(number))) for number in range(first, end)]
    return TailAuditEventsResponse(log_id="log", entries=entries, next_index=next_index or end)


def stream(*responses: TailAuditEventsResponse, then: Answer | None = None) -> Answer:
    def answer(
        request: TailAuditEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[TailAuditEventsResponse]:
        yield from responses
        if then is not None:
            then(request, context)

    return answer


#: Ends a tail in a test: what a retry cannot mend.
GONE = fail(grpc.StatusCode.NOT_FOUND, "there is no audit log 'log'")
STOPPING = fail(UNAVAILABLE, "the service is going down", 1.0)


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the command slept between its tries; it does not really."""
    slept: list[float] = []
    monkeypatch.setattr(connection, "time", with_own(time, sleep=slept.append))
    return slept


def test_it_prints_each_event() -> None:
    """In one line each, as they come, and no heartbeat."""
    with fake_log_service(stream(begin(4), events(4, 6), begin(6), events(6, 7), then=GONE)) as service:
        done = tail(service)
    assert service.requests == [TailAuditEventsRequest()]
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ['{"n":4}', '{"n":5}', '{"n":6}']
    assert done.stdout.splitlines()[0] == (
        '2026-11-23T03:39:00.004Z  user.login.failure    user-4        192.0.2.4        {"n":4}'
    )


def test_flags() -> None:
    """Each is a field of the request; --from 0 is not the default."""
    flags = ["--log-id", "l", "--event", "user.", "--user", "u1", "--source-ip", "192.0.2.1", "--from", "0"]
    with fake_log_service(GONE) as service:
        tail(service, *flags)
    assert service.requests == [
        TailAuditEventsRequest(
            log_id="l", event_name_prefix="user.", user_id="u1", source_ip="192.0.2.1", from_index=0
        )
    ]


def test_json_is_the_log_itself() -> None:
    """Each line as it stands there."""
    with fake_log_service(stream(begin(0), events(0, 2), then=GONE)) as service:
        done = tail(service, "--json")
    assert done.stdout.encode() == make_line(0) + b"\n" + make_line(1) + b"\n"


def test_it_goes_on_after_an_outage(naps: list[float]) -> None:
    """With the line after the last that was seen or passed over, in the same log; told once, as is the end of it."""
    with fake_log_service(
        stream(begin(3), events(3, 5, next_index=9), then=STOPPING),
        STOPPING,
        fail(UNAVAILABLE, "still", 2.5),
        stream(begin(9), events(9, 10), then=GONE),
    ) as service:
        done = tail(service, "--user", "u")
    assert [(request.log_id, request.from_index, request.user_id) for request in service.requests] == [
        ("", 0, "u"),
        ("log", 9, "u"),
        ("log", 9, "u"),
        ("log", 9, "u"),
    ]
    assert naps == [1.0, 1.0, 2.5]
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ['{"n":3}', '{"n":4}', '{"n":9}']
    assert done.stderr.splitlines() == [
        "emitd: UNAVAILABLE: the service is going down; trying again until it answers (Ctrl-C ends it)",
        f"emitd: {service.address} answers again; going on with line 9",
        "emitd: NOT_FOUND: there is no audit log 'log'",
    ]


def test_what_came_during_an_outage_is_not_missed() -> None:
    """Also where nothing had come before it: the first message has told where the tail began."""
    with fake_log_service(
        stream(begin(7), then=STOPPING), stream(begin(7), events(7, 8), then=GONE)
    ) as service:
        done = tail(service)
    assert [request.HasField("from_index") for request in service.requests] == [False, True]
    assert service.requests[1].from_index == 7
    assert done.stdout.count("\n") == 1


def test_a_server_that_never_answered(naps: list[float]) -> None:
    """Nobody waits for what is probably a wrong address: exit code 4."""
    with fake_log_service(STOPPING) as service:
        assert tail(service) == (4, "", "emitd: UNAVAILABLE: the service is going down\n")
    assert naps == []


def test_a_refusal() -> None:
    """What the request asks for makes no sense: misuse."""
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "log_id: is mandatory here")) as service:
        assert tail(service) == (2, "", "emitd: INVALID_ARGUMENT: log_id: is mandatory here\n")


def test_a_stream_that_ends_without_a_word() -> None:
    """It is told, and not tried for ever."""
    with fake_log_service(stream(begin(0))) as service:
        assert tail(service) == (4, "", "emitd: the server ended the stream without a word\n")


def test_ctrl_c_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 130, and without another word."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "time", with_own(time, sleep=interrupt))
    with fake_log_service(stream(begin(0), events(0, 1), then=STOPPING)) as service:
        done = tail(service)
    assert done.returncode == INTERRUPTED
    assert "Traceback" not in done.stderr
