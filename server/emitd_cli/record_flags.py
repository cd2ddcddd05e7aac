"""One record from the flags of `emitd emit`."""

import argparse
import json
import uuid

from emitd.v1 import AuditEvent, JobStatus, LogRecord

__all__ = ["Misuse", "level_name", "record_from_flags"]

_COMMON_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_STATES = ("QUEUED", "RUNNING", "COMPLETED", "FAILED")


class Misuse(Exception):
    """The flags make no record; the message says why."""


def record_from_flags(options: argparse.Namespace) -> LogRecord:
    """Return the record that the flags describe. Raises Misuse."""
    if options.audit and options.job:
        raise Misuse("--audit and --job exclude each other: a record has one payload")
    record = LogRecord(
        record_id=options.record_id or str(uuid.uuid4()),
        message=options.message,
        source=options.source,
        attributes_json=_attributes(options.attribute),
    )
    if options.audit:
        record.audit.CopyFrom(_audit(options))
    elif options.job:
        record.job.CopyFrom(_job(options))
    else:
        record.MergeFrom(LogRecord(level=_level(options)))
    if options.level and (options.audit or options.job):
        raise Misuse("--level is for log lines: an audit event and a job report have their own")
    return record


def level_name(options: argparse.Namespace) -> str:
    """Return the contract's name of the level that `--level` asks for. Raises Misuse."""
    name = (options.level or "INFO").upper()
    if name not in _COMMON_LEVELS:
        raise Misuse(f"--level: '{options.level}' is not one of {', '.join(_COMMON_LEVELS)}")
    return f"LEVEL_{name}"


def _level(options: argparse.Namespace) -> str:
    if not options.message:
        raise Misuse("say what to emit: a message, --audit EVENT_NAME, --job JOB_ID, or --file FILE")
    for flag in ("user", "event_id", "details", "type", "status"):
        if getattr(options, flag):
            raise Misuse(f"--{flag.replace('_', '-')} goes with --audit or --job")
    return level_name(options)


def _audit(options: argparse.Namespace) -> AuditEvent:
    if not options.user:
        raise Misuse("--user: an audit event says who did it")
    return AuditEvent(
        event_id=options.event_id,
        event_name=options.audit,
        user_id=options.user,
        source_ip=options.source_ip,
        details_json=options.details or "{}",
    )


def _job(options: argparse.Namespace) -> JobStatus:
    status = (options.status or "").upper()
    if status not in _STATES:
        found = f"'{options.status}' is not" if options.status else "a job report has"
        raise Misuse(f"--status: {found} one of {', '.join(_STATES)}")
    report = JobStatus(
        job_id=options.job,
        job_type=options.type,
        status=f"JOB_STATE_{status}",
        details_json=options.details,
        failure_reason=options.failure_reason,
        failure_message=options.failure_message,
        attempt=options.attempt,
        new_attempt=options.new_attempt,
    )
    if options.progress is not None:
        report.progress = options.progress
    return report


def _attributes(pairs: list[str]) -> str:
    attributes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Misuse(f"--attribute: '{pair}' is not KEY=VALUE")
        attributes[key] = value
    return json.dumps(attributes, ensure_ascii=False) if attributes else ""
