"""`emitd log tail`: what it asks for and prints, and how it goes on after an outage."""

import json
import time
from collections.abc import Iterator

import grpc
import pytest

from emitd import v1
from emitd_cli import connection
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.own_calls import with_own
from support.processes.run_main import Done, run_main

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
INTERRUPTED = 130
#: 2026-11-23T03:39:00Z.
NOON = 1_795_405_140_000_000_000


def tail(service: FakeLogService, *flags: str) -> Done:
    return run_main("log", "tail", "--address", service.address, *flags)


def begin(token: str) -> v1.TailLogsResponse:
    return v1.TailLogsResponse(heartbeat=True, resume_token=token)


def lines(*messages: str, token: str, missed: int = 0, truncated: bool = False) -> v1.TailLogsResponse:
    records = [v1.LogRecord(level=v1.LEVEL_INFO, message=text, time_unix_nano=NOON) for text in messages]
    return v1.TailLogsResponse(
        lines=[v1.LogLine(receive_time_unix_nano=NOON, record=record) for record in records],
        resume_token=token,
        missed_count=missed,
        history_truncated=truncated,
    )


def stream(*responses: v1.TailLogsResponse, then: Answer | None = None) -> Answer:
    def answer(request: v1.TailLogsRequest, context: grpc.ServicerContext) -> Iterator[v1.TailLogsResponse]:
        yield from responses
        if then is not None:
            then(request, context)

    return answer


#: Ends a tail in a test: what a retry cannot mend.
GONE = fail(grpc.StatusCode.UNIMPLEMENTED, "server.recent_lines_bytes is 0")
STOPPING = fail(UNAVAILABLE, "the service is going down", 1.0)


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the command slept between its tries; it does not really."""
    slept: list[float] = []
    monkeypatch.setattr(connection, "time", with_own(time, sleep=slept.append))
    return slept


def test_it_prints_each_line() -> None:
    """As the list does, and no heartbeat; it begins with the next line."""
    messages = (begin("a"), lines("one", "two", token="b"), begin("b"), lines("three", token="c"))
    with fake_log_service(stream(*messages, then=GONE)) as service:
        done = tail(service)
    assert service.requests[0] == v1.TailLogsRequest(filter=v1.LogFilter())
    assert done == (
        4,
        "[2026-11-23 03:39:00] [INFO] one\n[2026-11-23 03:39:00] [INFO] two\n[2026-11-23 03:39:00] [INFO] three\n",
        "emitd: UNIMPLEMENTED: server.recent_lines_bytes is 0\n",
    )


@pytest.mark.parametrize(
    ("flags", "request_"),
    [
        (["--level", "ERROR"], v1.TailLogsRequest(filter=v1.LogFilter(min_level=v1.LEVEL_ERROR))),
        (["--last", "20"], v1.TailLogsRequest(filter=v1.LogFilter(), last=20)),
        (["-n", "0"], v1.TailLogsRequest(filter=v1.LogFilter(), last=0)),
        (
            ["--since", "2001-09-09T01:46:40Z", "--source", "a*"],
            v1.TailLogsRequest(
                filter=v1.LogFilter(sources=["a*"]), received_after_unix_nano=1_000_000_000_000_000_000
            ),
        ),
    ],
)
def test_flags(flags: list[str], request_: v1.TailLogsRequest) -> None:
    """The filter, and where it begins."""
    with fake_log_service(GONE) as service:
        tail(service, *flags)
    assert service.requests == [request_]


def test_it_has_one_beginning() -> None:
    """Exit code 2."""
    with fake_log_service(GONE) as service:
        done = tail(service, "--last", "2", "--since", "5m")
    assert done == (2, "", "emitd: --last and --since exclude each other\n")
    assert service.requests == []


def test_json() -> None:
    """One object a line, as the file has it."""
    with fake_log_service(stream(begin("a"), lines("one", token="b"), then=GONE)) as service:
        done = tail(service, "--json")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["message"], line["level"], line["received_at"]) == (
        "one",
        "INFO",
        "2026-11-23T03:39:00.000000000Z",
    )


def test_what_is_missing_is_said_where_it_is_missing() -> None:
    """On standard error, as JSON with --json; before the lines that follow the gap."""
    messages = (
        begin("a"),
        lines("one", token="b", truncated=True),
        lines("two", token="c", missed=17),
        lines(token="d", missed=1),
    )
    with fake_log_service(stream(*messages, then=GONE)) as service:
        done = tail(service)
        assert done.stderr.splitlines()[:-1] == [
            "emitd: lines of that time may be missing: the server keeps the last ones only",
            "emitd: 17 lines were missed: the server no longer has them",
            "emitd: 1 line was missed: the server no longer has them",
        ]
        assert done.stdout.count("\n") == 2
        notes = [json.loads(line) for line in tail(service, "--json", "--job", "j").stderr.splitlines()]
    assert notes[1] == {
        "note": "17 lines were missed (of all, not only of those that match): the server no longer has them"
    }


def test_it_goes_on_after_an_outage(naps: list[float]) -> None:
    """With the last token, and the same filter; told once, as is the end of it."""
    with fake_log_service(
        stream(begin("a"), lines("one", token="b"), then=STOPPING),
        STOPPING,
        fail(UNAVAILABLE, "still", 2.5),
        stream(begin("b"), lines("two", token="c"), then=GONE),
    ) as service:
        done = tail(service, "--last", "5", "--source", "s")
    wanted = v1.LogFilter(sources=["s"])
    again = v1.TailLogsRequest(filter=wanted, resume_token="b")
    assert service.requests == [v1.TailLogsRequest(filter=wanted, last=5), again, again, again]
    assert naps == [1.0, 1.0, 2.5]
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["one", "two"]
    assert done.stderr.splitlines() == [
        "emitd: UNAVAILABLE: the service is going down; trying again until it answers (Ctrl-C ends it)",
        f"emitd: {service.address} answers again; going on",
        "emitd: UNIMPLEMENTED: server.recent_lines_bytes is 0",
    ]


def test_an_outage_before_the_last_lines_came_does_not_lose_them() -> None:
    """A message without a token is no place to go on from."""
    with fake_log_service(
        stream(begin(""), then=STOPPING), stream(begin(""), lines("one", token="b"), then=GONE)
    ) as service:
        tail(service, "--last", "5")
    assert [request.last for request in service.requests] == [5, 5]


def test_a_server_that_never_answered(naps: list[float]) -> None:
    """Nobody waits for what is probably a wrong address: exit code 4."""
    with fake_log_service(STOPPING) as service:
        assert tail(service) == (4, "", "emitd: UNAVAILABLE: the service is going down\n")
    assert naps == []


def test_a_refusal() -> None:
    """What the request asks for makes no sense: misuse."""
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "last: is 2000, more than 1000")) as service:
        assert tail(service) == (2, "", "emitd: INVALID_ARGUMENT: last: is 2000, more than 1000\n")


def test_ctrl_c_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 130, and without another word."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "time", with_own(time, sleep=interrupt))
    with fake_log_service(stream(begin("a"), lines("one", token="b"), then=STOPPING)) as service:
        done = tail(service)
    assert done.returncode == INTERRUPTED
    assert "Traceback" not in done.stderr
