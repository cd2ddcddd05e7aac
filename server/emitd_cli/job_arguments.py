"""The flags of `emitd job` and its commands."""

from emitd_cli.flags import (
    EXIT_CODES,
    JSON_HELP,
    Commands,
    add_address,
    add_command,
    positive,
    seconds,
    whole,
)
from emitd_cli.parser import HelpFormatter

__all__ = ["add_job"]


def add_job(commands: Commands) -> None:
    """Add the commands."""
    job = commands.add_parser(
        "job",
        help="list, read and watch jobs",
        description="List, read and watch jobs.",
        epilog=f"examples:\n  emitd job list --status FAILED\n  emitd job watch nightly-1\n\n{EXIT_CODES}",
        formatter_class=HelpFormatter,
    )
    actions: Commands = job.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_job_list(actions)
    get = add_command(
        actions,
        "get",
        "job_get",
        "Show one job. Exits with 0 for any job that has not FAILED, 1 for FAILED, 4 if there is none.",
        "  emitd job get nightly-1\n  emitd job get nightly-1 --json\n",
    )
    watch = add_command(
        actions,
        "watch",
        "job_watch",
        "Follow one job to its end. Exits with 0 for COMPLETED, 1 for FAILED, 4 when it cannot tell.",
        "  emitd job watch nightly-1\n  emitd job watch nightly-2 --wait --timeout 3600 --json\n",
    )
    for parser in (get, watch):
        add_address(parser)
        parser.add_argument("job_id", metavar="JOB_ID", help="the job's id")
        parser.add_argument("--json", action="store_true", help=JSON_HELP.format("JSON, one object a line"))
    watch.add_argument(
        "--wait", action="store_true", help="wait for a job, and a server, that is not there yet"
    )
    watch.add_argument(
        "--after-revision", type=whole, metavar="N", help="also show the changes after revision N; 0: all"
    )
    watch.add_argument(
        "--retry-seconds",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to try to reach a server that went away (default: 60)",
    )
    watch.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="give up on a job that takes longer"
    )


def _add_job_list(actions: Commands) -> None:
    parser = add_command(
        actions,
        "list",
        "job_list",
        "List jobs, the newest first. Exits with 0 however the jobs fare, also if there are none.",
        "  emitd job list\n"
        "  emitd job list --type backup --status RUNNING --status QUEUED\n"
        "  emitd job list --updated-after 15m --json\n"
        "  emitd job list --updated-after 2026-11-23T08:00 --limit 1000 | grep OOM\n",
    )
    add_address(parser)
    parser.add_argument("--type", default="", metavar="NAME", help="only jobs of this type")
    parser.add_argument(
        "--status",
        action="append",
        default=[],
        metavar="NAME",
        help="only jobs that are QUEUED, RUNNING, COMPLETED or FAILED; may repeat",
    )
    parser.add_argument(
        "--updated-after",
        metavar="WHEN",
        help="only jobs with a later report: a time such as 2026-11-23T08:00 (UTC where it does not say), "
        "or so long ago, such as 90s, 15m, 2h30m or 7d",
    )
    parser.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="at most so many jobs (default: 50)"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("JSON, one object a line"))
