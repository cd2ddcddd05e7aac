"""Which jobs the flags of a command mean."""

import argparse
from typing import NamedTuple

from emitd.v1 import JobState, ListJobsRequest, WatchJobsRequest
from emitd_cli.command_line.pairs import pairs_from_flag
from emitd_cli.jobs.text import status_from_flag


class JobFilter(NamedTuple):
    """Jobs that match in every respect; what is empty, any job matches."""

    job_type: str
    statuses: tuple[JobState, ...]
    job_ids: tuple[str, ...]
    labels: dict[str, str]

    def list_request(self) -> ListJobsRequest:
        """Return the request for one list of them."""
        return ListJobsRequest(
            job_type=self.job_type, statuses=self.statuses, job_ids=self.job_ids, labels=self.labels
        )

    def watch_request(self) -> WatchJobsRequest:
        """Return the request to be told of them."""
        return WatchJobsRequest(
            job_type=self.job_type, statuses=self.statuses, job_ids=self.job_ids, labels=self.labels
        )


def filter_from_flags(options: argparse.Namespace) -> JobFilter:
    """Return what --type, --status, --label and, where the command has it, --id ask for. Raises Misuse."""
    return JobFilter(
        options.type,
        tuple(map(status_from_flag, options.status)),
        tuple(getattr(options, "id", ())),
        pairs_from_flag("--label", options.label),
    )
