"""Records: immutable, complete, and told apart by their fingerprints."""

import logging
from typing import Any

import pytest

from emitd_handlers import record
from emitd_handlers.record import (
    AuditEvent,
    JobState,
    JobStatus,
    Level,
    LogRecord,
    audit_fingerprint,
    content_fingerprint,
    earlier_fingerprints,
    is_source_ip,
    job_content,
    usual_source_ip,
)


def test_common_levels_have_the_numbers_of_logging() -> None:
    """DEBUG to CRITICAL are Python's; AUDIT and JOB_STATUS lie above them."""
    for level in (Level.DEBUG, Level.INFO, Level.WARNING, Level.ERROR, Level.CRITICAL):
        assert level == logging.getLevelName(level.name)
    assert Level.CRITICAL < Level.AUDIT < Level.JOB_STATUS


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        (JobState.QUEUED, False),
        (JobState.RUNNING, False),
        (JobState.COMPLETED, True),
        (JobState.FAILED, True),
    ],
)
def test_only_completed_and_failed_are_ends(state: JobState, ended: bool) -> None:
    """A job has ended when it is COMPLETED or FAILED."""
    assert state.ended is ended


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (LogRecord(Level.INFO), "message"),
        (AuditEvent("e1", "user.login", "u1", "192.0.2.1", "{}"), "user_id"),
        (JobStatus("j1", "import", JobState.QUEUED), "status"),
    ],
)
def test_records_and_payloads_are_immutable(value: object, field: str) -> None:
    """Several handlers get the same record: none can change it for the others."""
    with pytest.raises(AttributeError):
        setattr(value, field, "changed")


def test_job_reports_do_not_share_labels() -> None:
    """The default labels of two reports are two dictionaries."""
    first, second = (JobStatus("j1", "import", JobState.QUEUED) for _ in range(2))
    first.labels["team"] = "a"
    assert second.labels == {}


TIME = 1_796_129_479_000_000_000


def report(status: JobState, message: str) -> LogRecord:
    return LogRecord(
        Level.JOB_STATUS, message, "r1", TIME, source="worker", payload=JobStatus("j1", "sync", status)
    )


def test_a_fingerprint_is_the_same_for_ever() -> None:
    """Fingerprints outlive the process: these figures must never change."""
    assert content_fingerprint(("a message", 20, None, {"team": "a"})) == 0xA100FAB60FEDAFD5
    assert content_fingerprint(()) == 0xF9BE920E63136958


def test_a_fingerprint_of_a_report_has_64_bits() -> None:
    """Two reports whose CRC-32 is the same, found by a search, have two fingerprints; both are recognised as stored."""
    running = report(JobState.RUNNING, "m9998")
    completed = report(JobState.COMPLETED, "m137904226")
    assert earlier_fingerprints(running)[0] == earlier_fingerprints(completed)[0] == 0x2E7C1A16
    contents = [
        job_content((r.message, "worker", "", b"", b""), r.payload, 1, TIME) for r in (running, completed)
    ]  # type: ignore[arg-type]
    first, second = map(content_fingerprint, contents)
    assert first & 0xFFFFFFFF != second & 0xFFFFFFFF
    assert first >> 32 != second >> 32


def test_only_job_reports_had_fingerprints_that_were_stored() -> None:
    """Those of log lines and audit events are made again at each start."""
    assert list(earlier_fingerprints(LogRecord(Level.INFO, "m"))) == []


def test_a_fingerprint_tells_content_apart() -> None:
    """Other content, also when it reads the same in sequence, gives another fingerprint."""
    contents = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""), ("ab", "c", None), ("c", "ab")]
    assert len({content_fingerprint(content) for content in contents}) == len(contents)


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "::1", "fe80::1%eth0", "2001:DB8::0:1", "::ffff:1.2.3.4", "unknown"]
)
def test_addresses_in_any_spelling_are_good(text: str) -> None:
    """IPv4, IPv6 and `unknown` are source addresses."""
    assert is_source_ip(text)


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "1.2.3.4:80", "Unknown", "192.0.2.0/24", " ::1", "::1%a b"]
)
def test_anything_else_is_no_address(text: str) -> None:
    """Names, short forms, ports and networks are no source addresses."""
    assert not is_source_ip(text)


def test_no_long_text_is_kept() -> None:
    """Whether a text is an address is remembered; senders choose the texts."""
    before = record._usual_source_ip.cache_info().currsize
    for text in ("::1%" + "a" * 50_000, "x" * 62):
        assert not is_source_ip(text)
        assert usual_source_ip(text) == text
    assert record._usual_source_ip.cache_info().currsize == before


SENT = ("m", "s", "{}", b"t" * 16, b"s" * 8, "e", "n", "u", "::1", '{"a":1}', 1)


@pytest.mark.parametrize("place", range(len(SENT)))
def test_every_field_counts_in_the_fingerprint(place: int) -> None:
    """Two events that differ in any one field that a sender sets have different fingerprints."""
    other: list[Any] = list(SENT)
    other[place] *= 2
    assert audit_fingerprint(*other) != audit_fingerprint(*SENT)
