"""The course of `emitd demo`: five chapters, each of which checks what it shows.

    1  the service starts        3  an audit event, and its line      5  it stops; the files on disk
    2  log lines                 4  three jobs, watched live

Everything goes over gRPC to a real process, as it would from any other program.
"""

import argparse
import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

from emitd.v1 import EmitRequest, LogRecord, LogServiceStub, Receipt, WatchJobRequest, WatchJobResponse
from emitd_cli.command_line.values import status_name
from emitd_cli.connection import Server, connect
from emitd_cli.demo.screen import INDENT, Screen
from emitd_cli.demo.service import COMMAND, DemoService
from emitd_cli.demo.story import AUDIT_EVENT, CONFIG, JOB_ENDS, LOG_LINES, job_reports
from emitd_cli.jobs.board import BoardChange, JobBoard
from emitd_cli.jobs.display import JsonDisplay, Response, live
from emitd_cli.jobs.table import bars_frame
from emitd_cli.jobs.text import job_line, transition_line
from emitd_cli.jobs.watch import JobWatch
from emitd_cli.terminal.output import one_line

CALL_SECONDS = 30.0
#: A stream that takes longer is broken; the demo takes a quarter of it.
WATCH_SECONDS = 60.0


class DemoPlay:
    """One run, on one screen, in an empty folder."""

    def __init__(self, screen: Screen, folder: Path) -> None:
        self._screen = screen
        self._folder = folder
        #: Lines that the service has written to its console.
        self._console_count = 0
        #: What was not as it should be.
        self.problems: list[str] = []

    def run(self) -> None:
        """Play all chapters. Raises CommandError, or grpc.RpcError, if it cannot go on."""
        screen = self._screen
        screen.line("emitd demo  A small music shop, and one place for all that its backend reports.")
        screen.pause(0.8)
        screen.chapter("The service starts", "on a free port, with this configuration")
        screen.data(CONFIG.rstrip())
        screen.pause(0.8)
        screen.command("emitd", *COMMAND)
        with DemoService(self._folder, CONFIG) as service:
            address = service.wait_until_up()
            screen.said(f"emitd listening on {address}")
            screen.pause(0.5)
            with connect(address) as server:
                self._log_lines(server, service)
                self._audit_event(server)
            self._jobs(address)
            self._stop(service)

    def _log_lines(self, server: Server, service: DemoService) -> None:
        screen = self._screen
        screen.chapter("Log lines", "on the service's console as they come")
        arrived = 0
        for record in LOG_LINES:
            _emit(server, record)
            line = service.console.next()
            if line is None:
                break
            self._console_count += 1
            screen.log_line(line)
            arrived += one_line(record.message) in line
            screen.pause(0.25)
        self._check(
            arrived == len(LOG_LINES),
            f"{arrived} of {len(LOG_LINES)} records, a line each: the line break in a message forged none",
        )
        screen.pause(0.6)

    def _audit_event(self, server: Server) -> None:
        screen = self._screen
        screen.chapter("An audit event", "on disk before the call returns; this is its line, laid out")
        receipt = _emit(server, AUDIT_EVENT)
        lines = self._audit_lines()
        for line in lines:
            screen.data(_laid_out(line))
        leaf_hash = receipt.audit.leaf_hash
        screen.fields("receipt", leaf_index=str(receipt.audit.leaf_index), leaf_hash=leaf_hash.hex())
        screen.pause(1.0)
        hashes = [hashlib.sha256(b"\0" + line).digest() for line in lines]
        self._check(hashes == [leaf_hash], "the leaf_hash is that of the line in the file (RFC 6962)")
        again = _emit(server, AUDIT_EVENT)
        is_same = again.duplicate and again.audit == receipt.audit and self._audit_lines() == lines
        self._check(is_same, "sent again, as after a lost answer: the same receipt, and no second line")
        screen.pause(0.8)

    def _jobs(self, address: str) -> None:
        screen, job_ids = self._screen, list(JOB_ENDS)
        screen.chapter("Three jobs", "each watched live over a WatchJob stream")
        board = JobBoard(job_ids)
        options = argparse.Namespace(address=address, wait=True, timeout=WATCH_SECONDS)
        with (
            live(board, bars_frame) if screen.is_live else nullcontext(_JobLines(screen, job_ids)) as display
        ):
            watch = JobWatch(options, board, display, retry_seconds=0)
            # With all of the history: a stream that opens late still shows every transition.
            requests = [
                WatchJobRequest(job_id=job_id, after_revision=0, wait_for_creation=True) for job_id in job_ids
            ]
            watch.run([*(partial(watch.follow_job, request=request) for request in requests), self._report])
        jobs = [row.job for row in board.rows.values() if row.job.status]
        ends = {job.job_id: (status_name(job.status), job.progress) for job in jobs}
        self._check(ends == JOB_ENDS, f"{len(ends)} streams, each to the end of its job")
        screen.pause(0.6)

    async def _report(self, stub: LogServiceStub) -> None:
        """Send the reports of all jobs, each at its time."""
        begin = time.monotonic()
        for report in job_reports():
            if not self._screen.is_fast:
                await asyncio.sleep(begin + report.at - time.monotonic())
            await stub.Emit(EmitRequest(record=report.record), timeout=CALL_SECONDS)

    def _stop(self, service: DemoService) -> None:
        screen = self._screen
        screen.chapter("A clean stop", "by SIGTERM; then everything is counted")
        code = service.stop()
        for line in service.said.rest():
            screen.said(line)
        screen.pause(0.4)
        self._check(code == 0, f"exit code {code}")
        self._console_count += len(service.console.rest())
        audit_count, jobs = len(self._audit_lines()), self._stored_jobs()
        self._check(
            (self._console_count, audit_count, jobs) == (len(LOG_LINES), 1, JOB_ENDS),
            f"once each: {self._console_count} console lines, "
            f"{audit_count} line in audit.json.log, {len(jobs)} rows in jobs.db",
        )

    def _check(self, is_good: bool, text: str) -> None:
        self._screen.check(is_good, text if is_good else f"not so: {text}")
        if not is_good:
            self.problems.append(text)
        self._screen.pause(0.3)

    def _audit_lines(self) -> list[bytes]:
        path = self._folder / "logs" / "audit.json.log"
        return path.read_bytes().splitlines() if path.exists() else []

    def _stored_jobs(self) -> dict[str, tuple[str, int]]:
        """Return each job's status and progress, read as any program can."""
        path = self._folder / "logs" / "jobs.db"
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT job_id, status, progress FROM job_logs")
            return {job_id: (status, progress) for job_id, status, progress in rows}


class _JobLines(JsonDisplay):
    """Writes a line for each transition; the last one with the job's last words."""

    def __init__(self, screen: Screen, job_ids: Sequence[str]) -> None:
        self._screen = screen
        self._id_width = max(map(len, job_ids))

    def show(self, response: Response, changes: Sequence[BoardChange]) -> None:
        """Write the transitions of a message."""
        del changes
        if not isinstance(response, WatchJobResponse):
            return
        job = response.job
        for transition in response.transitions:
            is_last = job.ended and transition.revision == job.revision
            line = (
                job_line(job, self._id_width)
                if is_last
                else transition_line(job.job_id, transition, self._id_width)
            )
            self._screen.line(INDENT + line)


def _emit(server: Server, record: LogRecord) -> Receipt:
    receipt: Receipt = server.log.Emit(EmitRequest(record=record), timeout=CALL_SECONDS).receipt
    return receipt


def _laid_out(line: bytes) -> str:
    """Return a line of the audit file with one member a line."""
    members = json.loads(line)
    body = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in members.items())
    return f"{{\n{body}\n}}"
