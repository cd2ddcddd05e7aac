"""`emitd audit verify`: reads a log whole, and says whether it is as it was signed."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from emitd_cli.audit.target import find_log, keys_from_flags
from emitd_cli.audit.verify_text import report_in_words, show_progress
from emitd_cli.errors import CannotTell, Misuse
from emitd_cli.exit_codes import ExitCode
from emitd_cli.terminal.output import print_result
from emitd_handlers.audit.verify.evidence import HeldElsewhere
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log

EXIT_CODES = {
    Verdict.GOOD: ExitCode.GOOD,
    Verdict.BAD: ExitCode.BAD,
    Verdict.CANNOT_TELL: ExitCode.CANNOT_TELL,
}


def run(options: argparse.Namespace) -> int:
    """Verify; return 0 if the log is good, 1 if it is not, 4 if that cannot be told.

    Raises Misuse, and CannotTell where there is no log or it cannot be read.
    """
    target = find_log(options)
    keys = keys_from_flags(options.key) if options.key else None
    against = _read_against(options.against)
    try:
        with show_progress(wanted=not options.json) as advance:
            report = verify_log(
                target.path, keys=keys, log_id=target.log_id, against=against, advance=advance
            )
    except OSError as error:
        raise CannotTell(f"'{target.path}' cannot be read: {error.strerror or error}") from error
    if options.json:
        print_result(msgspec.json.encode(report).decode())
    else:
        print_result(report_in_words(report, target.path))
    return EXIT_CODES[report.verdict]


def _read_against(files: Sequence[str]) -> list[HeldElsewhere]:
    try:
        return [HeldElsewhere(file, Path(file).read_bytes()) for file in files]
    except OSError as error:
        message = f"--against: '{error.filename}' cannot be read: {error.strerror}"
        raise Misuse(message, field="--against") from error
