"""`AsyncJobReporter`: what every reporter of a job can do, in process or over the network."""

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, SupportsFloat

#: How long a job lives without a report, unless its reporter is given another lease or none.
DEFAULT_LEASE_SECONDS = 60


class AsyncJobReporter(Protocol):
    """Reports one run of a job, from `async with` to its end.

    Entering opens a new attempt, reports RUNNING and waits for the receipt. Leaving reports COMPLETED, also by
    `sys.exit(0)`; or, by any other exception, FAILED with its type and message. The exception goes on. The job of a
    cancelled task is FAILED with the reason CANCELLED. The last report is sent even while the task is being cancelled.

    The plain calls only note what is new. The latest state is sent in the background, a few times a second at most; the
    last report has all of it. If the attempt has ended or was superseded without its reporter, all further plain calls
    raise LeaseLost, as soon as an answer has said so.
    """

    @property
    def job_id(self) -> str:
        """The job's id."""

    @property
    def attempt(self) -> int:
        """Which run of the job this is, from 1; 0 before it is opened."""

    @property
    def cancel_requested(self) -> bool:
        """Whether the job was asked to stop. The answers to reports say so; with a `lease`, soon."""

    def refuse_if_lost(self) -> None:
        """Raise LeaseLost if the job is lost. For work that has nothing to note."""

    async def queued(self) -> None:
        """Open the attempt with QUEUED, for a job that is entered later. Optional. Raises what entering raises."""

    def advance(self, steps: SupportsFloat = 1, /) -> None:
        """Note that further steps of `total` are done. Without a `total` the progress stays as it is."""

    def progress(self, percent: SupportsFloat, /) -> None:
        """Note the progress. Raises ValueError outside of 0 to 100."""

    def message(self, text: str, /) -> None:
        """Note what the job is doing, for people. Cut to 4,000 characters."""

    def details(self, details: Mapping[str, object], /) -> None:
        """Note the job's own data; it replaces the earlier data. Raises TypeError naming the key that is no JSON.

        If the service refuses the data, such as for its size, the job ends as FAILED and keeps the data that it had.
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
        """Report the end. Raises if that fails or the job is lost, unless an exception is on its way already.

        If the last data or message was refused, the job is FAILED, without them.
        """
