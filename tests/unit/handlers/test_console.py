"""ConsoleHandler: the form of its lines."""

from typing import Any

import msgspec
import pytest

from emitd_handlers.console import ConsoleHandler, ConsoleSettings
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord

#: 2026-11-23T03:39:00Z
TIME = 1_795_405_140 * 10**9


def _line(attributes_json: str = "", **fields: Any) -> str:
    """Return the form of an INFO record `hello` with these fields, without its time and level."""
    record = LogRecord(Level.INFO, "hello", time_unix_nano=TIME, attributes_json=attributes_json, **fields)
    return ConsoleHandler().format(record).removeprefix("[2026-11-23 03:39:00] [INFO] ")


def test_the_line_is_as_the_design_has_it() -> None:
    """Time in UTC, level, message."""
    record = LogRecord(Level.INFO, "User 'u1' successfully authenticated.", time_unix_nano=TIME)
    assert ConsoleHandler().format(record) == (
        "[2026-11-23 03:39:00] [INFO] User 'u1' successfully authenticated."
    )


@pytest.mark.parametrize("level", [Level.DEBUG, Level.INFO, Level.WARNING, Level.ERROR, Level.CRITICAL])
def test_every_common_level_is_taken_and_named(level: Level) -> None:
    """DEBUG to CRITICAL stand in the line by name; AUDIT and JOB_STATUS come only if the entry says so."""
    handler = ConsoleHandler()
    assert handler.can_handle(level)
    assert f"] [{level.name}] " in handler.format(LogRecord(level))
    assert not handler.can_handle(Level.AUDIT)
    assert not handler.can_handle(Level.JOB_STATUS)


@pytest.mark.parametrize(
    ("time_unix_nano", "shown"),
    [
        (0, "1970-01-01 00:00:00"),
        (TIME + 999_999_999, "2026-11-23 03:39:00"),
        (-1, "1969-12-31 23:59:59"),
        (2**64 - 1, "2554-07-21 23:34:33"),
        (-62_135_596_800 * 10**9, "0001-01-01 00:00:00"),
        (10**30, "@1000000000000000000000"),
        (-(10**30), "@-1000000000000000000000"),
    ],
)
def test_any_time_is_shown(time_unix_nano: int, shown: str) -> None:
    """Times far in the past and the future are shown; beyond the calendar, as seconds since 1970."""
    record = LogRecord(Level.INFO, "x", time_unix_nano=time_unix_nano)
    assert ConsoleHandler().format(record) == f"[{shown}] [INFO] x"


def test_the_time_zone_can_be_chosen() -> None:
    """`timezone` gives local times, with the offset of that day."""
    handler = ConsoleHandler(ConsoleSettings(timezone="Europe/Berlin"))
    half_a_year = 182 * 86_400 * 10**9
    assert handler.format(LogRecord(Level.INFO, time_unix_nano=TIME)).startswith("[2026-11-23 04:39:00]")
    assert handler.format(LogRecord(Level.INFO, time_unix_nano=TIME - half_a_year)).startswith(
        "[2026-05-25 05:39:00]"
    )


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe", "utc+1"])
def test_an_unknown_time_zone_is_a_configuration_error(name: str) -> None:
    """When the settings are read. The message names the key; the name may be a secret of the environment."""
    with pytest.raises(msgspec.ValidationError, match="timezone: is no name of the IANA database"):
        msgspec.convert({"timezone": name}, ConsoleSettings)


@pytest.mark.parametrize(
    ("attributes_json", "shown"),
    [
        ("", ""),
        ("{}", ""),
        ('{"user":"u1","attempt":3}', " user=u1 attempt=3"),
        (
            '{"a":null,"b":true,"c":-1.50,"d":12345678901234567890123}',
            " a=null b=true c=-1.50 d=12345678901234567890123",
        ),
        (
            '{"a":"","b":"two words","c":"x=y","d":"\\"","e":"1\\n2"}',
            ' a="" b="two words" c="x=y" d="\\"" e="1\\n2"',
        ),
        ('{"ctx" : { "k": [1, 2.50], "t": "a b" }}', ' ctx={"k":[1,2.50],"t":"a b"}'),
        ('{"a key":1,"":2}', ' "a key"=1 ""=2'),
    ],
)
def test_attributes_follow_the_message(attributes_json: str, shown: str) -> None:
    """Each is ` key=value`: a word as it is, other strings quoted, nested values as compact JSON."""
    assert _line(attributes_json) == f"hello{shown}"


def test_a_stack_comes_last() -> None:
    """An exception's stack stands after the other attributes, in one line."""
    attributes = '{"exception.stacktrace":"Traceback:\\n  File \\"a.py\\"","user":"u1"}'
    assert _line(attributes) == 'hello user=u1 exception.stacktrace="Traceback:\\n  File \\"a.py\\""'


@pytest.mark.parametrize("attributes_json", ["{", "[1]", '{"a":"\ud800"}', '{"a":1e99999999999999999999}'])
def test_no_line_is_lost_for_its_attributes(attributes_json: str) -> None:
    """Attributes that cannot be read are shown as they came."""
    line = _line(attributes_json)
    assert line.startswith("hello attributes=")
    line.encode()


def test_the_bare_form_has_no_attributes() -> None:
    """`attributes: false` ends the line with the message, or with an audit event's own fields."""
    handler = ConsoleHandler(ConsoleSettings(attributes=False))
    record = LogRecord(Level.INFO, "hello", time_unix_nano=TIME, attributes_json='{"a":1}')
    assert handler.format(record) == "[2026-11-23 03:39:00] [INFO] hello"
    event = AuditEvent("e1", "user.login", "u1", "::1", '{"a":1}')
    audit = LogRecord(Level.AUDIT, time_unix_nano=TIME, payload=event, attributes_json='{"b":1}')
    assert handler.format(audit) == "[2026-11-23 03:39:00] [AUDIT] user.login user=u1 ip=::1 event_id=e1"


def test_an_audit_event_has_its_own_form() -> None:
    """Name, message, who, from where, which event; then the details and the attributes."""
    event = AuditEvent("e1", "user.login.failure", "u 1", "192.0.2.1", '{"reason":"bad password"}')
    record = LogRecord(
        Level.AUDIT, "Refused.", time_unix_nano=TIME, attributes_json='{"port":22}', payload=event
    )
    assert ConsoleHandler().format(record) == (
        '[2026-11-23 03:39:00] [AUDIT] user.login.failure: Refused. user="u 1" ip=192.0.2.1 event_id=e1'
        ' reason="bad password" port=22'
    )


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        (JobStatus("j1", "", JobState.QUEUED), "j1 QUEUED attempt=1"),
        (
            JobStatus("j1", "import", JobState.RUNNING, 0, '{"row":7}', attempt=2),
            "j1 RUNNING type=import progress=0 attempt=2 row=7",
        ),
        (
            JobStatus("j1", "import", JobState.FAILED, failure_reason="OOM", failure_message="No room."),
            'j1 FAILED type=import attempt=1 reason=OOM failure="No room."',
        ),
        (
            JobStatus("j1", "", JobState.RUNNING, labels={"team": "a b"}, new_attempt=True),
            'j1 RUNNING attempt=new team="a b"',
        ),
    ],
)
def test_a_job_report_has_its_own_form(job: JobStatus, shown: str) -> None:
    """Which job, its state, and what else the report says."""
    record = LogRecord(Level.JOB_STATUS, time_unix_nano=TIME, payload=job)
    assert ConsoleHandler().format(record) == f"[2026-11-23 03:39:00] [JOB_STATUS] {shown}"
