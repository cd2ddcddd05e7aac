"""`emitd audit check`: whether a proof is good, and what it proves."""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from emitd_cli.audit.errors import files_to_errors
from emitd_cli.audit.target import find_log, keys_beside, keys_from_flags
from emitd_cli.errors import CannotRun, CannotTell, CommandError, Misuse
from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import one_line, print_result, say
from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.audit.publish.prove import ProvedEvent, check_proof
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.note import Note, NoteInvalid, UnknownKey, Verifier
from emitd_handlers.tlog.proof_file import MAX_PROOF_BYTES, ProofInvalid, TlogProof


def run(options: argparse.Namespace) -> int:
    """Say what the proof proves; return 0.

    Raises CommandError if it proves nothing, CannotTell without a key by which that can be judged.
    """
    with files_to_errors(), Path(options.file).open("rb") as file:
        data = file.read(MAX_PROOF_BYTES + 1)
    with _judging(options.file):
        proof = TlogProof.parse(data)
        log_id = Checkpoint.parse(Note.parse(proof.note).text).origin
    with files_to_errors():
        keys = keys_from_flags(options.key) or _keys_of_own_log(log_id, options.config)
    with _judging(options.file):
        proved = check_proof(proof, keys)
    if not options.key:
        say(
            "the key is the one beside the log on this machine, which proves less than one that was kept elsewhere: "
            "give that by --key"
        )
    print_result(_to_json(proved) if options.json else _in_words(proved, options.file))
    return ExitCode.GOOD


@contextmanager
def _judging(file: str) -> Iterator[None]:
    try:
        yield
    except UnknownKey as error:
        raise CannotTell(f"'{file}': {error}", code="UNKNOWN_KEY") from error
    except (ProofInvalid, NoteInvalid) as error:
        raise CommandError(f"'{file}' proves nothing: {error}", code="BAD_PROOF") from error


def _keys_of_own_log(log_id: str, config: str | None) -> Sequence[Verifier]:
    """Return the keys beside the configuration's log, if it has this id."""
    needed = f"give the public key of the log '{log_id}' by --key"
    try:
        target = find_log(argparse.Namespace(log=None, config=config))
    except (CannotTell, CannotRun, Misuse) as error:
        raise CannotTell(f"{needed}: it is not known here ({error})", field="--key") from error
    keys = [verifier for verifier in keys_beside(target.path) if verifier.name == log_id]
    if not keys:
        raise CannotTell(f"{needed}: '{target.path}' is another log, or has no key", field="--key")
    return keys


def _in_words(proved: ProvedEvent, file: str) -> str:
    checkpoint = proved.checkpoint
    keys = ", ".join(f"{verifier.name}+{verifier.key_id.hex()}" for verifier in proved.signed_by)
    fields = {
        "log": checkpoint.origin,
        "index": str(proved.proof.index),
        "tree size": str(checkpoint.size),
        "leaf hash": proved.leaf_hash.hex(),
        "signed by": keys,
        **_event_fields(proved.line),
    }
    return "\n".join(
        [
            f"{one_line(file)}: good",
            f"The log has this event as line {proved.proof.index}, counted from 0. Its key has signed the log as it "
            f"stood with {checkpoint.size} lines.",
            *(f"{name:<11}  {one_line(value)}" for name, value in fields.items() if value),
        ]
    )


def _event_fields(line: bytes) -> dict[str, str]:
    try:
        event = decode_line(line)
    except ValueError:  # what was signed need not make sense
        return {"line": line.decode(errors="backslashreplace")}
    return {
        "event": event.event_name,
        "event id": event.event_id,
        "user": event.user_id,
        "source ip": event.source_ip,
        "details": str(event.details, errors="backslashreplace"),
        "happened": event.timestamp,
        "received": event.received_at,
        "source": event.source,
        "record id": event.record_id,
        "message": event.message,
        "attributes": str(event.attributes, errors="backslashreplace"),
        "trace id": event.trace_id,
        "span id": event.span_id,
        "assigned": ", ".join(event.assigned),
    }


def _to_json(proved: ProvedEvent) -> str:
    return json.dumps(
        {
            "log_id": proved.checkpoint.origin,
            "leaf_index": proved.proof.index,
            "leaf_hash": proved.leaf_hash.hex(),
            "tree_size": proved.checkpoint.size,
            "root": proved.checkpoint.root.hex(),
            "signed_by": [verifier.vkey for verifier in proved.signed_by],
            "line": proved.line.decode(errors="replace"),
        }
    )
