"""`emitd audit verify`: reads a whole log, and says whether it is as it was signed."""

import argparse
import json
from pathlib import Path

import msgspec

from emitd_cli.audit.log_files import find_log, keys_from_flags, read_kept
from emitd_cli.errors import CannotTell, ExitCode
from emitd_cli.terminal.output import one_line, print_result
from emitd_cli.terminal.progress import transfer_bar
from emitd_handlers.audit.verify.evidence import HeldElsewhere
from emitd_handlers.audit.verify.findings import Finding, Verdict, VerifyReport
from emitd_handlers.audit.verify.verifier import verify_log

EXIT_CODES = {
    Verdict.GOOD: ExitCode.GOOD,
    Verdict.BAD: ExitCode.BAD,
    Verdict.CANNOT_TELL: ExitCode.CANNOT_TELL,
}


def run(options: argparse.Namespace) -> int:
    """Verify; return 0 if the log is good, 1 if it is not, 4 if that cannot be told.

    Raises Misuse, and CannotTell if there is no log or it cannot be read.
    """
    target = find_log(options)
    keys = keys_from_flags(options.key) if options.key else None
    against = [HeldElsewhere(file, read_kept(file, "--against")) for file in options.against]
    try:
        with transfer_bar("verifying", MIN_BYTES_FOR_BAR, wanted=not options.json) as advance:
            report = verify_log(
                target.path, keys=keys, log_id=target.log_id, against=against, advance=advance
            )
    except OSError as error:
        raise CannotTell(f"'{target.path}' cannot be read: {error.strerror or error}") from error
    if options.json:
        print_result(json.dumps(msgspec.to_builtins(report)))
    else:
        print_result(report_in_words(report, target.path))
    return EXIT_CODES[report.verdict]


#: A smaller log is verified before a bar could be read.
MIN_BYTES_FOR_BAR = 64 * 1024 * 1024


def report_in_words(report: VerifyReport, path: Path) -> str:
    """Return the verdict, the findings and the notes, one a line, escaped."""
    lines = [_verdict(report, path)]
    lines += [_finding(finding) for finding in report.findings]
    lines += [f"  {kind}: and {count} more" for kind, count in report.unlisted.items()]
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(map(one_line, lines))


def _verdict(report: VerifyReport, path: Path) -> str:
    what = f"{_count(report.lines, 'line')}, {_count(report.checkpoints, 'checkpoint')}"
    if report.verdict is Verdict.BAD:
        count = len(report.findings) + sum(report.unlisted.values())
        return f"BAD: '{path}' was tampered with or is damaged ({_count(count, 'finding')} in {what})"
    if report.verdict is Verdict.CANNOT_TELL:
        return (
            f"cannot tell: nothing proves that '{path}' was changed ({what}), but not all could be verified"
        )
    if report.checkpoints > 1:
        what += ", each the continuation of the one before, the last"
    return (
        f"good: {what} over {_count(report.covered_lines, 'line')}, signed by {', '.join(report.signed_by)}"
    )


def _finding(finding: Finding) -> str:
    places = [finding.file]
    if finding.index is not None:
        places.append(f"line {finding.index}")
    if finding.offset is not None:
        places.append(f"byte {finding.offset}")
    return f"  {finding.kind}: {finding.message} ({', '.join(places)})"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
