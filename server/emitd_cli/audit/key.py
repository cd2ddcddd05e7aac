"""`emitd audit key`: the public keys of a log, and a new one for it."""

import argparse
import json
from collections.abc import Sequence

from emitd_cli.audit.errors import files_to_errors
from emitd_cli.audit.target import AuditTarget, find_log
from emitd_cli.errors import CannotTell
from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import print_result, say
from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.write.identity import read_vkeys, rotate_key
from emitd_handlers.tlog.note import Verifier


def run(options: argparse.Namespace) -> int:
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
    print_result(_to_json(target, keys) if options.json else "\n".join(key.vkey for key in keys))
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


def _to_json(target: AuditTarget, keys: Sequence[Verifier]) -> str:
    return json.dumps(
        {"log": str(target.path), "log_id": keys[-1].name, "vkeys": [key.vkey for key in keys]},
    )
