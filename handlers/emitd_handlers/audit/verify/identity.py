"""The id and the keys of a log under verification, and whether its small files agree on them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from emitd_handlers.audit.read.trail import AuditTrail
from emitd_handlers.audit.verify.findings import Findings, Kind
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.key_list import (
    ROTATION_EVENT,
    ListedKey,
    newer_and_older,
    read_listed_key,
    read_statement,
)
from emitd_handlers.tlog.note import SIGNATURE_LENGTH, Note, NoteInvalid, Verifier

#: How many checkpoints are read for their origin.
ASKED_NOTES = 100
#: Far more than either of the small files has.
MAX_FILE_BYTES = 16 * 1024 * 1024
#: How long a vkey is behind its name: a sign, the id, a sign, the key.
_VKEY_REST = 1 + 8 + 1 + 44


class Identity(msgspec.Struct):
    """The id and the keys of a log."""

    #: Empty where nothing says it.
    log_id: str
    verifiers: Sequence[Verifier]
    #: Whether the keys are those listed next to the log.
    is_key_listed: bool
    notes: list[str]
    #: The keys that these have replaced: what they signed can contradict the log, and covers none of its lines.
    replaced: Sequence[Verifier] = ()


def identify(
    trail: AuditTrail, keys: Sequence[Verifier] | None, configured_id: str, findings: Findings
) -> Identity:
    """Find out the log's id and keys; add what does not agree. `keys` is None if none were given."""
    notes: list[str] = []
    kept_id = "" if configured_id else _kept_id(trail, findings)
    claimed = configured_id or kept_id
    origins = _origins(trail)
    log_id = claimed if claimed in origins or not origins else origins[0]
    if claimed and log_id != claimed:
        file, says = trail.paths.log_id, f"the log is '{kept_id}' by the file of its id"
        if configured_id:
            file, says = trail.paths.checkpoints, f"the log is to be '{configured_id}', by its configuration"
        message = (
            f"{says}, and its checkpoints are those of '{log_id}': another log was put in its place, or files of two "
            "logs were mixed"
        )
        findings.add(Kind.LOG_ID_WRONG, file, message)
    listed = _listed_keys(trail, log_id, findings, notes)
    if keys is None:
        log_id = log_id or (listed[-1].verifier.name if listed else "")
        return Identity(log_id, [key.verifier for key in listed], True, notes)
    named = {verifier.name for verifier in keys}
    log_id = log_id or min(named)
    if log_id not in named:
        message = (
            f"this is the log '{log_id}', and the key given is that of '{min(named)}': another log was put in its "
            "place, or the key is that of another log"
        )
        findings.add(Kind.LOG_ID_WRONG, trail.paths.lines, message)
        keys = []
    elif listed and not {key.vkey for key in keys} & {key.verifier.vkey for key in listed}:
        notes.append(f"'{trail.paths.vkey}' has none of the keys given")
    newer, older = newer_and_older(keys, listed or _keys_in_lines(trail))
    notes += [f"the key given vouches for a newer one of this log: keep it too. {key.vkey}" for key in newer]
    return Identity(log_id, [*keys, *newer], False, notes, older)


def _kept_id(trail: AuditTrail, findings: Findings) -> str:
    text = _read(trail.paths.log_id)
    if text is None:
        return ""
    log_id = text.removesuffix("\n")
    if log_id and log_id.isprintable() and log_id != text:
        return log_id
    message = "the file of the log's id does not hold an id and a newline"
    findings.add(Kind.LOG_ID_WRONG, trail.paths.log_id, message)
    return ""


def _origins(trail: AuditTrail) -> Sequence[str]:
    """Return which logs the first checkpoints are of."""
    origins = []
    for _, data in islice(trail.checkpoints(), ASKED_NOTES):
        try:
            origins.append(Checkpoint.parse(Note.parse(data).text).origin)
        except ValueError:
            continue
    return origins


def _listed_keys(trail: AuditTrail, log_id: str, findings: Findings, notes: list[str]) -> Sequence[ListedKey]:
    """Return the keys on the list next to the log; add what is wrong with it."""
    text = _read(trail.paths.vkey)
    listed: list[ListedKey] = []
    *whole, rest = (text or "").split("\n")
    for number, line in enumerate([*whole, rest] if rest else whole, 1):
        try:
            key = read_listed_key(line, listed)
            if key.line != line:
                raise NoteInvalid(f"'{line[:100]}' is not spelt as the line of a key is")
            if log_id and key.verifier.name != log_id:
                raise NoteInvalid(f"it is a key of '{key.verifier.name}', not of '{log_id}'")
        except ValueError as error:
            if number > len(whole) and log_id and _is_beginning(line, log_id):
                notes.append(f"'{trail.paths.vkey}': its last line is not whole; a crash leaves such")
                continue
            message = f"the list of the log's keys is wrong in line {number}: {error}"
            findings.add(Kind.KEY_FILE_WRONG, trail.paths.vkey, message)
            continue
        listed.append(key)
    return listed


def _keys_in_lines(trail: AuditTrail) -> Iterator[ListedKey]:
    """Yield the keys that the trail's own events vouch for: a copy may have come without the list."""
    for _, line in trail.lines():
        if ROTATION_EVENT.encode() in line:
            with suppress(ValueError, LookupError, TypeError):
                yield read_statement(msgspec.json.decode(line)["details"]["statement"])


def _is_beginning(text: str, name: str) -> bool:
    """Return whether this can be what a crash leaves of a line of the list."""
    vkey, signature = len(name) + _VKEY_REST, len(f" — {name} ") + SIGNATURE_LENGTH
    is_beginning = f"{name}+".startswith(text[: len(name) + 1])
    return is_beginning and (
        len(text) < vkey or (len(text) < vkey + 2 * signature and text[vkey:].startswith(" "))
    )


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None
