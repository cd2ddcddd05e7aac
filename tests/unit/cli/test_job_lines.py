"""The lines of a list of jobs: nothing is cut off, and nothing breaks the layout."""

from rich.cells import cell_len

from emitd.v1 import JOB_STATE_COMPLETED, JOB_STATE_FAILED, JOB_STATE_QUEUED, JOB_STATE_RUNNING, Job
from emitd_cli.jobs.text import job_lines

NOW = 1_800_000_000 * 1_000_000_000
EVIL = "a\x1b[2J\nb\u202ec"
ESCAPED = "a\\u001b[2J\\nb\\u202ec"


def job(
    job_id: str, status: int = JOB_STATE_RUNNING, progress: int = 40, message: str = "", **fields: str
) -> Job:
    return Job(
        job_id=job_id,
        job_type=fields.pop("job_type", "backup"),
        status=status,  # type: ignore[arg-type]
        progress=progress,
        attempt=1,
        message=message,
        update_time_unix_nano=NOW - 180 * 1_000_000_000,
        **fields,
    )


JOBS = [
    job("nightly-1", message="copying " * 30),
    job("x" * 200, JOB_STATE_QUEUED, 0),
    job("日本語", JOB_STATE_COMPLETED, 100, job_type="日本語タイプ" * 9),
    job("j4", JOB_STATE_FAILED, 7, failure_reason="OOM", failure_message="no memory"),
]


def test_texts_of_senders_are_only_texts() -> None:
    """No control character moves the cursor."""
    evil = job(EVIL, JOB_STATE_FAILED, job_type=EVIL, failure_message=f"{EVIL} [bold]x[/] :tada:")
    text = "\n".join(job_lines([evil]))
    assert text.count(ESCAPED) == 3
    assert "[bold]x[/] :tada:" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == 2


def test_lines_for_a_pipe() -> None:
    """One line a job under its heading, nothing cut off, the time in full; wide letters count twice."""
    lines = list(job_lines(JOBS))
    assert len(lines) == 1 + len(JOBS)
    assert lines[0].split() == ["JOB", "TYPE", "STATUS", "PROGRESS", "ATTEMPT", "UPDATED", "MESSAGE"]
    assert lines[1].endswith(
        "  RUNNING    40%       1        2027-01-15T07:57:00Z  " + ("copying " * 30).rstrip()
    )
    assert "x" * 200 in lines[2]
    assert "日本語タイプ" * 9 in lines[3]
    short = list(job_lines([JOBS[3], job("日本語", JOB_STATE_COMPLETED, 100), job("e\u0301")]))
    columns = [cell_len(line.partition("backup")[0]) for line in short[1:]]
    assert len(set(columns)) == 1
