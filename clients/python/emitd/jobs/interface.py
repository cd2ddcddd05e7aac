"""`AsyncJobReporter`: what every reporter of a job can do, in process or over the network."""

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

__all__ = ["AsyncJobReporter"]


class AsyncJobReporter(Protocol):
    """Reports one run of a job, from `async with` to its end.

    Entering opens a new attempt, reports RUNNING and waits for the receipt. Leaving reports COMPLETED; or, with an
    exception, FAILED with its type and message, and the exception goes on. A cancelled task's job is FAILED with
    the reason CANCELLED. The last report is sent even while the task is being cancelled.

    The plain calls only note what is new. It is sent in the background, a few times a second at most, and only the
    latest; nothing that was noted is lost for the last report.

    Where the attempt has ended, or was superseded, without its reporter, all further plain calls raise LeaseLost, as
    soon as a report was answered so; what is noted changes nothing any more.
    """

    @property
    def job_id(self) -> str:
        """The job's id."""

    @property
    def attempt(self) -> int:
        """Which run of the job this is, from 1; 0 before it was opened."""

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody wishes that the job stop. Learnt from the answers to reports, so with a `lease` soon."""

    def refuse_if_lost(self) -> None:
        """Raise LeaseLost if the job is lost. For work that has nothing to note."""

    async def queued(self) -> None:
        """Open the attempt with QUEUED, for a job that is entered later. Optional.

        From here on others can find the job. Raises what entering raises.
        """

    def advance(self, steps: int = 1, /) -> None:
        """Note that so many more of `total` steps are done. Raises ValueError if there is no `total`."""

    def progress(self, percent: float, /) -> None:
        """Note the progress. Raises ValueError outside of 0 to 100."""

    def message(self, text: str, /) -> None:
        """Note what the job is doing, for people. Cut to 4,000 characters."""

    def details(self, details: Mapping[str, object], /) -> None:
        """Note the job's own data; it replaces what was there. Raises TypeError naming the key that is no JSON.

        Data that the service refuses, such as for its size, makes the end of the job FAILED; until then the job keeps
        the data it had.
        """

    async def __aenter__(self) -> Self:
        """Report RUNNING. Raises JobNotApplied, RecordRejected, Unavailable or ClientNotOpen."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Report the end. If that fails, raise why, unless an exception is on its way already; so for a lost job too.

        Where the last data or message was refused, the job is FAILED, without them.
        """
