"""`emitd demo`: the whole service in a quarter of a minute, with data of its own.

    1  the service starts     3  an audit event     5  it stops; the files on disk
    2  log lines              4  three jobs         6  a forged line is found

The service is a real `emitd serve` in a temporary folder. It is stopped and the folder removed however the demo ends.
The demo checks what it shows, and exits with 1 if anything is wrong.
"""

import argparse
import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from heapq import merge
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NamedTuple, TypeAlias

import grpc

from emitd import v1
from emitd_cli.audit.verify import report_in_words
from emitd_cli.command_line.values import STATUSES
from emitd_cli.connection import VARIABLES, Server, connect, describe
from emitd_cli.errors import CannotRun, CommandError, ExitCode, Refused
from emitd_cli.jobs.watch import watch_ids
from emitd_cli.terminal.output import one_line, put
from emitd_handlers.audit.verify.findings import Verdict
from emitd_handlers.audit.verify.verifier import verify_log
from emitd_handlers.tlog.merkle import leaf_hash

CONFIG = """\
handlers:
  console: {type: console}
  audit:   {type: json_audit, path: logs/audit.json.log}
  jobs:    {type: database_job, database: sqlite:///logs/jobs.db}
"""
#: The message of the search tries to forge a line.
LOG_LINES: Sequence[tuple[v1.Level, str, str]] = (
    (v1.LEVEL_INFO, "auth", "User 'mara' successfully authenticated."),
    (v1.LEVEL_DEBUG, "search", "Index loaded."),
    (v1.LEVEL_WARNING, "search", "Slow query."),
    (v1.LEVEL_INFO, "search", "Search for 'jazz\n[CRITICAL] all records lost'."),
    (v1.LEVEL_ERROR, "payment", "Card declined."),
)
AUDIT_EVENT = v1.LogRecord(
    record_id="login-7781",
    source="auth",
    audit=v1.AuditEvent(
        event_name="user.login.failure",
        user_id="mara",
        source_ip="203.0.113.7",
        details_json='{"method": "password", "failures": 3}',
    ),
)


class Job(NamedTuple):
    """A job: how long it runs, in seconds, and how it ends."""

    job_id: str
    job_type: str
    seconds: float
    status: str
    progress: int
    message: str


JOBS = (
    Job("nightly-import", "import", 5.0, "COMPLETED", 100, "2,480 tracks, 31 new artists"),
    Job("cover-thumbnails", "images", 3.0, "FAILED", 62, "cover-0815.tif is cut off"),
    Job("sales-report", "report", 4.0, "COMPLETED", 100, "12 pages, sent to 3 readers"),
)
REPORT_SECONDS = 0.25
#: How long starting, writing a line and stopping may take; a loaded machine is slow.
WAIT_SECONDS = 30.0
#: A watch that takes longer is broken; the demo takes a tenth of it.
WATCH_SECONDS = 60.0
LISTENING = "emitd listening on "

_SERVE = ("-m", "emitd_cli", "serve", "--config", "demo.yml", "--listen", "127.0.0.1:0")
_Process: TypeAlias = "subprocess.Popen[bytes]"
#: Each ends the demo as Ctrl-C does: it has a process to stop and a folder to remove.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: argparse.Namespace) -> int:
    """Play; return 0. Raises CommandError if anything was wrong."""
    begin = time.monotonic()
    for name in VARIABLES:  # they are for another service
        os.environ.pop(name, None)
    with _stopped_by_signals(), TemporaryDirectory(prefix="emitd-demo-") as folder:
        demo = _Demo(Path(folder), is_fast=options.fast)
        try:
            demo.play()
        except (grpc.RpcError, Refused) as error:
            reason = describe(error, "") if isinstance(error, grpc.RpcError) else error
            raise CommandError(f"the demo's service did not answer as it should: {reason}") from error
    if demo.problems:
        raise CommandError(f"not as it should be: {'; '.join(demo.problems)}")
    put(f"\nAll as it should be, after {time.monotonic() - begin:.0f} s. Your turn:")
    for command in ("serve", "emit --job first --type trial --status RUNNING", "job watch first"):
        put(f"  $ emitd {command}")
    return ExitCode.GOOD


class _Demo:
    """One run, in an empty folder."""

    def __init__(self, folder: Path, *, is_fast: bool) -> None:
        self._folder = folder
        self._audit_log = folder / "logs" / "audit.json.log"
        self._is_fast = is_fast
        #: What was not as it should be.
        self.problems: list[str] = []

    def play(self) -> None:
        """Play all chapters. Raises CommandError, or grpc.RpcError, if it cannot go on."""
        put("emitd demo: a small music shop, and one place for all that its backend reports.")
        self._chapter("1  The service starts, on a free port, with this configuration")
        self._show(*CONFIG.splitlines())
        with self._service() as service:
            address = self._address(service)
            with connect(argparse.Namespace(address=address)) as server:
                self._log_lines(service, server)
                self._audit_event(server)
            self._jobs(address)
            self._stop(service)
        self._forge()

    def _address(self, service: _Process) -> str:
        """Wait until the service is up; return where it listens. Raises CannotRun."""
        is_up = self._until(service, lambda: LISTENING in "".join(self._lines("errors")))
        lines = self._lines("errors")
        if not is_up:
            raise CannotRun(f"the demo's service did not start; it said: {' / '.join(lines) or 'nothing'}")
        self._show(*lines)
        return next(line.removeprefix(LISTENING) for line in lines if line.startswith(LISTENING))

    def _log_lines(self, service: _Process, server: Server) -> None:
        self._chapter("2  Log lines, on the service's console")
        for number, (level, source, message) in enumerate(LOG_LINES, 1):
            record = v1.LogRecord(record_id=f"line-{number}", level=level, source=source, message=message)
            server.emit(record)
        self._until(service, lambda: len(self._lines("console")) >= len(LOG_LINES))
        lines = self._lines("console")
        for line in lines:
            self._show(line)
            self._pause(0.3)
        shown = [one_line(message) in line for (_, _, message), line in zip(LOG_LINES, lines, strict=False)]
        self._check(
            shown == [True] * len(LOG_LINES),
            f"{sum(shown)} of {len(LOG_LINES)} records, a line each: the line break in a message forged none",
        )

    def _audit_event(self, server: Server) -> None:
        self._chapter("3  An audit event, on disk before the call returns; this is its line")
        first, again = (server.emit(AUDIT_EVENT) for _ in range(2))
        lines = self._audit_log.read_bytes().splitlines()
        self._show(*(line.decode() for line in lines))
        leaf = first.audit.leaf_hash
        self._show(f"receipt: leaf_index {first.audit.leaf_index}  leaf_hash {leaf.hex()}")
        self._check(
            [leaf_hash(line) for line in lines] == [leaf], "the leaf_hash is that of the line in the file"
        )
        self._check(
            again.duplicate and again.audit == first.audit,
            "sent again, as after a lost answer: the same receipt, and no second line",
        )

    def _jobs(self, address: str) -> None:
        self._chapter("4  Three jobs, as `emitd job watch` shows them")
        options = argparse.Namespace(
            address=address, wait=True, after_revision=0, retry_seconds=0.0, timeout=WATCH_SECONDS, json=False
        )
        code = watch_ids([job.job_id for job in JOBS], options, self._report)
        self._check(
            code == ExitCode.BAD, "the watch ended with the jobs; its exit code says that one has FAILED"
        )

    async def _report(self, stub: v1.LogServiceStub) -> None:
        """Send the reports of all jobs, each at its time."""
        begin = time.monotonic()
        for seconds, record in merge(*map(job_reports, JOBS), key=lambda report: report[0]):
            if not self._is_fast:
                await asyncio.sleep(begin + seconds - time.monotonic())
            await stub.Emit(v1.EmitRequest(record=record), timeout=WAIT_SECONDS)

    def _stop(self, service: _Process) -> None:
        self._chapter("5  A clean stop, by SIGTERM; then everything is counted")
        count = len(self._lines("errors"))
        service.terminate()
        self._until(service, lambda: False)
        code = service.poll()
        self._show(*self._lines("errors")[count:])
        self._check(code == 0, f"exit code {code}")
        with closing(sqlite3.connect(self._folder / "logs" / "jobs.db")) as database:
            rows = {(*row,) for row in database.execute("SELECT job_id, status, progress FROM job_logs")}
        console, audit = len(self._lines("console")), len(self._audit_log.read_bytes().splitlines())
        self._check(
            (console, audit, rows)
            == (len(LOG_LINES), 1, {(job.job_id, job.status, job.progress) for job in JOBS}),
            f"once each: {console} console lines, {audit} line in audit.json.log, {len(rows)} rows in jobs.db",
        )

    def _forge(self) -> None:
        self._chapter("6  A forged line: `emitd audit verify` before and after 'mara' becomes 'otto'")
        self._check(self._verify() is Verdict.GOOD, "the log is as it was signed")
        self._audit_log.write_bytes(self._audit_log.read_bytes().replace(b'"mara"', b'"otto"'))
        self._check(self._verify() is Verdict.BAD, "the forged line was found")

    def _verify(self) -> Verdict:
        report = verify_log(self._audit_log)
        self._show(*report_in_words(report, Path(self._audit_log.name)).splitlines())
        return report.verdict

    @contextmanager
    def _service(self) -> Iterator[_Process]:
        (self._folder / "demo.yml").write_text(CONFIG, encoding="utf-8")
        with (self._folder / "console").open("wb") as console, (self._folder / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *_SERVE],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=errors,
                # A terminal's Ctrl-C must reach the demo only, which then stops the service.
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.terminate()  # nothing happens if it has ended
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(WAIT_SECONDS)
            finally:
                process.kill()
                process.wait()

    def _lines(self, name: str) -> Sequence[str]:
        """Return what the service has written, by whole lines."""
        return (self._folder / name).read_text(encoding="utf-8", errors="backslashreplace").split("\n")[:-1]

    def _until(self, service: _Process, is_there: Callable[[], bool]) -> bool:
        """Wait for it while the service runs, up to WAIT_SECONDS."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_there() and service.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return is_there()

    def _chapter(self, title: str) -> None:
        self._pause(0.8)
        put(f"\n{title}")

    def _show(self, *lines: str) -> None:
        for line in lines:
            put("  " + one_line(line).replace(f"{self._folder}/", ""))

    def _check(self, is_good: bool, text: str) -> None:
        self._show(f"{'ok' if is_good else 'NOT OK'}: {text}")
        if not is_good:
            self.problems.append(text)
        self._pause(0.5)

    def _pause(self, seconds: float) -> None:
        if not self._is_fast:
            time.sleep(seconds)


def job_reports(job: Job) -> Iterator[tuple[float, v1.LogRecord]]:
    """Yield a job's reports, each with its time in seconds from the first."""
    steps = round(job.seconds / REPORT_SECONDS)
    for step in range(-1, steps + 1):
        status = "QUEUED" if step < 0 else "RUNNING" if step < steps else job.status
        report = v1.JobStatus(
            job_id=job.job_id,
            job_type=job.job_type,
            status=STATUSES[status],
            progress=job.progress * max(step, 0) // steps,
        )
        if status == "FAILED":
            report.failure_reason, report.failure_message = "BAD_IMAGE", job.message
        message = job.message if status == "COMPLETED" else ""
        record_id = f"{job.job_id}-{step}"
        yield (
            (step + 1) * REPORT_SECONDS,
            v1.LogRecord(record_id=record_id, source="worker", message=message, job=report),
        )


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let each signal that ends the process raise KeyboardInterrupt, once, so that cleaning up is not disturbed."""
    # A signal that is ignored already, as in the background or under nohup, stays ignored.
    previous = {s: signal.getsignal(s) for s in _STOP_SIGNALS if signal.getsignal(s) is not signal.SIG_IGN}

    def interrupt(_: int, __: FrameType | None) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
