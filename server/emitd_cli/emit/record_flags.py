"""One record from the flags of `emitd emit`."""

import argparse
import json
import uuid
from collections.abc import Iterable

from emitd.v1 import JOB_STATE_FAILED, AuditEvent, JobStatus, Level, LogRecord
from emitd_cli.command_line.values import (
    STATUSES,
    check_details,
    level_from_flag,
    pairs_from_flag,
    status_from_flag,
)
from emitd_cli.errors import Misuse

# Flags by the records that they describe. One that does not fit is misuse, since its value would be lost.
_AUDIT_FLAGS = ("user", "source_ip", "event_id")
_FAILURE_FLAGS = ("failure_reason", "failure_message")
_JOB_FLAGS = ("type", "status", "progress", "label", *_FAILURE_FLAGS, "attempt", "new_attempt")
_ONE_RECORD_FLAGS = ("audit", "job", "record_id", "attribute", "details", *_AUDIT_FLAGS, *_JOB_FLAGS)


def level_of_lines(options: argparse.Namespace) -> Level:
    """Return the level for the lines of a file. Raises Misuse for flags that describe one record."""
    if options.message is not None:
        raise Misuse(f"a message ('{options.message}') and many records exclude each other", field="MESSAGE")
    _refuse(options, _ONE_RECORD_FLAGS, "describes one record, and a file brings many")
    if options.format == "jsonl":
        _refuse(options, ("level",), "is for lines of text: with --format jsonl each record has its own")
    return level_from_flag(options.level or "INFO")


def record_from_flags(options: argparse.Namespace) -> LogRecord:
    """Return the record that the flags describe. Raises Misuse."""
    if options.audit is not None and options.job is not None:
        raise Misuse("--audit and --job exclude each other: a record has one payload", field="--job")
    attributes = pairs_from_flag("--attribute", options.attribute or ())
    record = LogRecord(
        record_id=options.record_id or str(uuid.uuid4()),
        message=options.message or "",
        source=options.source or "",
        attributes_json=json.dumps(attributes, ensure_ascii=False) if attributes else "",
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
        record.level = level_from_flag(options.level or "INFO")
    return record


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
        _refuse(options, _FAILURE_FLAGS, "goes with --status FAILED")
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


def _refuse(options: argparse.Namespace, names: Iterable[str], why: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise Misuse(f"{flag} {why}", field=flag)
