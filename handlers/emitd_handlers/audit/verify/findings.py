"""The report of a verification: what is wrong with a log, and where."""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec

#: How many findings of one kind are listed; the others are counted.
MAX_LISTED = 20


class Verdict(StrEnum):
    """How it ended."""

    GOOD = "good"
    #: Tampered with or damaged.
    BAD = "bad"
    #: Nothing wrong was found, and too little is signed to say that all is right.
    CANNOT_TELL = "cannot_tell"


class Kind(StrEnum):
    """A kind of finding. Programs may rely on these words."""

    LINE_CHANGED = "LINE_CHANGED"
    LINE_DELETED = "LINE_DELETED"
    LINE_INSERTED = "LINE_INSERTED"
    LINE_DUPLICATED = "LINE_DUPLICATED"
    LINES_SWAPPED = "LINES_SWAPPED"
    #: Lines at the end are gone.
    LOG_CUT = "LOG_CUT"
    #: The first lines are not those of a checkpoint that was kept elsewhere.
    LOG_REBUILT = "LOG_REBUILT"
    #: The log has another id than it must: another one was put in its place.
    LOG_ID_WRONG = "LOG_ID_WRONG"
    HASHES_CHANGED = "HASHES_CHANGED"
    HASHES_CUT = "HASHES_CUT"
    #: A line and its stored hash do not fit, and no checkpoint says which of them is right.
    HASH_MISMATCH = "HASH_MISMATCH"
    CHECKPOINT_DAMAGED = "CHECKPOINT_DAMAGED"
    #: A checkpoint was forged, or changed after it was signed.
    SIGNATURE_WRONG = "SIGNATURE_WRONG"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    #: A checkpoint was signed over other lines.
    CHECKPOINT_MISMATCH = "CHECKPOINT_MISMATCH"
    CHECKPOINT_ORDER = "CHECKPOINT_ORDER"
    KEY_FILE_WRONG = "KEY_FILE_WRONG"
    INDEX_WRONG = "INDEX_WRONG"
    NOT_JSON = "NOT_JSON"
    #: A mandatory member of a line is missing, empty or no text; or an optional one is not what it must be.
    FIELD_MISSING = "FIELD_MISSING"
    LINE_TOO_LONG = "LINE_TOO_LONG"
    TIME_WRONG = "TIME_WRONG"
    TIME_WENT_BACK = "TIME_WENT_BACK"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    kind: Kind
    #: The file in which it is.
    file: str
    #: A sentence for an auditor. May hold text from the files: escape it before it goes to a terminal.
    message: str
    #: The line that it is about, from 0, if any.
    index: int | None = None
    #: Its place in the file, if that says more than the line.
    offset: int | None = None


class Findings:
    """Collects findings: the first of each kind, and how many more there are."""

    def __init__(self) -> None:
        self.listed: list[Finding] = []
        self._counts: Counter[Kind] = Counter()

    def __bool__(self) -> bool:
        return bool(self.listed)

    def add(
        self, kind: Kind, file: Path, message: str, index: int | None = None, offset: int | None = None
    ) -> None:
        """Add a finding."""
        self.extend([Finding(kind, str(file), message, index, offset)])

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add some."""
        for finding in findings:
            self._counts[finding.kind] += 1
            if self._counts[finding.kind] <= MAX_LISTED:
                self.listed.append(finding)

    def merge(self, other: "Findings") -> None:
        """Add all that another one has, and count what it counted."""
        self.extend(other.listed)
        for kind, count in other.unlisted.items():
            self._counts[Kind(kind)] += count

    @property
    def unlisted(self) -> dict[str, int]:
        """How many more of a kind there are than are listed."""
        listed = Counter(finding.kind for finding in self.listed)
        return {
            kind.value: count - listed[kind] for kind, count in self._counts.items() if count > listed[kind]
        }


class VerifyReport(msgspec.Struct, frozen=True):
    """The result of a verification."""

    verdict: Verdict
    #: How many whole lines it has, and how many checkpoints.
    lines: int
    checkpoints: int
    #: How many lines the last good checkpoint covers.
    covered_lines: int
    log_id: str
    #: The keys by which signatures were judged, as vkeys.
    keys: list[str]
    #: Those of them that signed the last good checkpoint, as `NAME+ID`.
    signed_by: list[str]
    findings: list[Finding]
    #: How many more there are of a kind.
    unlisted: dict[str, int]
    notes: list[str]


def lines_in_words(first: int, count: int) -> str:
    """Return the name of some lines in a sentence."""
    return f"line {first}" if count == 1 else f"lines {first} to {first + count - 1}"
