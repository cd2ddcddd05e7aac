"""What clients were told, held against what a service has.

Read when everything is at rest: the spools are empty, and the server is down.
"""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What a server's queue of log lines holds, by default.
QUEUE_LINES = 10_000
_LINE = re.compile(rb"\] line who=(\S+) n=(\d+)\n")


@dataclass
class Told:
    """What the journal of one client says."""

    name: str
    sent: set[str] = field(default_factory=set)
    safe: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    #: Jobs that were begun, each with its lease, and how they ended.
    jobs: dict[str, int | None] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    lines: int = 0
    #: None: it was killed.
    stats: Mapping[str, int] | None = None

    @classmethod
    def read(cls, path: Path) -> "Told":
        told = cls(path.stem)
        for line in path.read_bytes().splitlines():
            told._take(*json.loads(line))
        return told

    def _take(self, kind: str, subject: Any, value: Any = None) -> None:
        match kind:
            case "audit":
                self.sent.add(subject)
            case "safe":
                self.safe[subject] = value
            case "failed":
                self.failed[subject] = value
            case "job":
                self.jobs[subject] = value
            case "ended":
                self.ended[subject] = value
            case "end":
                self.lines, self.stats = subject, value


@dataclass
class Verdict:
    """Everything that does not fit, in sentences, and the figures."""

    problems: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)

    def hold(self, is_true: bool, problem: str) -> None:
        if not is_true:
            self.problems.append(problem)


def compare(journals: Sequence[Path], folder: Path, kills: int) -> Verdict:
    """Hold the journals against the files in the server's folder, after so many of its deaths."""
    verdict = Verdict()
    told = [Told.read(path) for path in journals]
    _compare_audits(told, folder / "audit.json.log", verdict)
    _compare_jobs(told, folder / "jobs.db", verdict)
    _compare_lines(told, folder / "stdout", kills, verdict)
    return verdict


def audit_counts(path: Path) -> Counter[str]:
    """How often each event stands in the audit file."""
    return Counter(json.loads(line)["details"]["event"] for line in path.read_bytes().splitlines())


def _compare_audits(told: Sequence[Told], path: Path, verdict: Verdict) -> None:
    """What was answered is there once; what was sent and never answered at most once; and nothing else."""
    counts = audit_counts(path)
    sent = {event for client in told for event in client.sent}
    states = {event: state for client in told for event, state in client.safe.items()}
    failed = {event: why for client in told for event, why in client.failed.items()}
    twice = sorted(event for event, count in counts.items() if count > 1)
    missing = sorted(states.keys() - counts.keys())
    verdict.hold(not twice, f"{len(twice)} audit events are there twice: {twice[:3]}")
    verdict.hold(
        not missing, f"{len(missing)} audit events are missing: {[(e, states[e]) for e in missing[:3]]}"
    )
    verdict.hold(counts.keys() <= sent, f"made up: {sorted(counts.keys() - sent)[:3]}")
    verdict.hold(not failed, f"{len(failed)} audit events were refused: {list(failed.items())[:3]}")
    unanswered = sent - states.keys() - failed.keys()
    alive = {event for client in told if client.stats is not None for event in client.sent}
    verdict.hold(not unanswered & alive, f"{len(unanswered & alive)} audit events got no answer")
    verdict.figures.update(Counter(f"audits {state}" for state in states.values()))
    orphaned = [client.safe for client in told if client.stats is None]
    verdict.figures["audits SPOOLED by a client that was killed"] = sum(
        list(states.values()).count("SPOOLED") for states in orphaned
    )
    verdict.figures["audits answered"] = len(states)
    verdict.figures["audits answered, and in the file"] = len(states.keys() & counts.keys())
    verdict.figures["audits unanswered, their client was killed"] = len(unanswered)
    verdict.figures["audits unanswered, and in the file"] = len(unanswered & counts.keys())
    verdict.figures["audits in the file"] = sum(counts.values())


def _compare_jobs(told: Sequence[Told], path: Path, verdict: Verdict) -> None:
    """Each job's row is what its reporter said; one whose client was killed ended by its lease, if it had one."""
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT job_id, status, failure_reason FROM job_logs").fetchall()
    database.close()
    rows = {job_id: f"{status} {reason or ''}" for job_id, status, reason in found}
    for client in told:
        for job_id, lease in client.jobs.items():
            row, said = rows.get(job_id, "none"), client.ended.get(job_id)
            verdict.figures[f"jobs {row}"] += 1
            if said is not None:
                verdict.hold(row == said, f"job {job_id}: reported {said!r}, and is {row!r}")
                verdict.figures["jobs reported to their end, and right"] += row == said
                continue
            verdict.figures["jobs open, their client was killed"] += 1
            verdict.hold(client.stats is None, f"job {job_id}: its reporter said nothing")
            verdict.hold(lease is None or not row.startswith("RUNNING"), f"job {job_id}: runs for ever")
    begun = {job_id for client in told for job_id in client.jobs}
    verdict.hold(rows.keys() <= begun, f"made up: {sorted(rows.keys() - begun)[:3]}")


def _compare_lines(told: Sequence[Told], path: Path, kills: int, verdict: Verdict) -> None:
    """A line is lost or doubled only as the client counted, and at most a queue's length at each kill."""
    arrived = Counter(_LINE.findall(path.read_bytes()))
    for client in told:
        if client.stats is None:
            continue
        counts = [arrived[client.name.encode(), str(number).encode()] for number in range(client.lines)]
        lost, doubled = counts.count(0), sum(counts) - len(counts) + counts.count(0)
        unconfirmed, resent = client.stats["unconfirmed"], client.stats.get("resent", 0)
        dropped = sum(count for fate, count in client.stats.items() if fate.startswith("dropped_"))
        verdict.hold(
            lost <= dropped + unconfirmed,
            f"{client.name}: {lost} lines are lost, {unconfirmed} unconfirmed, {dropped} dropped",
        )
        verdict.hold(
            doubled <= resent, f"{client.name}: {doubled} lines are doubled, {resent} were sent again"
        )
        verdict.hold(unconfirmed <= kills * QUEUE_LINES, f"{client.name}: {unconfirmed} unconfirmed")
        verdict.hold(doubled <= kills * QUEUE_LINES, f"{client.name}: {doubled} doubled")
        verdict.figures.update(
            {"lines": len(counts), "lines lost": lost, "lines doubled": doubled, "lines dropped": dropped}
        )
        verdict.figures.update({"lines unconfirmed": unconfirmed, "records sent again": resent})
