"""`emitd audit show`: all that is known of one event."""

import json

import grpc
import pytest

from emitd.v1 import (
    AuditEntry,
    GetCheckpointRequest,
    GetCheckpointResponse,
    ListAuditEventsRequest,
    ListAuditEventsResponse,
)
from emitd_handlers.audit.format.line import encode_line
from emitd_handlers.audit.read.scan import entry_of
from emitd_handlers.principal import Principal
from emitd_handlers.record import AuditEvent, Level, LogRecord
from emitd_handlers.scope import Caller
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_server.convert.audit import entry_to_wire
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.run_main import Done, run_main

LINE = encode_line(
    LogRecord(
        Level.AUDIT,
        message="two\nlines",
        record_id="r1",
        time_unix_nano=1_700_000_000_123_456_789,
        received_unix_nano=1_700_000_001_000_000_001,
        source="shop",
        attributes_json='{"a":1}',
        trace_id=bytes(16),
        span_id=bytes(8),
        sender=Caller(Principal("till", "token"), address="10.0.0.1", keeps_address=True),
        payload=AuditEvent("e1", "user.login", "u\u202e1", "192.0.2.1", '{"n":1}'),
    )
)
#: The server's own leaf hash is not what is shown.
ENTRY = entry_to_wire(entry_of(6, LINE))
ENTRY.leaf_hash = b"?"


def show(service: FakeLogService, *flags: str) -> Done:
    return run_main("audit", "show", "e1", "--address", service.address, *flags)


def page(*entries: AuditEntry, token: str = "") -> Answer:
    return lambda *_: ListAuditEventsResponse(log_id="log", entries=entries, next_page_token=token)


def covering(size: int) -> Answer:
    return lambda *_: GetCheckpointResponse(log_id="log", tree_size=size)


def test_every_field() -> None:
    """A line for each, with the place in the log, the leaf of the line as it came, and what covers it."""
    with fake_log_service(page(ENTRY), covering(7)) as service:
        done = show(service)
    assert service.requests == [
        ListAuditEventsRequest(event_id="e1", newest_first=True, page_size=1000),
        GetCheckpointRequest(log_id="log"),
    ]
    assert done.returncode == 0
    assert done.stdout == (
        "event       user.login\n"
        "event id    e1\n"
        "user        u\\u202e1\n"
        "source ip   192.0.2.1\n"
        "principal   till\n"
        "peer        10.0.0.1\n"
        'details     {"n":1}\n'
        "happened    2023-11-14T22:13:20.123456789Z\n"
        "received    2023-11-14T22:13:21.000000001Z\n"
        "source      shop\n"
        "record id   r1\n"
        "message     two\\nlines\n"
        'attributes  {"a":1}\n'
        f"trace id    {'0' * 32}\n"
        f"span id     {'0' * 16}\n"
        "log         log\n"
        "index       6\n"
        f"leaf hash   {leaf_hash(LINE).hex()}\n"
        "covered     by the checkpoint over 7 lines\n"
    )


def test_json() -> None:
    """The line as it stands in the log, with its place."""
    with fake_log_service(page(ENTRY), covering(7)) as service:
        shown = json.loads(show(service, "--json", "--log-id", "log").stdout)
    assert service.requests[0].log_id == "log"
    assert shown == {
        "log_id": "log",
        "leaf_index": 6,
        "leaf_hash": leaf_hash(LINE).hex(),
        "covered_by_tree_size": 7,
        "line": LINE.decode(),
    }


def test_not_covered_yet() -> None:
    """Where the newest checkpoint ends before the line, and where there is none: exit code 0 all the same."""
    with fake_log_service(page(ENTRY), covering(6)) as service:
        done = show(service)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "covered     by no checkpoint yet; the newest is over 6 lines",
    )
    unsigned = fail(grpc.StatusCode.UNAVAILABLE, "it is not signed yet", 1.0)
    with fake_log_service(page(ENTRY), unsigned, page(ENTRY), unsigned) as service:
        done = show(service)
        as_json = show(service, "--json")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "covered     by no checkpoint that the server can show: it is not signed yet",
    )
    assert json.loads(as_json.stdout)["covered_by_tree_size"] is None


def test_it_looks_on_where_a_page_is_empty() -> None:
    """A server may give up a page without an event, and go on with the next."""
    with fake_log_service(page(token="1"), page(token="2"), page(ENTRY), covering(7)) as service:
        assert show(service).returncode == 0
    assert [request.page_token for request in service.requests[:3]] == ["", "1", "2"]


def test_no_such_event() -> None:
    """Exit code 4, and one line that names it and the log."""
    with fake_log_service(page()) as service:
        assert show(service) == (4, "", "emitd: there is no event 'e1' in the log 'log'\n")
        error = json.loads(show(service, "--json").stderr)["error"]
    assert error == {"code": "NOT_FOUND", "message": "there is no event 'e1' in the log 'log'"}


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DATA_LOSS])
def test_errors_of_the_server(code: grpc.StatusCode) -> None:
    """A server that cannot say is exit code 4, also where it cannot say what covers the event."""
    with fake_log_service(fail(code, "not here")) as service:
        assert show(service) == (4, "", f"emitd: {code.name}: not here\n")
    with fake_log_service(page(ENTRY), fail(code, "not here")) as service:
        assert show(service) == (4, "", f"emitd: {code.name}: not here\n")
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "bad")) as service:
        assert show(service).returncode == 2


def test_an_empty_id() -> None:
    """It is misuse, and not any event."""
    with fake_log_service(page(ENTRY)) as service:
        done = run_main("audit", "show", "", "--address", service.address)
        assert service.requests == []
    assert (done.returncode, done.stderr) == (2, "emitd: EVENT_ID: is empty\n")


def of_source(index: int, source: str) -> AuditEntry:
    return AuditEntry(leaf_index=index, line=LINE, record={"source": source, "audit": {"event_id": "e1"}})


def test_an_id_of_several_sources() -> None:
    """Without `--source` it is misuse that names them, however far they are from each other; with it, it is found."""
    pages = [page(of_source(6, "shop"), token="1"), page(token="2"), page(of_source(3, "till"))]
    told = "--source: several sources have an event with this id, 'shop', 'till': name one"
    with fake_log_service(*pages) as service:
        assert show(service) == (2, "", f"emitd: {told}\n")
    with fake_log_service(*pages) as service:
        error = json.loads(show(service, "--json").stderr)["error"]
    assert (error["message"], error["field"]) == (told, "--source")
    with fake_log_service(page(of_source(6, "shop"), token="1"), covering(7)) as service:
        assert show(service, "--source", "shop").returncode == 0
        assert service.requests[0].source == "shop"
    with fake_log_service(page(of_source(3, "")), covering(7)) as service:
        assert show(service, "--source", "").returncode == 0
        assert service.requests[0].HasField("source")
    with fake_log_service(page(of_source(6, "shop"), of_source(3, "shop")), covering(7)) as service:
        done = show(service)
    assert "index       6\n" in done.stdout
