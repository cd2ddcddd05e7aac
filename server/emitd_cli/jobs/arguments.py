"""The flags of `emitd job` and its commands."""

from emitd_cli.command_line.flags import (
    Commands,
    add_command,
    add_group,
    add_json,
    add_server,
    option,
    positive,
    seconds,
    whole,
)
from emitd_cli.command_line.parser import Parser

JSON_LINES = "JSON, one object a line"


def add_job(commands: Commands) -> None:
    """Add the commands."""
    actions = add_group(
        commands,
        "job",
        "List, read, watch and cancel jobs.",
        "  emitd job list --status FAILED\n  emitd job watch nightly-1\n",
    )
    listing = add_command(
        actions,
        "list",
        "jobs.commands:run_list",
        "List jobs, the newest first. Exits with 0 whatever their status, also if there are none.",
        "  emitd job list\n"
        "  emitd job list --type backup --status RUNNING --status QUEUED --watch\n"
        "  emitd job list --updated-after 15m --label team=search --json\n"
        "  emitd job list --updated-after 2026-11-23T08:00 --limit 1000 | grep OOM\n",
    )
    add_server(listing)
    _add_filter(listing)
    option(listing, "--id JOB_ID", "only the job with this id; may repeat", repeats=True)
    option(
        listing,
        "--updated-after WHEN",
        "only jobs with a later report: a time such as 2026-11-23T08:00 (UTC if it does not say), "
        "or a time ago, such as 90s, 15m, 2h30m or 7d",
    )
    option(listing, "--limit N", "at most N jobs (default: 50)", type=positive, default=50)
    option(
        listing,
        "--watch",
        "follow the jobs until Ctrl-C, as `emitd job watch` does: at most N bars on a terminal",
    )
    add_json(listing, JSON_LINES)
    get = add_command(
        actions,
        "get",
        "jobs.commands:run_get",
        "Show one job. Exits with 0 for any job that has not FAILED, 1 for FAILED, 4 if there is none.",
        "  emitd job get nightly-1\n  emitd job get nightly-1 --json\n",
    )
    _add_job_id(get)
    watch = add_command(
        actions,
        "watch",
        "jobs.watch:run",
        "Follow jobs live. With ids, until all of these jobs have ended: exits with 0 if all are\n"
        "COMPLETED, 1 if one has FAILED, 4 if it cannot tell. With a filter, all jobs that match,\n"
        "until Ctrl-C or --timeout, whose exit code is then 0.",
        "  emitd job watch nightly-1\n"
        "  emitd job watch nightly-1 nightly-2 --wait --timeout 3600\n"
        "  emitd job watch --type backup --status RUNNING --status QUEUED\n"
        "  emitd job watch --label team=search --json\n",
        usage="emitd job watch JOB_ID... [options]\n"
        "       emitd job watch [--type NAME] [--status NAME] [--label KEY=VALUE] [options]",
    )
    add_server(watch)
    option(watch, "JOB_ID", "the id of a job; up to 100", dest="job_ids", nargs="*")
    _add_filter(watch)
    option(watch, "--wait", "wait for a job, and a server, that is not there yet")
    option(watch, "--after-revision N", "also show the changes after revision N of a job; 0: all", type=whole)
    option(
        watch,
        "--retry-seconds SECONDS",
        "how long to retry if the server goes away (default: 60; with a filter: until it answers)",
        type=seconds,
    )
    option(watch, "--timeout SECONDS", "give up on jobs that take longer", type=seconds)
    add_json(watch, JSON_LINES)
    history = add_command(
        actions,
        "history",
        "jobs.commands:run_history",
        "Show the history of one job. All attempts, the oldest first, and how long each status\n"
        "lasted. Exits with 0 whatever the job's status, 4 if there is none.",
        "  emitd job history nightly-1\n  emitd job history nightly-1 --after-revision 17 --json\n",
    )
    _add_job_id(history)
    option(history, "--after-revision N", "only what came after revision N", type=whole, default=0)
    cancel = add_command(
        actions,
        "cancel",
        "jobs.commands:run_cancel",
        "Ask a job to stop. Its worker learns it from the answer to its next report, and ends\n"
        "the job itself. Exits with 0 also if the job has ended, 4 if there is none.",
        "  emitd job cancel nightly-1 --reason 'runs into the working day'\n",
    )
    _add_job_id(cancel)
    option(cancel, "--reason TEXT", "why, for people", default="")


def _add_job_id(parser: Parser) -> None:
    add_server(parser)
    option(parser, "JOB_ID", "the job's id", dest="job_id")
    add_json(parser, JSON_LINES)


def _add_filter(parser: Parser) -> None:
    option(parser, "--type NAME", "only jobs of this type", default="")
    statuses = "QUEUED, RUNNING, COMPLETED or FAILED"
    option(parser, "--status NAME", f"only jobs that are {statuses}; may repeat", repeats=True)
    label_help = "only jobs with this label; may repeat: then only jobs with all of them"
    option(parser, "--label KEY=VALUE", label_help, repeats=True)
