"""`emitd audit list`: what it asks the server for, paging, and what it prints."""

import io
import json
import sys

import grpc
import pytest

from emitd.v1 import AuditEntry, ListAuditEventsRequest, ListAuditEventsResponse
from emitd_cli.audit.events import event_lines, print_json_lines
from emitd_cli.terminal.output import clip, print_lines
from emitd_handlers.audit.read.scan import entry_of
from emitd_server.convert.audit import entry_to_wire
from support.audit.sealed_log import make_line
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.run_main import Done, run_main

ENTRIES = [entry_to_wire(entry_of(number, make_line(number))) for number in range(3)]
#: Moves a cursor, in five ways; valid JSON as it stands, but for the escape sequence.
EVIL = "a\x9b2J\u202eb\u2028c"


def list_events(service: FakeLogService, *flags: str) -> Done:
    return run_main("audit", "list", "--address", service.address, *flags)


def page(*entries: AuditEntry, token: str = "") -> Answer:
    return lambda *_: ListAuditEventsResponse(log_id="log", entries=entries, next_page_token=token)


def numbered(count: int) -> Answer:
    """A server with so many events, whose tokens are the number of the next."""

    def answer(request: ListAuditEventsRequest, _: grpc.ServicerContext) -> ListAuditEventsResponse:
        first = int(request.page_token or 0)
        end = min(first + request.page_size, count)
        entries = [entry_to_wire(entry_of(n, make_line(n))) for n in range(first, end)]
        return ListAuditEventsResponse(entries=entries, next_page_token=str(end) if end < count else "")

    return answer


def test_without_filters() -> None:
    """It asks for the newest fifty, and prints a line for each, aligned below its heading."""
    with fake_log_service(page(*ENTRIES)) as service:
        done = list_events(service)
    assert service.requests == [ListAuditEventsRequest(page_size=50, newest_first=True)]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "RECEIVED                  EVENT               USER    SOURCE IP  DETAILS\n"
        '2026-11-23T03:39:00.000Z  user.login.success  user-0  192.0.2.0  {"n":0}\n'
        '2026-11-23T03:39:00.001Z  user.login.failure  user-1  192.0.2.1  {"n":1}\n'
        '2026-11-23T03:39:00.002Z  playlist.create     user-2  192.0.2.2  {"n":2}\n'
    )


def test_filters() -> None:
    """Each flag is a field of the request."""
    flags = [
        "--log-id",
        "l",
        "--event",
        "user.",
        "--user",
        "u1",
        "--source-ip",
        "192.0.2.1",
        "--oldest-first",
        "--limit",
        "7",
    ]
    with fake_log_service(page()) as service:
        flags += ["--since", "2001-09-09T01:46:40Z", "--until", "2001-09-09T01:46:41Z"]
        list_events(service, *flags, "--oldest-first", "--limit", "7")
    assert service.requests == [
        ListAuditEventsRequest(
            log_id="l",
            event_name_prefix="user.",
            user_id="u1",
            source_ip="192.0.2.1",
            received_after_unix_nano=1_000_000_000_000_000_000,
            received_before_unix_nano=1_000_000_001_000_000_000,
            page_size=7,
        )
    ]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_it_pages_as_far_as_the_limit(flags: list[str]) -> None:
    """A page has at most a thousand; that the limit cut the list is told, and what to do."""
    with fake_log_service(numbered(2600)) as service:
        done = list_events(service, "--limit", "2500", *flags)
    assert [(request.page_size, request.page_token) for request in service.requests] == [
        (1000, ""),
        (1000, "1000"),
        (500, "2000"),
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == 2500 + (not flags)
    assert '{"n":2499}' in lines[-1]
    assert "there may be more than 2500 such events; --limit N shows more" in done.stderr


def test_with_a_filter_there_may_be_more() -> None:
    """The server has not looked further: nothing is claimed that nobody knows."""
    with fake_log_service(page(ENTRIES[0], token="1")) as service:
        done = list_events(service, "--limit", "1", "--user", "user-0")
    assert done.stderr == "emitd: there may be more than 1 such events; --limit N shows more\n"


def test_the_limit_is_not_told_where_it_cut_nothing() -> None:
    """Exactly as many events as the limit are all events."""
    with fake_log_service(numbered(3)) as service:
        assert list_events(service, "--limit", "3").stderr == ""


def test_a_page_that_ends_early_is_not_the_last() -> None:
    """A server may send fewer than it was asked for, even none, as long as it gives a token."""
    with fake_log_service(page(ENTRIES[0], token="1"), page(token="2"), page(ENTRIES[1])) as service:
        done = list_events(service, "--json")
    assert done.stdout.count("\n") == 2
    assert [(r.page_size, r.page_token) for r in service.requests] == [(50, ""), (49, "1"), (49, "2")]


def test_json_is_the_log_itself() -> None:
    """Each line as it stands there, byte for byte."""
    lines = [make_line(0), make_line(1, user="日本語")]
    with fake_log_service(
        page(*(entry_to_wire(entry_of(n, line)) for n, line in enumerate(lines)))
    ) as service:
        done = list_events(service, "--json")
    assert done.stdout.encode() == b"".join(line + b"\n" for line in lines)


class Screen(io.TextIOWrapper):
    """Standard output, which may be a terminal."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", errors="backslashreplace", write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def written(self) -> bytes:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_json_is_harmless_and_means_the_same(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    """In a pipe and on a terminal, whatever its encoding: what moves a cursor is escaped within its text."""
    line = make_line(0, user=EVIL)
    assert EVIL.encode() in line
    screen = Screen(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stdout", screen)
    print_json_lines([entry_to_wire(entry_of(0, line)), AuditEntry(line=b"\xff\xfe damaged")])
    first, second, rest = screen.written().split(b"\n")
    assert rest == b""
    assert first.decode("ascii").isprintable()
    assert json.loads(first) == json.loads(line)
    assert second == b"\\udcff\\udcfe damaged"


def test_nothing_from_a_record_moves_the_cursor() -> None:
    """Every cell is escaped."""
    line = make_line(0, user=EVIL).replace(
        b'{"n":0}', json.dumps({"n": "\x9b\u202e"}, ensure_ascii=False).encode()
    )
    line = line.replace(b"user.login.success", "x\u202ey".encode())
    with fake_log_service(page(entry_to_wire(entry_of(0, line)))) as service:
        done = list_events(service)
    assert all(text.isprintable() for text in done.stdout.splitlines())
    assert "a\\u009b2J\\u202eb\\u2028c" in done.stdout
    assert "x\\u202ey" in done.stdout


def test_nothing_is_cut_in_a_pipe_and_a_terminal_gets_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the details are."""
    line = make_line(0).replace(b'{"n":0}', b'{"p":"' + b"x" * 500 + b'"}')
    entries = [entry_to_wire(entry_of(0, line)), ENTRIES[1]]
    with fake_log_service(page(*entries)) as service:
        assert "x" * 500 in list_events(service).stdout
        monkeypatch.setenv("COLUMNS", "90")
        screen = Screen(is_terminal=True)
        monkeypatch.setattr(sys, "stdout", screen)
        print_lines(event_lines(entries))
        lines = screen.written().decode().replace(r"\u2026", "…").splitlines()
    assert len(lines) == 3
    assert [len(line) for line in lines][1] == 90
    assert lines[1].endswith("xxx…")
    assert lines[2].endswith('{"n":1}')


@pytest.mark.parametrize("width", [10, 11, 12, 13])
def test_wide_letters_are_cut_by_their_columns(width: int) -> None:
    """No line is wider than the terminal, where letters take two columns."""
    long = "日" * 30
    clipped = clip(long, width)
    assert 2 * clipped.count("日") + 1 <= width
    assert clipped.endswith("…")


def test_a_damaged_line_is_told() -> None:
    """With its number, and what says more."""
    with fake_log_service(page(AuditEntry(leaf_index=17, line=b"garbage"), ENTRIES[0])) as service:
        done = list_events(service)
    assert done.stdout.splitlines()[1].endswith("line 17 is damaged: `emitd audit verify` says more")


def test_nothing_found() -> None:
    """It says so on standard error, and is exit code 0: in a pipe, no event is no line."""
    with fake_log_service(page()) as service:
        assert list_events(service) == (0, "", "emitd: no event is like that\n")
        for flags in (["--user", "x"], ["--since", "1h"], ["--until", "1h"]):
            assert list_events(service, *flags) == (0, "", "emitd: no event is like that\n")
        assert list_events(service, "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--since", "soon"], "--since: 'soon' is neither a time"),
        (["--until", ""], "--until: '' is neither a time"),
        (["--limit", "0"], "--limit: '0' is not a whole number from 1"),
    ],
)
def test_misuse(flags: list[str], told: str) -> None:
    """Exit code 2, one line, and the server is not asked."""
    with fake_log_service(page()) as service:
        done = list_events(service, *flags)
        assert service.requests == []
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"emitd: {told}")
    assert done.stderr.count("\n") == 1


def test_errors_of_the_server() -> None:
    """A question that makes no sense is misuse; a server that does not say is 4."""
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "bad")) as service:
        assert list_events(service) == (2, "", "emitd: INVALID_ARGUMENT: bad\n")
    with fake_log_service(fail(grpc.StatusCode.NOT_FOUND, "there is no audit log 'x'")) as service:
        assert list_events(service) == (4, "", "emitd: NOT_FOUND: there is no audit log 'x'\n")
