"""The jobs of `emitd demo`: live bars on a terminal, elsewhere a line for each change of status."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from emitd.v1 import JOB_STATE_COMPLETED, JOB_STATE_FAILED, JOB_STATE_RUNNING, Job, WatchJobResponse
from emitd_cli.demo.screen import INDENT, Screen
from emitd_cli.jobs.text import job_line, last_words, status_name, transition_line
from emitd_cli.terminal.console import STATUS_COLOURS
from emitd_cli.terminal.output import one_line

BAR_WIDTH = 21
REFRESHES_PER_SECOND = 15


class JobBars:
    """Draws every job as one line that changes in place."""

    def __init__(self, screen: Screen, job_ids: Sequence[str]) -> None:
        self._has_signs = not screen.console.options.ascii_only
        self._id_width = max(map(len, job_ids))
        #: In the order in which they are drawn.
        self._jobs = {job_id: Job(job_id=job_id) for job_id in job_ids}
        self._spinner = Spinner("dots" if self._has_signs else "line", style="cyan")

    def show(self, response: WatchJobResponse) -> None:
        """Take a job's new state."""
        self._jobs[response.job.job_id] = response.job

    def __rich__(self) -> Table:
        """Return the bars as they stand."""
        table = Table.grid(padding=(0, 1, 0, 0))
        for job in self._jobs.values():
            if job.status:
                table.add_row(*self._row(job))
        return table

    def _row(self, job: Job) -> Iterator[RenderableType]:
        colour = STATUS_COLOURS[status_name(job.status)]
        yield self._sign(job)
        yield Text(job.job_id.ljust(self._id_width), "bold", no_wrap=True)
        yield Text(f" {status_name(job.status):<9} ", colour, no_wrap=True)
        yield ProgressBar(
            100, job.progress, BAR_WIDTH, complete_style=colour, finished_style=colour, style="grey30"
        )
        yield Text(f"{job.progress:>4} % ", no_wrap=True)
        failed = job.status == JOB_STATE_FAILED
        yield Text(one_line(last_words(job)), "red" if failed else "", no_wrap=True, overflow="ellipsis")

    def _sign(self, job: Job) -> RenderableType:
        if job.status == JOB_STATE_RUNNING:
            spinner = Table.grid()
            spinner.add_row(INDENT, self._spinner)
            return spinner
        good, bad = ("✓", "✗") if self._has_signs else ("+", "x")
        sign = {JOB_STATE_COMPLETED: good, JOB_STATE_FAILED: bad}.get(job.status, " ")
        return Text(f"{INDENT}{sign}", f"bold {STATUS_COLOURS[status_name(job.status)]}")


class JobLines:
    """Writes a line for each change of a job's status; how it ended, with its last words."""

    def __init__(self, screen: Screen, job_ids: Sequence[str]) -> None:
        self._screen = screen
        self._id_width = max(map(len, job_ids))

    def show(self, response: WatchJobResponse) -> None:
        """Take a job's new state."""
        job = response.job
        for transition in response.transitions:
            is_last = job.ended and transition.revision == job.revision
            text = job_line(job) if is_last else transition_line(job.job_id, transition)
            self._screen.line(INDENT + job.job_id.ljust(self._id_width) + text.removeprefix(job.job_id))


@contextmanager
def show_jobs(screen: Screen, job_ids: Sequence[str]) -> Iterator[JobBars | JobLines]:
    """Give what shows the jobs until the end of the context, where bars get their final form."""
    if not screen.is_live:
        yield JobLines(screen, job_ids)
        return
    bars, console = JobBars(screen, job_ids), screen.console
    # A picture gets only the final form: recorded, each refresh would stand below the one before.
    is_recorded, console.record = console.record, False
    try:
        with Live(bars, console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True):
            yield bars
    finally:
        console.record = is_recorded
        console.print(bars)
