"""`emitd token`: the file of static tokens."""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from emitd_cli.command_line.values import moment_from_flag
from emitd_cli.errors import CannotTell, CommandError, ExitCode, Misuse
from emitd_cli.terminal.output import aligned, one_line, print_lines, print_result, say
from emitd_server.access.tokens import TokenEntry, new_token, read_tokens, revoke_tokens
from emitd_server.errors import ConfigError


def run_new(options: argparse.Namespace) -> int:
    """Print a new token, and nothing else."""
    expires = None
    if options.expires is not None:
        nanos = moment_from_flag("--expires", options.expires, ahead=True)
        if nanos <= time.time_ns():
            raise Misuse(f"--expires: '{options.expires}' is not ahead", field="--expires")
        expires = datetime.fromtimestamp(nanos // 1_000_000_000, UTC)
    with _file_errors(options.file):
        try:
            token, entry = new_token(Path(options.file), options.name, options.group, expires)
        except ValueError as error:
            raise Misuse(f"--name, --group: {error}", field="--name") from None
    say(f"added to {options.file} as {entry.short_digest}; keep the token now, nothing can show it again")
    print_result(token)
    return ExitCode.GOOD


def run_list(options: argparse.Namespace) -> int:
    """Print the entries."""
    with _file_errors(options.file):
        os.stat(options.file)
        _print(read_tokens(Path(options.file)), options)
    return ExitCode.GOOD


def run_revoke(options: argparse.Namespace) -> int:
    """Print the entries that were removed."""
    with _file_errors(options.file):
        os.stat(options.file)
        gone = revoke_tokens(Path(options.file), options.token)
    if not gone:
        raise CommandError(f"{options.file} has no token with the name or digest '{options.token}'")
    _print(gone, options)
    return ExitCode.GOOD


def _print(entries: Sequence[TokenEntry], options: argparse.Namespace) -> None:
    rows = [
        (
            entry.name,
            " ".join(entry.groups),
            "never" if entry.expires is None else entry.expires.isoformat(),
            entry.short_digest,
        )
        for entry in entries
    ]
    cells = [[one_line(cell) for cell in row] for row in rows]
    print_lines(aligned(["NAME", "GROUPS", "EXPIRES", "DIGEST"], cells), f"{options.file} has no tokens")


@contextmanager
def _file_errors(file: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CannotTell(f"{file}: {error.strerror}") from None
