"""The flags of `emitd emit`."""

from emitd_cli.command_line.flags import (
    Commands,
    add_command,
    add_json,
    add_server,
    option,
    percent,
    positive,
    seconds,
    uint32,
)


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
    add_server(parser)
    option(
        parser, "MESSAGE", "the record's; '-' reads records from standard input", dest="message", nargs="?"
    )
    option(parser, "--level NAME", "DEBUG, INFO (default), WARNING, ERROR or CRITICAL")
    option(parser, "--source NAME", "the name of the sender")
    option(parser, "-a --attribute KEY=VALUE", "an attribute; may repeat", action="append")
    option(parser, "--record-id ID", "default: a new one; sending it again with the same one is harmless")
    add_json(parser, "the outcome as JSON")
    audit = parser.add_argument_group("an audit event")
    option(audit, "--audit EVENT_NAME", "emit an audit event of this name")
    option(audit, "--user ID", "the user's id; mandatory")
    option(audit, "--source-ip ADDRESS", "an address, or 'unknown' (default)")
    option(audit, "--event-id ID", "default: assigned by the server")
    job = parser.add_argument_group("a job report")
    option(job, "--job JOB_ID", "emit a report on this job")
    option(job, "--type NAME", "the job's type; needed in its first report")
    option(job, "--status NAME", "QUEUED, RUNNING, COMPLETED or FAILED; mandatory")
    option(job, "--progress PERCENT", "0 to 100", type=percent)
    option(job, "--label KEY=VALUE", "a label; may repeat", action="append")
    option(job, "--failure-reason WORD", "for FAILED: a word for programs")
    option(job, "--failure-message TEXT", "for FAILED: a sentence for people")
    option(job, "--attempt N", "default: 1", type=uint32)
    option(job, "--new-attempt", "open the job's next attempt", default=None)
    option(parser, "--details JSON", "of an audit event or a job: one JSON object")
    many = parser.add_argument_group("many records")
    option(many, "--file FILE", "read records from a file, in UTF-8 or UTF-16; '-' is standard input")
    many.add_argument(
        "--format", choices=("lines", "jsonl"), default="lines", help="of the file (default: lines)"
    )
    option(many, "--batch-size N", "records in a call (default: 512)", type=positive, default=512)
    option(
        many, "--retry-seconds SECONDS", "how long to retry a call (default: 30)", type=seconds, default=30.0
    )
