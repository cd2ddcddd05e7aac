"""`emitd audit prove`, `check`, `export` and `key`: what a log's owner hands to others, and how they check it."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from emitd_cli.audit.log_files import (
    AuditTarget,
    event_fields,
    files_to_errors,
    find_log,
    keys_from_flags,
    read_kept,
)
from emitd_cli.errors import CannotRun, CannotTell, CommandError, ExitCode, Misuse
from emitd_cli.terminal.output import field_lines, one_line, print_outcome, say
from emitd_handlers.audit.format.files import read_key_file
from emitd_handlers.audit.publish.export import FolderMismatch, export_log
from emitd_handlers.audit.publish.prove import ProvedEvent, check_proof, proof_name, prove_event
from emitd_handlers.audit.write.identity import rotate_key
from emitd_handlers.durable.disk import replace_file
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.kept_file import kept_text, proof_in
from emitd_handlers.tlog.note import Note, NoteInvalid, UnknownKey, Verifier
from emitd_handlers.tlog.proof_file import HEADER, ProofInvalid, TlogProof


def run_prove(options: argparse.Namespace) -> int:
    """Write the proof; return 0. Raises CannotTell if there is no such event, or no checkpoint covers it yet."""
    if not options.event_id:
        raise Misuse("EVENT_ID: is empty", field="EVENT_ID")
    target = find_log(options)
    file = Path(options.output or proof_name(options.event_id))
    with files_to_errors():
        proved = prove_event(target.path, options.event_id, options.source)
        replace_file(file, proved.proof.encode())
    name, checkpoint = one_line(str(file)), proved.checkpoint
    print_outcome(
        {"file": str(file), "event_id": options.event_id, **_as_json(proved)},
        f"wrote {name}: event {one_line(options.event_id)} is line {proved.proof.index} of the log "
        f"{one_line(checkpoint.origin)}, in its tree of {checkpoint.size}\n"
        f"anyone who has the log's public key can check it: emitd audit check {name} --key VKEY",
    )
    return ExitCode.GOOD


def run_check(options: argparse.Namespace) -> int:
    """Say what the proof proves; return 0.

    Raises CommandError if it proves nothing, CannotTell without a key that can judge it.
    """
    with files_to_errors():
        data = proof_in(kept_text(read_kept(options.file)), HEADER)
    if data is None:
        raise CannotTell(f"'{options.file}' is no proof: no line of it is '{HEADER}'", code="NO_PROOF")
    with _judging(options.file):
        proof = TlogProof.parse(data)
        log_id = Checkpoint.parse(Note.parse(proof.note).text).origin
    with files_to_errors():
        keys = keys_from_flags(options.key) or _keys_of_own_log(log_id, options.config)
    with _judging(options.file):
        proved = check_proof(proof, keys)
    if not options.key:
        say(
            "the key is the one next to the log on this machine, which proves less than one that was kept elsewhere: "
            "give that by --key"
        )
    checkpoint = proved.checkpoint
    fields = {
        "log": checkpoint.origin,
        "index": str(proved.proof.index),
        "tree size": str(checkpoint.size),
        "leaf hash": proved.leaf_hash.hex(),
        "signed by": ", ".join(key.short_name for key in proved.signed_by),
        **event_fields(proved.line),
    }
    print_outcome(
        {**_as_json(proved), "root": checkpoint.root.hex(), "line": proved.line.decode(errors="replace")},
        f"{one_line(options.file)}: good\n"
        f"The log has this event as line {proved.proof.index}, counted from 0. Its key has signed the log as it "
        f"stood with {checkpoint.size} lines.\n{field_lines(fields, width=11)}",
    )
    return ExitCode.GOOD


def run_export(options: argparse.Namespace) -> int:
    """Write the folder, or bring it up to date; return 0. Raises CannotTell if it has another log."""
    target, folder = find_log(options), Path(options.folder)
    with files_to_errors():
        try:
            export = export_log(target.path, folder)
        except FolderMismatch as error:
            raise CannotTell(str(error), code="FOLDER_MISMATCH") from error
    checkpoint = export.signed.checkpoint
    vkeys = [verifier.vkey for verifier in export.signed.signed_by]
    keys = "\n".join(vkeys)
    print_outcome(
        {
            "log_id": checkpoint.origin,
            "tree_size": checkpoint.size,
            "old_tree_size": export.old_size,
            "root": checkpoint.root.hex(),
            "tiles_written": export.tiles_written,
            "bundles_written": export.bundles_written,
            "signed_by": vkeys,
        },
        f"{one_line(str(folder))}: {checkpoint.size} lines of the log {one_line(checkpoint.origin)}, "
        f"{checkpoint.size - export.old_size} of them new; wrote {export.tiles_written} tiles and "
        f"{export.bundles_written} bundles of lines. Readers check it by this key:\n{keys}",
    )
    return ExitCode.GOOD


def run_key(options: argparse.Namespace) -> int:
    """Print the keys, the newest last; return 0. Raises CannotTell if there is none."""
    target = find_log(options)
    if options.rotate:
        _rotate(target)
    with files_to_errors():
        keys = [key.verifier for key in read_key_file(target.paths.vkey)]
    if not keys:
        raise CannotTell(
            f"there is no key in '{target.paths.vkey}' yet: the service makes one when it starts"
        )
    vkeys = [key.vkey for key in keys]
    print_outcome(
        {"log": str(target.path), "log_id": keys[-1].name, "vkeys": vkeys},
        "\n".join(vkeys),
    )
    return ExitCode.GOOD


def _as_json(proved: ProvedEvent) -> Mapping[str, object]:
    return {
        "log_id": proved.checkpoint.origin,
        "leaf_index": proved.proof.index,
        "leaf_hash": proved.leaf_hash.hex(),
        "tree_size": proved.checkpoint.size,
        "signed_by": [verifier.vkey for verifier in proved.signed_by],
    }


@contextmanager
def _judging(file: str) -> Iterator[None]:
    try:
        yield
    except UnknownKey as error:
        raise CannotTell(f"'{file}': {error}", code="UNKNOWN_KEY") from error
    except (ProofInvalid, NoteInvalid) as error:
        raise CommandError(f"'{file}' proves nothing: {error}", code="BAD_PROOF") from error


def _keys_of_own_log(log_id: str, config: str | None) -> Sequence[Verifier]:
    """Return the keys next to the configuration's log, if it has this id."""
    needed = f"give the public key of the log '{log_id}' by --key"
    try:
        target = find_log(argparse.Namespace(log=None, config=config))
    except (CannotTell, CannotRun, Misuse) as error:
        raise CannotTell(f"{needed}: it is not known here ({error})", field="--key") from error
    try:
        listed = [key.verifier for key in read_key_file(target.paths.vkey)]
    except NoteInvalid as error:  # the proof is not to blame
        raise CannotTell(f"{needed}: '{target.paths.vkey}' is damaged ({error})", field="--key") from error
    keys = [verifier for verifier in listed if verifier.name == log_id]
    if not keys:
        raise CannotTell(f"{needed}: '{target.path}' is another log, or has no key", field="--key")
    return keys


def _rotate(target: AuditTarget) -> None:
    key = target.key or target.paths.key
    with files_to_errors():
        keys = read_key_file(target.paths.vkey)
        if not (log_id := target.log_id or (keys[-1].verifier.name if keys else "")):
            raise CannotTell(f"the log '{target.path}' has no key yet: start the service first")
        added = rotate_key(target.paths, key, log_id)
    say(f"the last of these keys is new, in '{key}'; the service signs with it from its next start on")
    if added.before is None:
        say(
            f"there was no key '{key}' before, so nothing vouches for the new one: give it to all who verify the log. "
            "If the configuration names another file, rotate by the configuration"
        )
