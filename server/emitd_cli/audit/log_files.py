"""The log that a command reads on this machine, the public keys that judge it, and what errors of its files mean."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from emitd_cli.errors import CannotRun, CannotTell, CommandError, Misuse
from emitd_handlers.audit.format.files import AuditPaths
from emitd_handlers.audit.format.line import decode_line
from emitd_handlers.durable.append_file import reason_of
from emitd_handlers.errors import AuditDamaged, AuditNotFound, AuditQueryInvalid, HandlerUnavailable
from emitd_handlers.tlog.kept_file import kept_text
from emitd_handlers.tlog.key_list import read_key_list
from emitd_handlers.tlog.note import NoteInvalid, Verifier
from emitd_handlers.tlog.proof_file import MAX_PROOF_BYTES

DEFAULT_CONFIG = Path("logging_config.yml")


class AuditTarget(msgspec.Struct, frozen=True):
    """A log on this machine."""

    #: The file of the lines.
    path: Path
    #: The log's id, and the file of its private key, if the configuration gives them.
    log_id: str = ""
    key: Path | None = None

    @property
    def paths(self) -> AuditPaths:
        """All of its files."""
        return AuditPaths.of(self.path)


def find_log(options: argparse.Namespace) -> AuditTarget:
    """Return the log that `options.log` or the configuration names. Raises Misuse, CannotTell, CannotRun."""
    if options.log is None:
        return _configured(options.config)
    path = Path(options.log)
    if path.is_dir():
        path = _only_log(path)
    if not path.is_file():
        raise CannotTell(f"there is no log '{path}'")
    return AuditTarget(path)


def read_kept(file: str, flag: str = "") -> bytes:
    """Return what is in a kept file; of a pipe or device, only its beginning.

    Raises OSError if it cannot be read; Misuse if it was given by `flag`.
    """
    try:
        with Path(file).open("rb") as opened:
            return opened.read(max(os.fstat(opened.fileno()).st_size, MAX_PROOF_BYTES) + 1)
    except OSError as error:
        if not flag:
            raise
        raise Misuse(f"{flag}: '{file}' cannot be read: {error.strerror}", field=flag) from error


def keys_from_flags(keys: Sequence[str]) -> list[Verifier]:
    """Return the keys that `--key` gives, each a vkey or a file with a list of keys. Raises Misuse."""
    verifiers = []
    for key in keys:
        # Also false for a vkey that is longer than a name may be.
        text = kept_text(read_kept(key, "--key")) if os.path.exists(key) else key
        try:
            listed = read_key_list(text)
        except NoteInvalid as error:
            raise Misuse(f"--key: {error}", field="--key") from error
        if not listed:
            raise Misuse(f"--key: '{key}' has no key", field="--key")
        verifiers += [entry.verifier for entry in listed]
    return verifiers


def event_fields(line: bytes) -> dict[str, str]:
    """Return what a line of the log says, a text for each field; of a line that is no event, the line."""
    try:
        event = decode_line(line)
    except ValueError:
        return {"line": line.decode(errors="backslashreplace")}
    return {
        "event": event.event_name,
        "event id": event.event_id,
        "user": event.user_id,
        "source ip": event.source_ip,
        "principal": event.submitted_by,
        "peer": event.peer_address,
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


def _configured(config: str | None) -> AuditTarget:
    path = Path(config) if config else DEFAULT_CONFIG
    try:
        from emitd_handlers.audit.handler import JsonAuditSettings
        from emitd_server.config.loader import survey_config
    except ModuleNotFoundError as error:
        raise CannotRun(
            f"name the log: to find it by the configuration, '{error.name}' is missing; "
            "install emitd with the extra [server]"
        ) from error
    # Nothing but the text is read: who checks the log of others must not run the code that lies next to it.
    survey = survey_config(path if config or path.exists() else None, only_type="json_audit")
    found = [(entry.name, entry.settings) for entry in survey.entries]
    if not found:
        problem = f": {survey.problems[0]}" if survey.problems else ""
        raise CannotTell(
            f"the configuration names no audit log{problem}; only entries of type json_audit are read, no handler of "
            "yours is loaded: name the log's file"
        )
    if len(found) > 1:
        names = ", ".join(f"'{name}'" for name, _ in found)
        raise Misuse(f"the configuration has several audit logs, {names}: name the log's file")
    settings = found[0][1]
    assert isinstance(settings, JsonAuditSettings)
    if not settings.path.is_file():
        raise CannotTell(f"there is no log '{settings.path}' yet (the configuration's)")
    return AuditTarget(settings.path, settings.log_id, settings.key)


def _only_log(folder: Path) -> Path:
    """Return the one log of a folder: a file that has checkpoints next to it."""
    logs = [
        path.with_name(path.name.removesuffix(".checkpoints"))
        for path in sorted(folder.glob("*.checkpoints"))
    ]
    if len(logs) != 1:
        raise Misuse(f"the folder '{folder}' has {len(logs)} logs with checkpoints: name the log's file")
    return logs[0]


@contextmanager
def files_to_errors() -> Iterator[None]:
    """Turn the errors of a log's files into those that end a command."""
    try:
        yield
    except AuditDamaged as error:
        raise CommandError(str(error), code="DAMAGED") from error
    except AuditQueryInvalid as error:
        raise Misuse(f"--{error}", field=f"--{error.field}") from error
    except AuditNotFound as error:
        raise CannotTell(str(error), code="NOT_FOUND") from error
    except HandlerUnavailable as error:
        raise CannotTell(str(error)) from error
    except NoteInvalid as error:
        raise CommandError(str(error), code="KEYS_WRONG") from error
    except OSError as error:
        raise CannotTell(reason_of(error)) from error
