"""The flags of `emitd job` and its commands."""

from emitd_cli.command_line.flags import (
    EXIT_CODES,
    JSON_HELP,
    Commands,
    add_address,
    add_command,
    positive,
    seconds,
    whole,
)
from emitd_cli.command_line.parser import HelpFormatter, Parser

__all__ = ["add_job"]

JSON_LINES = JSON_HELP.format("JSON, one object a line")


def add_job(commands: Commands) -> None:
    """Add the commands."""
    job = commands.add_parser(
        "job",
        help="list, read, watch and cancel jobs",
        description="List, read, watch and cancel jobs.",
        epilog=f"examples:\n  emitd job list --status FAILED\n  emitd job watch nightly-1\n\n{EXIT_CODES}",
        formatter_class=HelpFormatter,
    )
    actions: Commands = job.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_list(actions)
    _add_get(actions)
    _add_watch(actions)
    _add_history(actions)
    _add_cancel(actions)


def _add_list(actions: Commands) -> None:
    parser = add_command(
        actions,
        "list",
        "jobs.commands:run_list",
        "List jobs, the newest first. Exits with 0 however the jobs fare, also if there are none.",
        "  emitd job list\n"
        "  emitd job list --type backup --status RUNNING --status QUEUED --watch\n"
        "  emitd job list --updated-after 15m --label team=search --json\n"
        "  emitd job list --updated-after 2026-11-23T08:00 --limit 1000 | grep OOM\n",
    )
    add_address(parser)
    _add_filter(parser)
    parser.add_argument(
        "--id", action="append", default=[], metavar="JOB_ID", help="only the job with this id; may repeat"
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
    parser.add_argument(
        "--watch",
        action="store_true",
        help="keep the table true until Ctrl-C; in a pipe a line for each change, with --json each message",
    )
    parser.add_argument("--json", action="store_true", help=JSON_LINES)


def _add_get(actions: Commands) -> None:
    parser = add_command(
        actions,
        "get",
        "jobs.commands:run_get",
        "Show one job. Exits with 0 for any job that has not FAILED, 1 for FAILED, 4 if there is none.",
        "  emitd job get nightly-1\n  emitd job get nightly-1 --json\n",
    )
    _add_job_id(parser)


def _add_watch(actions: Commands) -> None:
    parser = add_command(
        actions,
        "watch",
        "jobs.watch:run",
        "Follow jobs live. Those that are named are followed to their end: exits with 0 if all are\n"
        "COMPLETED, 1 if one has FAILED, 4 when it cannot tell. Those that match a filter are\n"
        "followed until Ctrl-C, or --timeout, which is then exit code 0.",
        "  emitd job watch nightly-1\n"
        "  emitd job watch nightly-1 nightly-2 --wait --timeout 3600\n"
        "  emitd job watch --type backup --status RUNNING --status QUEUED\n"
        "  emitd job watch --label team=search --json\n",
        usage="emitd job watch JOB_ID... [options]\n"
        "       emitd job watch [--type NAME] [--status NAME] [--label KEY=VALUE] [options]",
    )
    add_address(parser)
    parser.add_argument("job_ids", nargs="*", metavar="JOB_ID", help="the id of a job; up to 100")
    _add_filter(parser)
    parser.add_argument(
        "--wait", action="store_true", help="wait for a job, and a server, that is not there yet"
    )
    parser.add_argument(
        "--after-revision",
        type=whole,
        metavar="N",
        help="also show the changes after revision N of a job; 0: all",
    )
    parser.add_argument(
        "--retry-seconds",
        type=seconds,
        metavar="SECONDS",
        help="how long to try to reach a server that went away (default: 60; with a filter: until it answers)",
    )
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="give up on jobs that take longer")
    parser.add_argument("--json", action="store_true", help=JSON_LINES)


def _add_history(actions: Commands) -> None:
    parser = add_command(
        actions,
        "history",
        "jobs.commands:run_history",
        "Show the history of one job. All attempts, the oldest first, and how long each status\n"
        "lasted. Exits with 0 however the job fares, 4 if there is none.",
        "  emitd job history nightly-1\n  emitd job history nightly-1 --after-revision 17 --json\n",
    )
    _add_job_id(parser)
    parser.add_argument(
        "--after-revision", type=whole, default=0, metavar="N", help="only what came after revision N"
    )


def _add_cancel(actions: Commands) -> None:
    parser = add_command(
        actions,
        "cancel",
        "jobs.commands:run_cancel",
        "Ask a job to stop. Its worker is told with the next report, and ends it by itself.\n"
        "Exits with 0 also if the job has ended, 4 if there is none.",
        "  emitd job cancel nightly-1 --reason 'runs into the working day'\n",
    )
    _add_job_id(parser)
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for people")


def _add_job_id(parser: Parser) -> None:
    add_address(parser)
    parser.add_argument("job_id", metavar="JOB_ID", help="the job's id")
    parser.add_argument("--json", action="store_true", help=JSON_LINES)


def _add_filter(parser: Parser) -> None:
    parser.add_argument("--type", default="", metavar="NAME", help="only jobs of this type")
    parser.add_argument(
        "--status",
        action="append",
        default=[],
        metavar="NAME",
        help="only jobs that are QUEUED, RUNNING, COMPLETED or FAILED; may repeat",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only jobs with this label; may repeat, and all must be there",
    )
