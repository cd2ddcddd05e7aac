"""`emitd emit`: one record from flags, or many from a file or standard input."""

import argparse
import json

import grpc
from google.protobuf import json_format

from emitd.v1 import EmitRequest, EmitResponse
from emitd_cli.connection import CannotReach, connect, describe, is_retryable, say
from emitd_cli.emit_many import Tally, send_all
from emitd_cli.exit_codes import ExitCode
from emitd_cli.record_flags import Misuse, level_name, record_from_flags
from emitd_cli.record_lines import open_lines, read_batches

__all__ = ["run"]

CALL_SECONDS = 30.0


def run(options: argparse.Namespace) -> int:
    """Emit; return 0 if everything was accepted, 1 if something was refused, 2 for misuse, 4 without a server."""
    if options.message == "-" and not options.file:
        options.file = "-"
    try:
        return _emit_many(options) if options.file else _emit_one(options)
    except Misuse as error:
        say(f"{error}\n{options.parser.format_usage().strip()}")
        return ExitCode.MISUSE
    except CannotReach as error:
        say(str(error))
        return ExitCode.CANNOT_TELL


def _emit_one(options: argparse.Namespace) -> int:
    record = record_from_flags(options)
    try:
        with connect(options.address) as stub:
            response: EmitResponse = stub.Emit(EmitRequest(record=record), timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        say(describe(error, options.address))
        return ExitCode.CANNOT_TELL if is_retryable(error) else ExitCode.BAD
    receipt = response.receipt
    if options.json:
        print(json_format.MessageToJson(receipt, indent=None, preserving_proto_field_name=True))
        return ExitCode.GOOD
    handlers = ", ".join(handler.handler for handler in receipt.handlers)
    line = f"{'accepted before' if receipt.duplicate else 'accepted'} by {handlers}"
    if receipt.HasField("audit"):
        line += f": event {receipt.audit.event_id}, line {receipt.audit.leaf_index} of {receipt.audit.log_id}"
    if receipt.HasField("job"):
        line += f": revision {receipt.job.revision}, attempt {receipt.job.attempt}"
        line += "" if receipt.job.applied else f", not applied: {receipt.job.stale_reason}"
    print(line)
    return ExitCode.GOOD


def _emit_many(options: argparse.Namespace) -> int:
    if options.audit or options.job:
        raise Misuse("--file brings its own records: leave out --audit and --job, or use --format jsonl")
    level = level_name(options)
    if options.batch_size < 1:
        raise Misuse(f"--batch-size: {options.batch_size} is not positive")
    try:
        stream, size = open_lines(options.file)
    except OSError as error:
        raise Misuse(f"--file: {options.file} cannot be read: {error.strerror}") from error
    batches = read_batches(
        stream,
        options.format,
        level,
        options.source,
        batch_size=options.batch_size,
        live=size is None,
    )
    with stream, connect(options.address) as stub:
        tally = send_all(stub, batches, size, options)
    _print_tally(tally, as_json=options.json)
    return ExitCode.BAD if tally.refused else ExitCode.GOOD


def _print_tally(tally: Tally, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(tally._asdict()))
        return
    line = f"{tally.accepted} records accepted"
    if tally.duplicates:
        line += f", {tally.duplicates} accepted before"
    if tally.not_applied:
        line += f", {tally.not_applied} job reports not applied"
    print(line + (f", {tally.refused} refused" if tally.refused else ""))
