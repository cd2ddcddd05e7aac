"""One record is one line, whatever is in it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from emitd_handlers.console import ConsoleHandler
from emitd_handlers.record import AuditEvent, JobState, JobStatus, Level, LogRecord
from emitd_handlers.text.escape import escape_lines

_text = st.text(
    st.one_of(st.sampled_from("\n\r\x1b\x85\u2028\u202e\ud800 =\"\\'{"), st.characters()), max_size=20
)
_json = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _text
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_text, inner, max_size=3)),
    max_leaves=10,
)
_object = st.dictionaries(st.one_of(_text, st.just("exception.stacktrace")), _json, max_size=4)
_json_text = st.one_of(
    st.builds(json.dumps, _object),
    st.builds(lambda value: json.dumps(value, ensure_ascii=False), _object),
    _text,
)
_payload = st.one_of(
    st.none(),
    st.builds(AuditEvent, _text, _text, _text, _text, _json_text),
    st.builds(
        JobStatus,
        _text,
        _text,
        st.sampled_from(JobState),
        st.one_of(st.none(), st.integers(0, 100)),
        _json_text,
        st.dictionaries(_text, _text, max_size=2),
        _text,
        _text,
    ),
)

_console = ConsoleHandler()


@given(
    st.builds(
        LogRecord,
        st.sampled_from(Level),
        _text,
        time_unix_nano=st.one_of(st.integers(0, 2**64 - 1), st.integers()),
        attributes_json=_json_text,
        payload=_payload,
    )
)
def test_any_record_is_one_line(record: LogRecord) -> None:
    """A record of any content can be formatted, and stands in exactly one line of UTF-8 with its level."""
    line = escape_lines([_console.format(record)]).decode()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert line.split("] ")[1] == f"[{record.level.name}"


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text() | st.integers() | st.none()))
def test_attributes_read_back(attributes: dict[str, str | int | None]) -> None:
    """The pairs behind a message give the attributes back: each value is a word or JSON."""
    record = LogRecord(Level.INFO, "m", attributes_json=json.dumps(attributes))
    rest = escape_lines([_console.format(record)]).decode().rstrip("\n").split("] m", 1)[1]
    for key, value in attributes.items():
        assert rest.startswith(f" {key}=")
        rest = rest.removeprefix(f" {key}=")
        if rest.startswith('"'):
            shown, end = json.JSONDecoder().raw_decode(rest)
        else:
            shown, end = rest.split(" ", 1)[0], len(rest.split(" ", 1)[0])
        assert shown == (value if isinstance(value, str) else json.dumps(value))
        rest = rest[end:]
    assert rest == ""
