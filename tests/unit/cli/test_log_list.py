"""`emitd log list`: what it asks the server for, paging, and what it prints."""

import io
import json
import re
import sys
from typing import Any

import grpc
import pytest

from emitd import v1
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.record_json import encode_record
from support.client.fake_log_service import Answer, FakeLogService, fail, fake_log_service
from support.processes.run_main import Done, run_main

SECOND = 1_000_000_000
#: 2026-11-23T03:39:00Z.
NOON = 1_795_405_140 * SECOND
TRACE = bytes(range(16))
#: Moves a cursor, in several ways.
EVIL = "a\x9b2J\u202eb\u2028c\nd"


def line(number: int, **fields: Any) -> v1.LogLine:
    given: dict[str, Any] = {
        "level": v1.LEVEL_INFO,
        "message": f"m{number}",
        "time_unix_nano": NOON + number * SECOND,
    }
    return v1.LogLine(receive_time_unix_nano=NOON + number, record=v1.LogRecord(**(given | fields)))


FULL = line(
    0,
    record_id="r0",
    level=v1.LEVEL_WARNING,
    source="auth.web",
    attributes_json='{"user":"u 1","n":1.10}',
    trace_id=TRACE,
    span_id=bytes(8),
)


def list_lines(service: FakeLogService, *flags: str) -> Done:
    return run_main("log", "list", "--address", service.address, *flags)


def page(*lines: v1.LogLine, token: str = "", truncated: bool = False) -> Answer:
    return lambda *_: v1.ListLogsResponse(lines=lines, next_page_token=token, history_truncated=truncated)


def test_it_prints_what_the_console_prints() -> None:
    """Time, level, source, message and pairs, in the server's order; nothing without a value."""
    with fake_log_service(page(FULL, line(1))) as service:
        done = list_lines(service)
    assert done == (
        0,
        '[2026-11-23 03:39:00] [WARNING] [auth.web] m0 user="u 1" n=1.10 '
        "trace_id=000102030405060708090a0b0c0d0e0f\n"
        "[2026-11-23 03:39:01] [INFO] m1\n",
        "",
    )
    assert service.requests == [v1.ListLogsRequest(filter=v1.LogFilter(), newest_first=True, page_size=50)]


def test_json_is_what_the_file_has() -> None:
    """The same members in the same order, numbers as they were sent."""
    with fake_log_service(page(FULL)) as service:
        done = list_lines(service, "--json")
    record = LogRecord(
        Level.WARNING, "m0", "r0", NOON, NOON, "auth.web", '{"user":"u 1","n":1.10}', TRACE, bytes(8)
    )
    assert done.stdout == encode_record(record).decode() + "\n"
    assert '"attributes":{"user":"u 1","n":1.10}' in done.stdout


def test_flags() -> None:
    """Each is a field of the request."""
    flags = [
        "--level",
        "warning",
        "--source",
        "auth.*",
        "--source",
        "shop",
        "--grep",
        "Timeout",
        "--job",
        "j1",
    ]
    flags += ["--trace", TRACE.hex().upper(), "--since", "2001-09-09T01:46:40Z", "--oldest-first", "-n", "7"]
    with fake_log_service(page()) as service:
        list_lines(service, *flags, "--until", "2001-09-09T01:46:41Z")
    assert service.requests == [
        v1.ListLogsRequest(
            filter=v1.LogFilter(
                min_level=v1.LEVEL_WARNING,
                sources=["auth.*", "shop"],
                text="Timeout",
                job_id="j1",
                trace_id=TRACE,
            ),
            received_after_unix_nano=1_000_000_000 * SECOND,
            received_before_unix_nano=1_000_000_001 * SECOND,
            page_size=7,
        )
    ]


def test_since_may_be_a_time_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this machine's clock, as elsewhere."""
    monkeypatch.setattr("time.time_ns", lambda: 1000 * SECOND)
    with fake_log_service(page()) as service:
        list_lines(service, "--since", "5m")
    assert service.requests[0].received_after_unix_nano == 700 * SECOND


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--level", "LOUD"], "--level: 'LOUD' is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        (["--level", "warn"], "--level: 'warn' is not one of DEBUG, INFO"),
        (["--level", "AUDIT"], "--level: 'AUDIT' is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL$"),
        (["--trace", "abc"], "--trace: 'abc' is not 32 hexadecimal digits"),
        (["--trace", ""], "--trace: '' is not 32 hexadecimal digits"),
        (["--since", "soon"], "--since: 'soon' is neither a time"),
        (["--limit", "0"], "--limit: '0' is not a whole number from 1 to 2147483647"),
    ],
)
def test_misuse_names_the_flag(flags: list[str], error: str) -> None:
    """Before anything is asked: exit code 2."""
    with fake_log_service(page()) as service:
        done = list_lines(service, *flags)
    assert (done.returncode, service.requests) == (2, [])
    assert re.search(error, done.stderr), done.stderr


def test_pages_that_end_early_are_not_the_last() -> None:
    """A server may send fewer than it was asked for, even none, as long as it gives a token."""
    with fake_log_service(page(line(2), token="1"), page(token="2"), page(line(1))) as service:
        done = list_lines(service, "--limit", "3")
    assert [text[-2:] for text in done.stdout.splitlines()] == ["m2", "m1"]
    assert [(r.page_size, r.page_token) for r in service.requests] == [(3, ""), (2, "1"), (2, "2")]
    assert done.stderr == ""


def test_what_is_left_out_is_said() -> None:
    """The limit, the end of the server's memory, and that nothing was found: on standard error."""
    with fake_log_service(page(line(1), token="1")) as service:
        assert list_lines(service, "-n", "1").stderr == (
            "emitd: there may be more than 1 such lines; --limit N shows more\n"
        )
    with fake_log_service(page(line(1), truncated=True)) as service:
        done = list_lines(service, "--since", "1h", "--json")
        assert json.loads(done.stderr) == {
            "note": "lines of that time may be missing: the server keeps the last ones only"
        }
        assert done.returncode == 0
    with fake_log_service(page()) as service:
        assert list_lines(service) == (0, "", "emitd: no line is like that\n")
        assert list_lines(service, "--job", "x") == (0, "", "emitd: no line is like that\n")
        assert list_lines(service, "--until", "1h") == (0, "", "emitd: no line is like that\n")


class Screen(io.TextIOWrapper):
    """Standard output, which may be a terminal."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_message_brings_no_colours(
    is_terminal: bool, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Controls are escaped, on a terminal and in a pipe."""
    from emitd_cli.main import main

    screen = Screen(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stdout", screen)
    lines = [line(0, level=v1.LEVEL_ERROR, message=f"[ERROR]\x1b[31m{EVIL}"), line(1)]
    with fake_log_service(page(*lines)) as service:
        assert main(["log", "list", "--address", service.address, *flags]) == 0
    assert "\x1b" not in screen.text
    if flags:
        assert json.loads(screen.text.splitlines()[0])["message"] == f"[ERROR]\x1b[31m{EVIL}"
    else:
        assert screen.text == (
            "[2026-11-23 03:39:00] [ERROR] [ERROR]\\u001b[31ma\\u009b2J\\u202eb\\u2028c\\nd\n"
            "[2026-11-23 03:39:01] [INFO] m1\n"
        )


def test_a_line_is_not_cut_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What people look for may stand at its end."""
    from emitd_cli.main import main

    screen = Screen(is_terminal=True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    with fake_log_service(page(line(0, message="x" * 200 + "end"))) as service:
        assert main(["log", "list", "--address", service.address]) == 0
    assert screen.text.endswith("xend\n")


def test_errors_end_it_as_they_end_other_lists() -> None:
    """A refusal with 2, a server that keeps no lines, or is not there, with 4."""
    with fake_log_service(fail(grpc.StatusCode.INVALID_ARGUMENT, "filter.text: has 300 bytes")) as service:
        assert list_lines(service) == (2, "", "emitd: INVALID_ARGUMENT: filter.text: has 300 bytes\n")
    with fake_log_service(fail(grpc.StatusCode.UNIMPLEMENTED, "no lines are kept")) as service:
        assert list_lines(service) == (4, "", "emitd: UNIMPLEMENTED: no lines are kept\n")
