"""What `emitd audit verify` shows: the verdict in lines for people, and how far it has come."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emitd_cli.terminal.console import make_console
from emitd_cli.terminal.output import one_line
from emitd_handlers.audit.verify.findings import Finding, Verdict, VerifyReport
from emitd_handlers.audit.verify.verifier import Advance

#: A smaller log is verified before anybody has read a bar.
MIN_BYTES_FOR_BAR = 64 * 1024 * 1024


def report_in_words(report: VerifyReport, path: Path) -> str:
    """Return the verdict, what is wrong, and what is worth knowing, one a line, fit for a terminal."""
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
        return f"cannot tell: nothing wrong was found in '{path}' ({what}), but not all could be verified"
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


@contextmanager
def show_progress(*, wanted: bool) -> Iterator[Advance]:
    """Show a bar on standard error, where that is a terminal, the log is large and `rich` is installed."""
    if not wanted or not sys.stderr.isatty():
        yield lambda size, total: None
        return
    try:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    except ImportError:
        yield lambda size, total: None
        return
    columns = ("verifying", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    # Drawn by this thread alone: processes are forked while the bar is there.
    with Progress(
        *columns, console=make_console(stderr=True), transient=True, auto_refresh=False
    ) as progress:
        task = progress.add_task("verify", total=None, visible=False)

        def advance(size: int, total: int) -> None:
            if total >= MIN_BYTES_FOR_BAR:
                progress.update(task, advance=size, total=total, visible=True, refresh=True)

        yield advance
