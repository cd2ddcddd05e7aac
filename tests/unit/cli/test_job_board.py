"""`JobBoard`: what the messages of watches make of the jobs in sight."""

from emitd.v1 import (
    JOB_STATE_COMPLETED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobChange,
    JobState,
    WatchJobResponse,
    WatchJobsResponse,
)
from emitd_cli.jobs.board import LEFT_SECONDS, BoardChange, JobBoard, watch_rows


class Watched:
    """A board whose clocks stand still, and what the messages told that it took."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.board = JobBoard(monotonic=lambda: self.seconds)

    def take(self, *changes: JobChange, begins: bool = False, end: bool = False) -> list[BoardChange]:
        return self.board.take(WatchJobsResponse(changes=changes, snapshot_end=end), begins=begins)

    @property
    def ids(self) -> set[str]:
        return set(self.board.rows)


def change(
    job_id: str,
    revision: int = 1,
    status: JobState = JOB_STATE_RUNNING,
    *,
    left: bool = False,
    created: int = 1,
) -> JobChange:
    job = Job(job_id=job_id, revision=revision, status=status, create_time_unix_nano=created)
    return JobChange(job=job, left_filter=left)


def removed(job_id: str, revision: int = 1) -> JobChange:
    return JobChange(job=Job(job_id=job_id, revision=revision), left_filter=True)


def told(news: list[BoardChange]) -> list[tuple[str, int, bool]]:
    return [(one.job.job_id, one.job.revision, one.has_left) for one in news]


def test_a_snapshot_and_changes() -> None:
    """Everything is news once; the jobs are known when the snapshot has ended."""
    watched = Watched()
    assert told(watched.take(change("a"), change("b"), begins=True)) == [("a", 1, False), ("b", 1, False)]
    assert not watched.board.is_complete
    assert watched.take(end=True) == []
    assert watched.board.is_complete
    assert told(watched.take(change("a", 2), change("c"))) == [("a", 2, False), ("c", 1, False)]
    assert watched.ids == {"a", "b", "c"}


def test_a_new_snapshot_is_merged() -> None:
    """What is known is no news, what is older changes nothing, and what it has not told matches no longer."""
    watched = Watched()
    watched.take(*(change(job_id, 5) for job_id in "abcd"), begins=True, end=True)
    assert told(watched.take(change("a", 5), change("b", 6), begins=True)) == [("b", 6, False)]
    assert told(watched.take(change("c", 4), end=True)) == [("d", 5, True)]
    assert watched.board.rows["c"].job.revision == 5
    assert watched.take(end=True) == []


def test_a_snapshot_that_was_cut_off() -> None:
    """The next one begins anew."""
    watched = Watched()
    watched.take(change("a"), change("b"), begins=True, end=True)
    watched.take(change("a"), begins=True)
    assert told(watched.take(change("b"), begins=True, end=True)) == [("a", 1, True)]


def test_a_job_made_anew_begins_with_revision_1() -> None:
    """The later creation counts, not the lower revision."""
    watched = Watched()
    watched.take(change("a", 9), begins=True, end=True)
    assert told(watched.take(change("a", 1, created=2))) == [("a", 1, False)]
    assert watched.take(change("a", 10, created=1)) == []


def test_a_job_that_leaves() -> None:
    """It is news with its last state, stays in sight for some seconds, and may come back meanwhile."""
    watched = Watched()
    watched.take(change("a"), change("b"), begins=True, end=True)
    (news,) = watched.take(change("a", 2, JOB_STATE_COMPLETED, left=True))
    assert (news.job.status, news.has_left, news.is_removed) == (JOB_STATE_COMPLETED, True, False)
    watched.seconds += LEFT_SECONDS - 0.1
    watched.board.forget()
    assert watched.ids == {"a", "b"}
    assert told(watched.take(change("a", 3))) == [("a", 3, False)]
    watched.take(change("a", 4, left=True))
    watched.seconds += LEFT_SECONDS
    watched.board.forget()
    assert watched.ids == {"b"}


def test_a_job_that_was_removed() -> None:
    """Only its id comes; it is shown as it was known last."""
    watched = Watched()
    watched.take(change("a", 3), begins=True, end=True)
    (news,) = watched.take(removed("a", 3))
    assert (news.job.status, news.job.revision, news.has_left, news.is_removed) == (
        JOB_STATE_RUNNING,
        3,
        True,
        True,
    )


def test_what_was_never_told_cannot_leave() -> None:
    """Nor what left already, nor what is known to be newer."""
    watched = Watched()
    watched.take(change("a", 5), begins=True, end=True)
    assert watched.take(change("z", 1, left=True), removed("y"), change("a", 4, left=True)) == []
    watched.take(change("a", 6, left=True))
    assert watched.take(removed("a", 6)) == []
    assert watched.take(begins=True, end=True) == []


def test_the_jobs_of_ids_keep_their_order() -> None:
    """They are in sight before anything is known of them."""
    board = JobBoard(["b", "a"])
    board.take(WatchJobResponse(job=Job(job_id="a", status=JOB_STATE_RUNNING)), begins=True)
    assert list(board.rows) == ["b", "a"]
    assert board.rows["b"].job == Job(job_id="b")


def test_active_jobs_go_first() -> None:
    """Of each kind the newest; those that have ended, left or are lost go last."""
    watched = Watched()
    watched.take(
        change("old", created=1),
        change("ended", status=JOB_STATE_COMPLETED, created=9),
        change("new", status=JOB_STATE_QUEUED, created=5),
        change("left", created=8),
        change("lost", created=7),
        begins=True,
        end=True,
    )
    watched.take(change("left", 2, left=True, created=8))
    watched.board.rows["lost"].problem = "NOT_FOUND"
    assert [row.job.job_id for row in watch_rows(watched.board, 40)] == [
        "new",
        "old",
        "ended",
        "left",
        "lost",
    ]


def test_where_an_attempt_began() -> None:
    """The progress of the first RUNNING report that was seen counts as done before; each attempt has its own."""
    board = JobBoard(["a"])

    def take(start: int, update: int, progress: int) -> int:
        job = Job(
            job_id="a",
            status=JOB_STATE_RUNNING,
            progress=progress,
            start_time_unix_nano=start,
            update_time_unix_nano=update,
        )
        board.take(WatchJobResponse(job=job), begins=False)
        return board.rows["a"].start_progress

    assert take(start=10, update=20, progress=50) == 0
    assert take(start=30, update=30, progress=40) == 40
    assert take(start=30, update=35, progress=60) == 40
    assert take(start=50, update=60, progress=70) == 0
