"""`emitd audit prove`, `check`, `export` and `key`: what a log's owner hands to others, and how they check it."""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from emitd_cli.audit.log_files import AuditTarget, files_to_errors, find_log, keys_beside, keys_from_flags
from emitd_cli.errors import CannotRun, CannotTell, CommandError, ExitCode, Misuse
from emitd_cli.terminal.output import one_line, print_result, say
from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.audit.publish.export import Export, FolderMismatch, export_log
from emitd_handlers.audit.publish.prove import ProvedEvent, check_proof, proof_name, prove_event
from emitd_handlers.audit.read.files import AuditTrail
from emitd_handlers.audit.write.key import read_vkeys, rotate_key
from emitd_handlers.durable.atomic_write import replace_file
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.note import Note, NoteInvalid, UnknownKey, Verifier
from emitd_handlers.tlog.proof_file import MAX_PROOF_BYTES, ProofInvalid, TlogProof

__all__ = ["run_check", "run_export", "run_key", "run_prove"]


def run_prove(options: argparse.Namespace) -> int:
    """Write the proof; return 0. Raises CannotTell if there is no such event, or no checkpoint covers it yet."""
    if not options.event_id:
        raise Misuse("EVENT_ID: is empty", field="EVENT_ID")
    target = find_log(options)
    file = Path(options.output or proof_name(options.event_id))
    with files_to_errors():
        proved = prove_event(target.path, options.event_id)
        replace_file(file, proved.proof.encode())
    print_result(_prove_json(proved, options, file) if options.json else _prove_words(proved, options, file))
    return ExitCode.GOOD


def _prove_words(proved: ProvedEvent, options: argparse.Namespace, file: Path) -> str:
    name = one_line(str(file))
    checkpoint = proved.checkpoint
    return (
        f"wrote {name}: event {one_line(options.event_id)} is line {proved.proof.index} of the log "
        f"{one_line(checkpoint.origin)}, in its tree of {checkpoint.size}\n"
        f"anyone who has the log's public key can check it: emitd audit check {name} --key VKEY"
    )


def _prove_json(proved: ProvedEvent, options: argparse.Namespace, file: Path) -> str:
    return json.dumps(
        {
            "file": str(file),
            "log_id": proved.checkpoint.origin,
            "event_id": options.event_id,
            "leaf_index": proved.proof.index,
            "leaf_hash": proved.leaf_hash.hex(),
            "tree_size": proved.checkpoint.size,
            "signed_by": [verifier.vkey for verifier in proved.signed_by],
        }
    )


def run_check(options: argparse.Namespace) -> int:
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
    print_result(_check_json(proved) if options.json else _check_words(proved, options.file))
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


def _check_words(proved: ProvedEvent, file: str) -> str:
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


def _check_json(proved: ProvedEvent) -> str:
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


def run_export(options: argparse.Namespace) -> int:
    """Write the folder, or bring it up to date; return 0. Raises CommandError if it has another log."""
    target = find_log(options)
    folder = Path(options.folder)
    with files_to_errors():
        try:
            export = export_log(target.path, folder)
        except FolderMismatch as error:
            raise CommandError(str(error), code="FOLDER_MISMATCH") from error
    print_result(_export_json(export) if options.json else _export_words(export, folder))
    return ExitCode.GOOD


def _export_words(export: Export, folder: Path) -> str:
    checkpoint = export.signed.checkpoint
    vkeys = "\n".join(verifier.vkey for verifier in export.signed.signed_by)
    return (
        f"{one_line(str(folder))}: {checkpoint.size} lines of the log {one_line(checkpoint.origin)}, "
        f"{checkpoint.size - export.old_size} of them new; wrote {export.tiles_written} tiles and "
        f"{export.bundles_written} bundles of lines. Readers check it by this key:\n{vkeys}"
    )


def _export_json(export: Export) -> str:
    checkpoint = export.signed.checkpoint
    return json.dumps(
        {
            "log_id": checkpoint.origin,
            "tree_size": checkpoint.size,
            "old_tree_size": export.old_size,
            "root": checkpoint.root.hex(),
            "tiles_written": export.tiles_written,
            "bundles_written": export.bundles_written,
            "signed_by": [verifier.vkey for verifier in export.signed.signed_by],
        }
    )


def run_key(options: argparse.Namespace) -> int:
    """Print the keys, the newest last; return 0. Raises CannotTell if there is none."""
    target = find_log(options)
    if options.rotate:
        _rotate(target)
    with files_to_errors():
        keys = read_vkeys(target.paths.vkey)
    if not keys:
        raise CannotTell(
            f"there is no key in '{target.paths.vkey}' yet: the service makes one when it starts"
        )
    print_result(_key_json(target, keys) if options.json else "\n".join(key.vkey for key in keys))
    return ExitCode.GOOD


def _rotate(target: AuditTarget) -> None:
    key = target.key or target.paths.key
    with files_to_errors():
        was_there = key.exists()
        rotate_key(target.paths, key, target.log_id or _kept_log_id(target))
    say(f"the last of these keys is new, in '{key}'; the service signs with it from its next start on")
    if not was_there:
        say(
            f"there was no key '{key}' before: if the configuration names another file, rotate by the configuration"
        )


def _kept_log_id(target: AuditTarget) -> str:
    with AuditTrail(target.path) as trail:
        log_id = trail.log_id()
    if log_id:
        return log_id
    # A configuration that is not known here gives the id; the keys have it as well.
    keys = read_vkeys(target.paths.vkey)
    if not keys:
        raise CannotTell(f"the log '{target.path}' has neither an id nor a key yet: start the service first")
    return keys[-1].name


def _key_json(target: AuditTarget, keys: Sequence[Verifier]) -> str:
    return json.dumps(
        {"log": str(target.path), "log_id": keys[-1].name, "vkeys": [key.vkey for key in keys]},
    )
