"""A job in words."""

from emitd.v1 import JOB_STATE_FAILED, JOB_STATE_RUNNING, Job, JobTransition
from emitd_cli.jobs.text import describe_job, job_line, transition_line


def test_a_line_says_where_the_job_stands() -> None:
    """Its last message stands at the end; an attempt after the first is told."""
    job = Job(job_id="j", status=JOB_STATE_RUNNING, progress=7, attempt=1, message="copying")
    assert job_line(job) == "j  RUNNING      7 %  copying"
    job.attempt = 2
    assert job_line(job) == "j  RUNNING      7 %  attempt 2  copying"


def test_a_failure_goes_before_the_message() -> None:
    """Of a job that has failed it is the reason that matters."""
    job = Job(job_id="j", status=JOB_STATE_FAILED, message="last words", failure_reason="OOM")
    assert job_line(job).endswith("  OOM")


def test_texts_of_senders_cannot_move_the_cursor() -> None:
    """Control characters, line ends and those that turn the direction are escaped, wherever they stand."""
    evil = "a\x1b[2J\nb\u202ec\x9b"
    escaped = "a\\u001b[2J\\nb\\u202ec\\u009b"
    assert job_line(Job(job_id=evil, status=JOB_STATE_RUNNING)).startswith(escaped)
    transition = JobTransition(status=JOB_STATE_RUNNING, attempt=1)
    assert transition_line(evil, transition) == f"{escaped}  RUNNING      0 %"
    job = Job(
        job_id=evil,
        job_type=evil,
        message=evil,
        source=evil,
        owner=evil,
        labels={evil: evil},
        details_json=evil,
        status=JOB_STATE_FAILED,
        failure_reason=evil,
    )
    text = describe_job(job)
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count(escaped) == 9


def test_a_description_leaves_out_what_is_empty() -> None:
    """A new job has few fields; times are in UTC."""
    job = Job(job_id="j", job_type="t", status=JOB_STATE_RUNNING, attempt=1, revision=1)
    job.create_time_unix_nano = 1_000_000_000_999_999_999
    job.labels["b"], job.labels["a"] = "2", "1"
    assert describe_job(job).splitlines() == [
        "job         j",
        "type        t",
        "status      RUNNING",
        "progress    0 %",
        "attempt     1",
        "revision    1",
        "labels      a=1, b=2",
        "created     2001-09-09 01:46:40 UTC",
    ]
