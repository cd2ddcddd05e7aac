"""The flags of `emitd emit`."""

from emitd_cli.command_line.flags import (
    JSON_HELP,
    Commands,
    add_address,
    add_command,
    percent,
    positive,
    seconds,
    whole,
)

__all__ = ["add_emit"]


def add_emit(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "emit",
        "emit.command:run",
        "Emit one record from flags, or many from a file or standard input.",
        '  emitd emit "User u1 logged in" --level INFO --source shop -a cart=17\n'
        "  emitd emit --audit user.login --user u1 --source-ip 203.0.113.7 --details '{\"mfa\":true}'\n"
        "  emitd emit --job nightly-1 --type backup --status RUNNING --progress 40\n"
        "  emitd emit --file app.log --source app          # a log line each\n"
        "  emitd emit --file records.jsonl --format jsonl  # the contract's JSON form, one record a line\n"
        "  tail -f app.log | emitd emit -\n",
        usage="emitd emit MESSAGE [options]\n"
        "       emitd emit --audit EVENT_NAME --user ID [options]\n"
        "       emitd emit --job JOB_ID --status NAME [options]\n"
        "       emitd emit --file FILE [options]",
    )
    parser.too_many_hint = "; put a message of several words in quotes"
    add_address(parser)
    parser.add_argument(
        "message", nargs="?", metavar="MESSAGE", help="the record's; '-' reads records from standard input"
    )
    parser.add_argument("--level", metavar="NAME", help="DEBUG, INFO (default), WARNING, ERROR or CRITICAL")
    parser.add_argument("--source", metavar="NAME", help="who sends")
    parser.add_argument(
        "-a", "--attribute", action="append", metavar="KEY=VALUE", help="an attribute; may repeat"
    )
    parser.add_argument(
        "--record-id", metavar="ID", help="default: a new one; sent again with the same, it is harmless"
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP.format("the outcome as JSON"))
    audit = parser.add_argument_group("an audit event")
    audit.add_argument("--audit", metavar="EVENT_NAME", help="emit an audit event of this name")
    audit.add_argument("--user", metavar="ID", help="the user's id; mandatory")
    audit.add_argument("--source-ip", metavar="ADDRESS", help="an address, or 'unknown' (default)")
    audit.add_argument("--event-id", metavar="ID", help="default: assigned by the server")
    job = parser.add_argument_group("a job report")
    job.add_argument("--job", metavar="JOB_ID", help="emit a report on this job")
    job.add_argument("--type", metavar="NAME", help="the job's type; needed in its first report")
    job.add_argument("--status", metavar="NAME", help="QUEUED, RUNNING, COMPLETED or FAILED; mandatory")
    job.add_argument("--progress", type=percent, metavar="PERCENT", help="0 to 100")
    job.add_argument("--label", action="append", metavar="KEY=VALUE", help="a label; may repeat")
    job.add_argument("--failure-reason", metavar="WORD", help="for FAILED: a word for programs")
    job.add_argument("--failure-message", metavar="TEXT", help="for FAILED: a sentence for people")
    job.add_argument("--attempt", type=whole, metavar="N", help="default: 1")
    job.add_argument("--new-attempt", action="store_true", default=None, help="open the job's next attempt")
    parser.add_argument("--details", metavar="JSON", help="of an audit event or a job: one JSON object")
    many = parser.add_argument_group("many records")
    many.add_argument("--file", metavar="FILE", help="read records from a file; '-' is standard input")
    many.add_argument(
        "--format", choices=("lines", "jsonl"), default="lines", help="of the file (default: lines)"
    )
    many.add_argument(
        "--batch-size", type=positive, default=512, metavar="N", help="records a call (default: 512)"
    )
    many.add_argument(
        "--retry-seconds",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to retry a call (default: 30)",
    )
