"""One record from the flags of `emitd emit`."""

import json

import pytest

from emitd.v1 import (
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    LEVEL_INFO,
    LEVEL_WARNING,
    AuditEvent,
    JobStatus,
    LogRecord,
)
from emitd_cli.arguments import make_parser
from emitd_cli.emit.record_flags import level_of_lines, record_from_flags
from emitd_cli.errors import Misuse
from support.processes.run_main import run_main


def record_of(*flags: str) -> LogRecord:
    return record_from_flags(make_parser().parse_args(["emit", *flags]))


def test_a_log_line() -> None:
    """A message alone is an INFO line; its record gets an id, so that sending it again is harmless."""
    record = record_of("hello")
    assert (record.level, record.message, record.source, record.attributes_json) == (
        LEVEL_INFO,
        "hello",
        "",
        "",
    )
    assert len(record.record_id) == 36
    assert record.record_id != record_of("hello").record_id


def test_all_of_a_log_line() -> None:
    """Every flag has its field; attributes are texts, also those with an equals sign."""
    flags = ["x", "--level", "warning", "--source", "shop", "-a", "a=1", "-a", "b=c=d", "--record-id", "r1"]
    record = record_of(*flags)
    assert json.loads(record.attributes_json) == {"a": "1", "b": "c=d"}
    record.attributes_json = ""
    assert record == LogRecord(record_id="r1", level=LEVEL_WARNING, message="x", source="shop")


def test_an_audit_event() -> None:
    """Its address is `unknown` and its details are `{}` where the flags do not say."""
    event = record_of("--audit", "user.login", "--user", "u1").audit
    assert event == AuditEvent(event_name="user.login", user_id="u1", source_ip="unknown", details_json="{}")
    flags = ["--audit", "e", "--user", "u", "--source-ip", "::1", "--event-id", "id", "--details", '{"a":1}']
    assert record_of(*flags).audit == AuditEvent(
        event_id="id", event_name="e", user_id="u", source_ip="::1", details_json='{"a":1}'
    )


def test_a_job_report() -> None:
    """What is not said is absent: above all the progress, whose zero means something else."""
    report = record_of("--job", "j", "--status", "running").job
    assert report == JobStatus(job_id="j", status=JOB_STATE_RUNNING)
    assert not report.HasField("progress")
    assert record_of("--job", "j", "--status", "RUNNING", "--progress", "0").job.HasField("progress")


def test_all_of_a_job_report() -> None:
    """Every flag has its field."""
    text = "--job j --type t --status FAILED --progress 40 --label a=b --failure-reason OOM --attempt 3"
    report = record_of(*text.split(), "--failure-message", "no memory", "--details", "{}", "last words")
    assert report.message == "last words"
    assert report.job == JobStatus(
        job_id="j",
        job_type="t",
        status=JOB_STATE_FAILED,
        progress=40,
        labels={"a": "b"},
        failure_reason="OOM",
        failure_message="no memory",
        details_json="{}",
        attempt=3,
    )
    assert record_of("--job", "j", "--status", "RUNNING", "--new-attempt").job.new_attempt


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("emit", "say what to emit"),
        ("emit x --level LOUD", "'LOUD' is not one of DEBUG"),
        ("emit x --level AUDIT", "--level: 'AUDIT' is not one of DEBUG, INFO"),
        ("emit x -a novalue", "--attribute: 'novalue' is not KEY=VALUE"),
        ("emit x -a =value", "--attribute: '=value' is not KEY=VALUE"),
        ("emit x -a k=1 -a k=2", "--attribute: 'k' is given twice"),
        ("emit x --user u", "--user goes with --audit"),
        ("emit x --progress 0", "--progress goes with --job"),
        ("emit x --details {}", "--details goes with --audit or --job"),
        ("emit --audit e", "--user: an audit event says who did it"),
        ("emit --audit e --user u --status RUNNING", "--status goes with --job"),
        ("emit --audit e --user u --level INFO", "an audit event has its own"),
        ("emit --audit e --job j", "exclude each other"),
        ("emit --job j", "--status: a job report has one of"),
        ("emit --job j --status BUSY", "'BUSY' is not one of"),
        ("emit --job= --status RUNNING", "--job: the job's id is empty"),
        ("emit --job j --status RUNNING --failure-reason OOM", "--failure-reason goes with --status FAILED"),
        ("emit --job j --status RUNNING --details [1]", "--details: must be one JSON object, not an array"),
        ("emit --audit= --user u", "--audit: the event's name is empty"),
        ("emit --audit e --user u --details {mfa:true}", "--details: is not JSON"),
        ("emit x --address=", "--address: is empty; expected HOST:PORT"),
        (
            "emit x --address http://h:1",
            "--address: 'http://h:1' is a URL; expected HOST:PORT",
        ),
        ("emit --job j --status RUNNING --source-ip ::1", "--source-ip goes with --audit"),
        ("emit --job j --status RUNNING --label nope", "--label: 'nope' is not KEY=VALUE"),
        ("emit --job j --status RUNNING --attempt=-1", "'-1' is not a whole number"),
        ("emit --job j --status RUNNING --progress 99999999999", "is not a whole number from 0 to 100"),
        ("emit --job j --status RUNNING --attempt 4294967296", "is not a whole number from 0 to 4294967295"),
        ("emit - message", "'message' is one argument too many"),
        ("emit message --file f", "a message ('message') and many records exclude each other"),
        ("emit --file f --audit e", "--audit describes one record"),
        ("emit --file f --attribute a=b", "--attribute describes one record"),
        ("emit --file f --format jsonl --level INFO", "--level is for lines of text"),
        ("emit --file f --level LOUD", "'LOUD' is not one of"),
        ("emit --file /nowhere/x", "--file: '/nowhere/x' cannot be read: No such file"),
        ("emit --file /", "--file: '/' cannot be read: Is a directory"),
        ("emit --file f --batch-size 0", "'0' is not a whole number from 1"),
        ("emit --file f --retry-seconds nan", "'nan' is not a number of seconds"),
        ("job watch j --after-revision=-1", "'-1' is not a whole number"),
        ("job watch j --timeout soon", "'soon' is not a number of seconds"),
        ("job watch", "JOB_ID"),
        ("job", "COMMAND"),
        ("", "COMMAND"),
        ("nonsense", "'nonsense' is not one of serve, "),
        ("emit \udc80", "MESSAGE: '\\udc80' is not UTF-8"),
    ],
)
def test_misuse_is_told_in_one_line(arguments: str, words: str) -> None:
    """The exit code is 2; the line says what is wrong, and nothing is sent or printed."""
    done = run_main(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.startswith("emitd")
    assert done.stderr.count("\n") == 1


def test_the_level_of_lines() -> None:
    """INFO, or what the flag says."""
    for flags, level in (([], LEVEL_INFO), (["--level", "WARNING"], LEVEL_WARNING)):
        assert level_of_lines(make_parser().parse_args(["emit", "--file", "f", *flags])) == level
    with pytest.raises(Misuse, match="describes one record"):
        level_of_lines(make_parser().parse_args(["emit", "--file", "f", "--record-id", "r"]))
