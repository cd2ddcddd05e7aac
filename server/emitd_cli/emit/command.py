"""`emitd emit`: one record from flags, or many from a file or standard input."""

import argparse
from select import select
from typing import BinaryIO

from emitd.v1 import Receipt
from emitd_cli.connection import connect
from emitd_cli.emit.batch_sender import BatchSender
from emitd_cli.emit.record_flags import level_of_lines, record_from_flags
from emitd_cli.emit.record_lines import open_lines, read_batches
from emitd_cli.errors import CannotTell, ExitCode, Misuse
from emitd_cli.terminal.output import one_line, print_outcome, print_result, to_json
from emitd_cli.terminal.progress import transfer_bar


def run(options: argparse.Namespace) -> int:
    """Emit; return 0 if everything was accepted, 1 if some of many records were refused.

    Raises Misuse, Refused for one record, and CannotTell without a server.
    """
    if options.message == "-" and options.file is None:
        options.message, options.file = None, "-"
    return _emit_one(options) if options.file is None else _emit_many(options)


def _emit_one(options: argparse.Namespace) -> int:
    record = record_from_flags(options)
    with connect(options) as server:
        receipt = server.emit(record)
    print_result(to_json(receipt) if options.json else _describe_receipt(receipt))
    return ExitCode.GOOD


def _describe_receipt(receipt: Receipt) -> str:
    handlers = ", ".join(handler.handler for handler in receipt.handlers)
    line = f"{'accepted before' if receipt.duplicate else 'accepted'} by {handlers}"
    if receipt.HasField("audit"):
        line += f": event {receipt.audit.event_id}, line {receipt.audit.leaf_index} of {receipt.audit.log_id}"
    if receipt.HasField("job"):
        line += f": revision {receipt.job.revision}, attempt {receipt.job.attempt}"
        line += "" if receipt.job.applied else f", not applied: {receipt.job.stale_reason}"
    return one_line(line)


def _emit_many(options: argparse.Namespace) -> int:
    level = level_of_lines(options)
    gave_up: CannotTell | None = None
    try:
        stream, size = open_lines(options.file)
    except OSError as error:
        raise Misuse(f"--file: '{options.file}' cannot be read: {error.strerror}", field="--file") from error
    batches = read_batches(
        stream,
        options.format,
        level,
        options.source or "",
        batch_size=options.batch_size,
        live=size is None,
    )
    with (
        stream,
        connect(options) as server,
        transfer_bar("sending", wanted=size is not None) as advance,
    ):
        sender = BatchSender(server, options.retry_seconds, lambda sent: advance(sent, size or 0))
        try:
            for batch in batches:
                sender.send(batch)
                if size is None and not _has_input(stream):
                    sender.finish()  # the next line may come late; report problems with this one now
            sender.finish()
        except CannotTell as error:
            gave_up = error
        except OSError as error:  # of the input
            gave_up = CannotTell(f"--file: '{options.file}' cannot be read to its end: {error.strerror}")
            sender.finish()
    summary = sender.summary
    print_outcome({"records": summary.records, **summary._asdict()}, summary.in_words())
    if gave_up is not None:
        raise gave_up
    return ExitCode.BAD if summary.refused else ExitCode.GOOD


def _has_input(stream: BinaryIO) -> bool:
    """Return whether a pipe or a terminal has something to read now, or has ended."""
    return bool(select([stream], [], [], 0)[0])
