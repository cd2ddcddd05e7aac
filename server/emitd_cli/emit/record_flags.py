"""One record from the flags of `emitd emit`."""

import argparse
import json
import uuid
from collections.abc import Iterable

from emitd.v1 import (
    JOB_STATE_FAILED,
    LEVEL_CRITICAL,
    LEVEL_DEBUG,
    LEVEL_ERROR,
    LEVEL_INFO,
    LEVEL_WARNING,
    AuditEvent,
    JobStatus,
    Level,
    LogRecord,
)
from emitd_cli.command_line.parser import not_one_of
from emitd_cli.command_line.values import check_details, pairs_from_flag
from emitd_cli.errors import Misuse
from emitd_cli.jobs.text import STATUSES, status_from_flag

__all__ = ["level_of_lines", "record_from_flags"]

_LEVELS = {
    "DEBUG": LEVEL_DEBUG,
    "INFO": LEVEL_INFO,
    "WARNING": LEVEL_WARNING,
    "ERROR": LEVEL_ERROR,
    "CRITICAL": LEVEL_CRITICAL,
}
#: What other loggers call them.
_OTHER_LEVEL_NAMES = {
    "TRACE": "DEBUG",
    "NOTICE": "INFO",
    "WARN": "WARNING",
    "ERR": "ERROR",
    "FATAL": "CRITICAL",
}
#: Levels that a payload fixes, and the flag that gives the payload.
_LEVELS_OF_PAYLOADS = {"AUDIT": "--audit EVENT_NAME", "JOB_STATUS": "--job JOB_ID"}

# Flags by what they describe; one that does not fit is misuse, since what it says would be lost.
_AUDIT_FLAGS = ("user", "source_ip", "event_id")
_JOB_FLAGS = (
    "type",
    "status",
    "progress",
    "label",
    "failure_reason",
    "failure_message",
    "attempt",
    "new_attempt",
)
_ONE_RECORD_FLAGS = ("audit", "job", "record_id", "attribute", "details", *_AUDIT_FLAGS, *_JOB_FLAGS)


def record_from_flags(options: argparse.Namespace) -> LogRecord:
    """Return the record that the flags describe. Raises Misuse."""
    try:
        return _record(options)
    except ValueError as error:  # from protobuf: a number out of range, a text that is not Unicode
        raise Misuse(f"this makes no record: {error}") from error


def level_of_lines(options: argparse.Namespace) -> Level:
    """Return the level for the lines of a file. Raises Misuse for flags that describe one record."""
    if options.message is not None:
        raise Misuse(f"a message ('{options.message}') and many records exclude each other", field="MESSAGE")
    _refuse(options, _ONE_RECORD_FLAGS, "describes one record, and a file brings many")
    if options.format == "jsonl":
        _refuse(options, ("level",), "is for lines of text: with --format jsonl each record has its own")
    return _level(options)


def _record(options: argparse.Namespace) -> LogRecord:
    if options.audit is not None and options.job is not None:
        raise Misuse("--audit and --job exclude each other: a record has one payload", field="--job")
    record = LogRecord(
        record_id=options.record_id or str(uuid.uuid4()),
        message=options.message or "",
        source=options.source or "",
        attributes_json=_to_json(pairs_from_flag("--attribute", options.attribute or ())),
    )
    if options.audit is not None:
        _refuse(options, ("level",), "is for log lines: an audit event has its own")
        _refuse(options, _JOB_FLAGS, "goes with --job")
        record.audit.CopyFrom(_audit(options))
    elif options.job is not None:
        _refuse(options, ("level",), "is for log lines: a job report has its own")
        _refuse(options, _AUDIT_FLAGS, "goes with --audit")
        record.job.CopyFrom(_job(options))
    else:
        _refuse(options, _AUDIT_FLAGS, "goes with --audit")
        _refuse(options, _JOB_FLAGS, "goes with --job")
        _refuse(options, ("details",), "goes with --audit or --job")
        if not options.message:
            raise Misuse(
                "say what to emit: a message, --audit EVENT_NAME, --job JOB_ID, --file FILE, or - for standard input"
            )
        record.level = _level(options)
    return record


def _level(options: argparse.Namespace) -> Level:
    name = (options.level or "INFO").upper()
    if name in _LEVELS_OF_PAYLOADS:
        raise Misuse(
            f"--level: {name} is not given by itself; use {_LEVELS_OF_PAYLOADS[name]}", field="--level"
        )
    if name not in _LEVELS:
        problem = not_one_of(options.level, _LEVELS, _OTHER_LEVEL_NAMES)
        raise Misuse(f"--level: {problem}", field="--level")
    return _LEVELS[name]


def _audit(options: argparse.Namespace) -> AuditEvent:
    if not options.audit:
        raise Misuse("--audit: the event's name is empty; give one, such as user.login", field="--audit")
    if not options.user:
        raise Misuse("--user: an audit event says who did it; give the user's id", field="--user")
    return AuditEvent(
        event_id=options.event_id or "",
        event_name=options.audit,
        user_id=options.user,
        source_ip=options.source_ip or "unknown",
        details_json=check_details(options.details) or "{}",
    )


def _job(options: argparse.Namespace) -> JobStatus:
    if not options.job:
        raise Misuse("--job: the job's id is empty; give one, such as nightly-1", field="--job")
    if not options.status:
        raise Misuse(f"--status: a job report has one of {', '.join(STATUSES)}", field="--status")
    status = status_from_flag(options.status)
    if status != JOB_STATE_FAILED:
        _refuse(options, ("failure_reason", "failure_message"), "goes with --status FAILED")
    return JobStatus(
        job_id=options.job,
        job_type=options.type or "",
        status=status,
        progress=options.progress,
        details_json=check_details(options.details),
        labels=pairs_from_flag("--label", options.label or ()),
        failure_reason=options.failure_reason or "",
        failure_message=options.failure_message or "",
        attempt=options.attempt or 0,
        new_attempt=bool(options.new_attempt),
    )


def _to_json(attributes: dict[str, str]) -> str:
    return json.dumps(attributes, ensure_ascii=False) if attributes else ""


def _refuse(options: argparse.Namespace, names: Iterable[str], why: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise Misuse(f"{flag} {why}", field=flag)
