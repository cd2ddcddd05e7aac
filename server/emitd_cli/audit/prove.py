"""`emitd audit prove`: one file that proves that an event is in the log."""

import argparse
import json
from pathlib import Path

from emitd_cli.audit.errors import files_to_errors
from emitd_cli.audit.target import find_log
from emitd_cli.errors import Misuse
from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import one_line, print_result
from emitd_handlers.audit.publish.prove import ProvedEvent, proof_name, prove_event
from emitd_handlers.durable.disk import replace_file


def run(options: argparse.Namespace) -> int:
    """Write the proof; return 0. Raises CannotTell if there is no such event, or no checkpoint covers it yet."""
    if not options.event_id:
        raise Misuse("EVENT_ID: is empty", field="EVENT_ID")
    target = find_log(options)
    file = Path(options.output or proof_name(options.event_id))
    with files_to_errors():
        proved = prove_event(target.path, options.event_id)
        replace_file(file, proved.proof.encode())
    print_result(_to_json(proved, options, file) if options.json else _in_words(proved, options, file))
    return ExitCode.GOOD


def _in_words(proved: ProvedEvent, options: argparse.Namespace, file: Path) -> str:
    name = one_line(str(file))
    checkpoint = proved.checkpoint
    return (
        f"wrote {name}: event {one_line(options.event_id)} is line {proved.proof.index} of the log "
        f"{one_line(checkpoint.origin)}, in its tree of {checkpoint.size}\n"
        f"anyone who has the log's public key can check it: emitd audit check {name} --key VKEY"
    )


def _to_json(proved: ProvedEvent, options: argparse.Namespace, file: Path) -> str:
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
