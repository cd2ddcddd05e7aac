"""The frames of a watch of jobs: what is drawn at which size."""

import re
import time

import pytest
from rich.cells import cell_len

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobChange,
    JobState,
    WatchJobResponse,
    WatchJobsResponse,
)
from emitd_cli.jobs.bars import bars_frame
from emitd_cli.jobs.board import JobBoard
from emitd_cli.jobs.text import NANOS

EVIL = "a\x1b[2J\nb\u202ec"
ESCAPED = "a\\u001b[2J\\nb\\u202ec"
COLOUR = re.compile(r"\x1b\[([\d;]*)m")
DIM = "\x1b[2m"


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a terminal with colours, whatever the tests run on."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


def job(
    job_id: str, status: JobState = JOB_STATE_RUNNING, progress: int = 40, created: int = 1, **fields: str
) -> Job:
    return Job(
        job_id=job_id,
        job_type=fields.pop("job_type", "backup"),
        status=status,
        progress=progress,
        attempt=1,
        revision=1,
        create_time_unix_nano=created,
        **fields,
    )


def running_for(seconds: float, **fields: object) -> Job:
    started = job("nightly-1", message="copying")
    started.start_time_unix_nano = time.time_ns() - int(seconds * NANOS)
    started.MergeFrom(Job(**fields))  # type: ignore[arg-type]
    return started


def board_of(*jobs: Job) -> JobBoard:
    """All of them match a filter."""
    board = JobBoard()
    changes = [JobChange(job=one) for one in jobs]
    board.take(WatchJobsResponse(changes=changes, snapshot_end=True), begins=True)
    return board


def draw(board: JobBoard, width: int = 120, height: int = 40, *, is_final: bool = False) -> list[str]:
    return [COLOUR.sub("", line) for line in bars_frame(board, width, height, is_final)]


JOBS = (
    job("nightly-1", message="copying " * 30),
    job("x" * 200, JOB_STATE_QUEUED, 0),
    job("日本語" * 9, JOB_STATE_COMPLETED, 100, job_type="日本語タイプ" * 9),
    job("j4", JOB_STATE_FAILED, 7, failure_reason="OOM", failure_message="no memory " * 9),
)


def test_a_row() -> None:
    """What the job is, how far, for how long, how long yet, and its last words, under headings."""
    heading, row = draw(board_of(running_for(60)))
    assert heading.split() == ["JOB", "TYPE", "STATUS", "PROGRESS", "DONE", "ELAPSED", "LEFT", "MESSAGE"]
    cells = ["nightly-1", "backup", "RUNNING", "━━━━━━╺━━━━━━━━━", "40", "%", "1:00", "1:30", "copying"]
    assert row.split() == cells


def test_what_cannot_be_said() -> None:
    """A job that waits has run for no time, and one that has ended has none left."""
    assert draw(board_of(job("j", JOB_STATE_QUEUED, 0)))[1].split()[-2:] == ["–", "–"]
    ended = running_for(60, status=JOB_STATE_COMPLETED, progress=100)
    ended.end_time_unix_nano = ended.start_time_unix_nano + 42 * NANOS
    assert draw(board_of(ended))[1].split()[-3:] == ["0:42", "–", "copying"]


def test_a_failure_and_a_wish_are_seen() -> None:
    """Why it has failed in red; that it is asked to stop in yellow, until it has ended."""
    failed = job("j", JOB_STATE_FAILED, failure_reason="OOM", failure_message="no memory", message="last")
    assert "\x1b[31mOOM no memory" in bars_frame(board_of(failed), 120, 40, False)[1]
    asked = job("j", message="copying", cancel_reason="too slow")
    asked.cancel_requested = True
    assert "\x1b[33m(cancel requested: too slow) copying" in bars_frame(board_of(asked), 120, 40, False)[1]
    asked.status = JOB_STATE_COMPLETED
    assert draw(board_of(asked))[1].endswith("  copying")


def test_the_attempt_is_told_where_there_is_a_second() -> None:
    """Else its column would say nothing."""
    second = job("b")
    second.attempt = 2
    assert "ATTEMPT" in draw(board_of(job("a"), second))[0]
    assert "ATTEMPT" not in draw(board_of(job("a")))[0]


def test_the_status_has_its_colour() -> None:
    """The bar as well."""
    frame = "\n".join(bars_frame(board_of(*JOBS), 120, 40, False))
    for name, code in (("FAILED", 31), ("COMPLETED", 32), ("RUNNING", 36), ("QUEUED", 33)):
        assert re.search(rf"\x1b\[{code}m{name}", frame), name
    assert "\x1b[36m━━━━━━\x1b" in frame


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same texts without colours."""
    with_colours = draw(board_of(*JOBS))
    monkeypatch.setenv("NO_COLOR", "1")
    drawn = bars_frame(board_of(*JOBS), 120, 40, False)
    codes = {code for codes in COLOUR.findall("\n".join(drawn)) for code in codes.split(";")}
    assert not codes & {"31", "32", "33", "36", "38"}
    # What is not done yet of a bar is told from the rest by its colour alone.
    assert [COLOUR.sub("", line).replace("━", " ") for line in drawn] == [
        re.sub("[━╺╸]", " ", line) for line in with_colours
    ]


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 45, 40])
def test_each_job_has_one_line_no_wider_than_the_terminal(width: int) -> None:
    """Long ids lose their middle, long messages their end; wide letters count twice."""
    drawn = draw(board_of(*JOBS), width)
    assert len(drawn) == 1 + len(JOBS)
    assert max(map(cell_len, drawn)) <= width


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (100, "JOB STATUS PROGRESS DONE ELAPSED LEFT MESSAGE"),
        (80, "JOB STATUS PROGRESS DONE ELAPSED MESSAGE"),
        (68, "JOB STATUS PROGRESS DONE MESSAGE"),
        (40, "JOB STATUS DONE MESSAGE"),
        (30, "JOB STATUS DONE"),
    ],
)
def test_columns_give_way_one_by_one(width: int, headings: str) -> None:
    """Where the job stands and what it says last stay longest."""
    assert draw(board_of(*JOBS), width)[0].split() == headings.split()


def test_texts_of_senders_are_only_texts() -> None:
    """No control character moves the cursor, no markup of rich is obeyed, no emoji code replaced."""
    evil = job(EVIL, JOB_STATE_FAILED, job_type=EVIL, failure_message=f"{EVIL} [bold]x[/] :tada:")
    drawn = draw(board_of(evil), 200)
    assert all(line.isprintable() for line in drawn)
    assert drawn[1].startswith(ESCAPED)
    assert drawn[1].endswith("[bold]x[/] :tada:")


def many(count: int) -> JobBoard:
    """The older half is running, the newer half has ended."""
    return board_of(
        *(
            job(f"j{n:03}", JOB_STATE_RUNNING if n < count // 2 else JOB_STATE_COMPLETED, created=n + 1)
            for n in range(count)
        )
    )


def test_the_newest_active_jobs_go_first() -> None:
    """Those without room are counted in the last line; one line stays free for what is typed."""
    drawn = draw(many(20), height=10)
    assert [line.split()[0] for line in drawn[1:-1]] == [
        "j009",
        "j008",
        "j007",
        "j006",
        "j005",
        "j004",
        "j003",
    ]
    assert drawn[-1] == "and 13 more: 3 RUNNING, 10 COMPLETED"
    assert len(drawn) == 9
    assert len(draw(many(8), height=10)) == 9
    assert draw(many(9), height=10)[-1] == "and 2 more: 2 COMPLETED"
    assert len(draw(many(9), height=1)) == 3


def test_a_list_is_cut_at_its_limit() -> None:
    """What the limit cuts off is counted too, however high the terminal."""
    drawn = bars_frame(many(20), 100, 40, False, most=2)
    assert len(drawn) == 4
    assert drawn[-1] == "and 18 more: 8 RUNNING, 10 COMPLETED"


def test_a_job_that_matches_no_longer_is_dim() -> None:
    """It is still in sight, with its last state."""
    board = board_of(job("a"), job("b"))
    left = job("b", JOB_STATE_COMPLETED)
    left.revision = 2
    board.take(WatchJobsResponse(changes=[JobChange(job=left, left_filter=True)]), begins=False)
    by_id = {COLOUR.sub("", line).split()[0]: line for line in bars_frame(board, 100, 40, False)}
    assert "COMPLETED" in by_id["b"]
    assert "\x1b[2;" in by_id["b"] or DIM in by_id["b"]
    assert DIM not in by_id["a"]


def test_before_anything_is_known_nothing_is_drawn() -> None:
    """Then, that nothing matches."""
    assert draw(JobBoard()) == []
    assert draw(board_of()) == ["no job is like that"]


def test_jobs_that_were_named() -> None:
    """In the order in which they were named; what is not known yet, or no more, is said."""
    board = JobBoard(["c", "b", "a"])
    board.take(WatchJobResponse(job=job("a", JOB_STATE_COMPLETED)), begins=True)
    board.rows["b"].problem = "NOT_FOUND: there is no job 'b'"
    drawn = draw(board)
    assert [line.split()[0] for line in drawn[1:]] == ["c", "b", "a"]
    assert drawn[1].endswith("no report yet")
    assert drawn[2].endswith("NOT_FOUND: there is no job 'b'")


def test_jobs_that_are_waited_for() -> None:
    """They are in sight before anything is known of any of them."""
    drawn = draw(JobBoard(["a", "b"], is_complete=True))
    assert [re.split(" {2,}", line) for line in drawn[1:]] == [
        ["a", "0 %", "–", "–", "no report yet"],
        ["b", "0 %", "–", "–", "no report yet"],
    ]


def test_more_named_jobs_than_rows() -> None:
    """The active ones first, until the last frame, which has all of them in their order."""
    ids = [f"j{n}" for n in range(8)]
    board = JobBoard(ids)
    for number, job_id in enumerate(ids):
        status = JOB_STATE_COMPLETED if number < 4 else JOB_STATE_RUNNING
        board.take(WatchJobResponse(job=job(job_id, status)), begins=True)
    drawn = draw(board, height=6)
    assert [line.split()[0] for line in drawn] == ["JOB", "j4", "j5", "j6", "and"]
    assert drawn[-1] == "and 5 more: 1 RUNNING, 4 COMPLETED"
    assert [line.split()[0] for line in draw(board, height=6, is_final=True)] == ["JOB", *ids]


def test_the_last_frame_says_in_full_why_a_job_has_failed() -> None:
    """Below one another where one line has no room."""
    drawn = draw(board_of(*JOBS), 80, is_final=True)
    assert max(map(cell_len, drawn)) <= 80
    assert " ".join(" ".join(drawn).split()).count("no memory") >= 1
    words = "".join(line[-17:] for line in drawn if line.startswith((" ", "j4"))).split()
    assert words.count("memory") == 9
