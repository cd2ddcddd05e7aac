"""Jobs as a table and as lines: what is shown at which width, and that nothing breaks the layout."""

import re

import pytest
from rich.cells import cell_len

from emitd.v1 import JOB_STATE_COMPLETED, JOB_STATE_FAILED, JOB_STATE_QUEUED, JOB_STATE_RUNNING, Job
from emitd_cli.jobs.table import draw_table
from emitd_cli.jobs.text import job_lines

NOW = 1_800_000_000 * 1_000_000_000
EVIL = "a\x1b[2J\nb\u202ec"
ESCAPED = "a\\u001b[2J\\nb\\u202ec"
COLOUR = re.compile(r"\x1b\[([\d;]*)m")


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


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a terminal with colours, whatever the tests run on."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


def draw(jobs: list[Job], width: int | None) -> list[str]:
    return COLOUR.sub("", draw_table(jobs, width)).splitlines()


@pytest.mark.parametrize("width", [200, 140, 100, 80, 60, 45, 40])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Neither long ids nor long messages nor wide letters break a line where the terminal would."""
    lines = draw(JOBS, width)
    assert max(map(cell_len, lines)) <= width
    assert {"JOB", "STATUS", "PROGRESS"} <= set(lines[0].split())


@pytest.mark.parametrize("width", [200, 80, 40, 20])
def test_an_id_is_never_cut_off(width: int) -> None:
    """It goes on in the next line: one copies it to `job get`."""
    assert "".join(draw(JOBS, width)).count("x") == 200


def test_columns_give_way_one_by_one() -> None:
    """The message keeps its room; the state and the percentage stay to the end."""
    jobs = [job("nightly-1", message="copying " * 30)]
    headings = {width: draw(jobs, width)[0].split() for width in (120, 92, 83, 75, 25)}
    assert headings[120] == ["JOB", "TYPE", "STATUS", "PROGRESS", "ATTEMPT", "UPDATED", "MESSAGE"]
    assert headings[92] == ["JOB", "TYPE", "STATUS", "PROGRESS", "UPDATED", "MESSAGE"]
    assert headings[83] == ["JOB", "STATUS", "PROGRESS", "UPDATED", "MESSAGE"]
    assert headings[75] == ["JOB", "STATUS", "PROGRESS", "MESSAGE"]
    assert headings[25] == ["JOB", "STATUS", "PROGRESS"]
    assert draw(jobs, 90)[1].endswith("…")


def test_without_a_width_nothing_is_cut_off() -> None:
    """A table for a pipe has one line a job."""
    lines = draw(JOBS, None)
    assert len(lines) == 1 + len(JOBS)
    assert lines[1].endswith(("copying " * 30).rstrip())


def test_a_row() -> None:
    """Each cell stands under its heading; there are no spaces at the end."""
    lines = draw([JOBS[3]], 120)
    heading, row = lines
    assert row.split() == ["j4", "backup", "FAILED", "7%", "1", "2027-01-15T07:57:00Z", "OOM", "no", "memory"]
    assert heading.index("STATUS") == row.index("FAILED")
    assert heading.index("MESSAGE") == row.index("OOM")
    assert row == row.rstrip()


def test_the_status_has_its_colour() -> None:
    """Red for FAILED, green for COMPLETED, cyan for RUNNING, yellow for QUEUED."""
    table = draw_table(JOBS, 120)
    for name, code in (("FAILED", 31), ("COMPLETED", 32), ("RUNNING", 36), ("QUEUED", 33)):
        assert re.search(rf"\x1b\[{code}m{name}", table), name


@pytest.mark.parametrize(("value", "is_coloured"), [("1", False), ("anything", False), ("", True)])
def test_no_color(monkeypatch: pytest.MonkeyPatch, value: str, is_coloured: bool) -> None:
    """Any value that is not empty takes the colours away."""
    monkeypatch.setenv("NO_COLOR", value)
    codes = {code for codes in COLOUR.findall(draw_table(JOBS, 120)) for code in codes.split(";")}
    assert bool(codes & {"31", "32", "33", "36"}) is is_coloured


def test_texts_of_senders_are_only_texts() -> None:
    """No control character moves the cursor, no markup of rich is obeyed, no emoji code replaced."""
    evil = job(EVIL, JOB_STATE_FAILED, job_type=EVIL, failure_message=f"{EVIL} [bold]x[/] :tada:")
    for text in (COLOUR.sub("", draw_table([evil], 200)), "\n".join(job_lines([evil]))):
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
