"""Promises 1 and 4 on a disk that loses what was not synced, after any crash.

What is acknowledged is there, once; a checkpoint that was told of is there, with all that it speaks of; and the hashes
that it rests on need not be rebuilt. The real handler runs on a simulated disk, life after life, with operations that
fail and crashes at any moment, and what it said is held against what a last start finds. Then each sync is left out in
turn, and the same property must fail: there is no sync that is not needed.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from emitd_handlers.audit.format.files import AuditPaths, split_notes
from emitd_handlers.audit.format.line import decode_line, encode_line
from emitd_handlers.audit.handler import JsonAuditHandler, JsonAuditSettings
from emitd_handlers.audit.write import tree as audit_tree
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.outcome import AuditReceipt, Committed, Receipt
from emitd_handlers.record import AuditEvent, Level, LogRecord, audit_fingerprint
from emitd_handlers.text.times import parse_time
from emitd_handlers.tlog.checkpoint import Checkpoint
from emitd_handlers.tlog.merkle import Frontier, leaf_hash, root_hash
from emitd_handlers.tlog.note import NoteInvalid, Verifier
from support.audit.log_reader import open_note
from support.audit.simulated_disk import SimulatedDisk

PATH = Path("/var/emitd/audit.json.log")


@dataclass(frozen=True)
class Troubles:
    """Moments of the disk: those at which it fails, and the one at which the machine goes down."""

    faults: frozenset[int]
    crash_at: int | None


@dataclass(frozen=True)
class Life:
    """One run of the process."""

    at_start: Troubles
    #: Counted from the end of the start.
    later: Troubles
    #: Sizes of batches; those of one step are emitted at the same time.
    steps: Sequence[Sequence[int]]
    #: Whether senders try again with what was not acknowledged.
    resend: bool
    #: Whether the end is one for the machine too, not for the process alone.
    power_cut: bool
    #: Whether the lines of each step are signed before the next one.
    cover: bool = True


@dataclass(frozen=True)
class Story:
    """The lives of one log, and what decides how much each crash destroys."""

    lives: Sequence[Life]
    seed: int


NO_TROUBLES = Troubles(frozenset(), None)
LAST_LIFE = Life(NO_TROUBLES, NO_TROUBLES, [], False, True)


def troubles(last_moment: int) -> st.SearchStrategy[Troubles]:
    moments = st.integers(1, last_moment)
    return st.builds(Troubles, st.frozensets(moments, max_size=2), st.none() | moments)


lives = st.builds(
    Life,
    st.just(NO_TROUBLES) | troubles(30),
    troubles(12),
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=2), max_size=3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
stories = st.builds(Story, st.lists(lives, min_size=1, max_size=4), st.integers(0, 2**32))


def stories_of(*lives: st.SearchStrategy[Life]) -> st.SearchStrategy[Story]:
    return st.builds(Story, st.tuples(*lives), st.integers(0, 2**32))


def busy(faults: set[int], crash_at: int | None, *, power_cut: bool = True) -> st.SearchStrategy[Life]:
    """A life that starts well, emits in two steps, and never tries again."""
    troubles = Troubles(frozenset(faults), crash_at)
    return st.just(Life(NO_TROUBLES, troubles, [[3, 3], [3, 3]], False, power_cut))


#: The sync of a checkpoint fails (or that of something before it), and the process is killed right after. The next one
#: takes what it finds for written, and its first event comes before it signs anything.
taken_for_synced = stories_of(
    st.integers(4, 10).map(
        lambda moment: Life(NO_TROUBLES, Troubles(frozenset({moment}), moment + 1), [[1]], False, False)
    ),
    st.just(Life(NO_TROUBLES, NO_TROUBLES, [[1]], False, True, False)),
)
killed_at_start = st.builds(
    Life, troubles(30), st.just(NO_TROUBLES), st.just([]), st.just(False), st.just(False)
)

#: One operation of the start fails, and the process ends; the machine goes on.
failed_start = st.integers(1, 30).map(
    lambda moment: Life(Troubles(frozenset({moment}), None), NO_TROUBLES, [], False, False)
)

#: Each sync, by the function that calls it and the file or folder, with stories among which one soon breaks a
#: promise if it is left out. (The two of cuts prevent a rare mixture of old lines with those in their place.)
SYNCS = {
    "ensure_synced: audit.json.log": stories,
    "ensure_synced: forget audit.json.log": stories_of(
        busy(set(range(2, 14)), None, power_cut=False), st.just(LAST_LIFE)
    ),
    "ensure_synced: audit.json.log.checkpoints": taken_for_synced,
    "ensure_synced: forget audit.json.log.checkpoints": taken_for_synced,
    "ensure_synced: audit.json.log.vkey": stories_of(killed_at_start, busy(set(), None)),
    "ensure_synced: forget audit.json.log.vkey": stories_of(failed_start, busy(set(), None)),
    "sync_names: emitd": stories,
    "sync_names: var": stories,
    "sync_names: /": stories,
    "keep_log_id: audit.json.log.log_id": stories_of(killed_at_start, busy(set(), None)),
    "keep_log_id: forget audit.json.log.log_id": stories_of(killed_at_start, busy(set(), None)),
    "_overwrite: audit.json.log.log_id": stories,
    "_make_key: audit.json.log.key": stories_of(killed_at_start, busy(set(), None)),
    "_overwrite: audit.json.log.key": stories,
    "_make_key: forget audit.json.log.key": stories,
    "_copy: audit.json.log.damaged": stories,
    "_copy: emitd": stories,
    "move_aside: audit.json.log": stories_of(busy(set(), 1), busy(set(), 1)),
    "_write: audit.json.log": stories,
    "_write: audit.json.log.hashes": stories,
    "_write: audit.json.log.checkpoints": stories,
    "_write: audit.json.log.vkey": stories,
    "cut_leftovers: audit.json.log": stories_of(busy({2}, 4)),
}
# Among all stories one that needs this is rare.
SYNCS["_make_key: forget audit.json.log.key"] = stories_of(failed_start, busy(set(), None))

#: Those that could be spared here, but belong to a mechanism that the lines need: what a cut guards from mixing with
#: what comes next does not count before its own sync, or is known by a signature; and a log whose index is damaged
#: must be larger than these for its start to have to read it whole.
SPARE = {
    "_write: audit.json.log.index",
    "cut_leftovers: audit.json.log.hashes",
    "cut_leftovers: audit.json.log.checkpoints",
    "cut_leftovers: audit.json.log.vkey",
    "cut_leftovers: audit.json.log.index",
}


@dataclass
class Model:
    """What is known from outside of the handler."""

    clock: int = 1_790_000_000_000_000_000
    #: Every record ever emitted, by its id.
    records: dict[str, LogRecord] = field(default_factory=dict)
    #: By record id: what was acknowledged.
    receipts: dict[str, AuditReceipt] = field(default_factory=dict)
    #: The log on the medium before the last start; None: that is not known.
    before_start: bytes | None = b""
    #: What starts have cut off the log.
    cut_off: list[bytes] = field(default_factory=list)
    #: The checkpoints that anybody could have been told of.
    published: list[bytes] = field(default_factory=list)
    #: What the handler said to its operator.
    reports: list[str] = field(default_factory=list)

    def new_record(self) -> LogRecord:
        """Return a record whose line is as long as every other, so that torn ones fit each other."""
        number = f"{len(self.records):06}"
        event = AuditEvent(
            f"event-{number}", "user.login", f"user-{number}", "192.0.2.1", f'{{"n":"{number}"}}'
        )
        self.clock += 1
        sent = (
            event.event_id,
            event.event_name,
            event.user_id,
            event.source_ip,
            event.details_json,
            self.clock,
        )
        record = LogRecord(
            Level.AUDIT,
            record_id=f"record-{number}",
            time_unix_nano=self.clock,
            payload=event,
            fingerprint=audit_fingerprint("", "", "", b"", b"", *sent),
        )
        self.records[record.record_id] = record
        return record

    def unanswered(self) -> list[LogRecord]:
        """Return what its sender must send again."""
        return [record for record_id, record in self.records.items() if record_id not in self.receipts]

    def receive(self, records: Sequence[LogRecord]) -> list[LogRecord]:
        """Return the records with the times at which the server takes them now."""
        self.clock += len(records)
        return [replace(record, received_unix_nano=self.clock) for record in records]

    def acknowledge(self, record_id: str, receipt: Receipt | None) -> None:
        """Note a promise."""
        assert isinstance(receipt, AuditReceipt)
        assert self.receipts.setdefault(record_id, receipt) == receipt

    def publish(self, handler: JsonAuditHandler) -> None:
        """Note the checkpoint that whoever asks is given now."""
        note = handler.committed_log().note
        if note and note not in self.published[-1:]:
            self.published.append(note)

    def note_cut(self, after_start: bytes) -> None:
        """Note what a start cut off, if it did, whether or not it came to its end."""
        if self.before_start is not None and len(after_start) < len(self.before_start):
            self.cut_off.append(self.before_start[len(after_start) :])


def play(story: Story, ignored: Iterable[str] = ()) -> SimulatedDisk:
    """Live all the lives, and raise AssertionError if a promise is broken."""
    disk = SimulatedDisk(random.Random(story.seed), ignored=ignored)
    model = Model()
    for life in story.lives:
        asyncio.run(live(disk, model, life))
        if life.power_cut:
            disk.power_cut()
            model.before_start = disk.content(PATH)
        else:
            disk.kill()
            model.before_start = None
    disk.power_cut()
    model.before_start = disk.content(PATH)
    asyncio.run(live(disk, model, LAST_LIFE))
    check(disk, model)
    return disk


async def live(disk: SimulatedDisk, model: Model, life: Life) -> None:
    """Run the process once."""
    disk.plan(life.at_start.faults, life.at_start.crash_at)
    handler = JsonAuditHandler(JsonAuditSettings(path=PATH), disk=disk, report=model.reports.append)
    try:
        await handler.start()
    except HandlerUnavailable as error:
        assert disk.had_trouble, f"it does not start: {error}"
        return
    finally:
        model.note_cut(disk.content(PATH))
    try:
        await emit_all(handler, disk, model, life)
    finally:
        await handler.stop()


async def emit_all(handler: JsonAuditHandler, disk: SimulatedDisk, model: Model, life: Life) -> None:
    # The dispatcher answers retries of these from memory, as acknowledged.
    try:
        commits = await handler.recent_commits(1_000)
    except HandlerUnavailable:
        assert disk.had_trouble  # the machine went down when all was open
        return
    for commit in commits:
        assert commit.fingerprint == model.records[commit.record_id].fingerprint
        model.acknowledge(commit.record_id, commit.receipt)
    model.publish(handler)
    disk.plan(life.later.faults, life.later.crash_at)
    for sizes in life.steps:
        batches = [model.unanswered()] if life.resend else []
        batches += [[model.new_record() for _ in range(size)] for size in sizes]
        await asyncio.gather(*(emit(handler, model, batch) for batch in batches if batch))
        if life.cover:
            await handler.write_checkpoint()
            model.publish(handler)


async def emit(handler: JsonAuditHandler, model: Model, records: Sequence[LogRecord]) -> None:
    outcomes = await handler.emit_batch(model.receive(records))
    for record, outcome in zip(records, outcomes, strict=True):
        if isinstance(outcome, Committed):
            model.acknowledge(record.record_id, outcome.receipt)
        else:
            assert isinstance(outcome.error, HandlerUnavailable)


def check(disk: SimulatedDisk, model: Model) -> None:
    """Hold what the log holds against what was acknowledged."""
    lines = disk.content(PATH).splitlines(keepends=True)
    found = {}
    last_received = 0
    for index, line in enumerate(lines):
        assert line.endswith(b"\n")
        parsed = decode_line(line[:-1])
        received = parse_time(parsed.received_at)
        record = model.records[parsed.record_id]
        assert line[:-1] == encode_line(replace(record, received_unix_nano=received)), "a line nobody sent"
        assert parsed.record_id not in found, "a line came twice"
        assert received >= last_received, "time went backwards"
        last_received = received
        found[parsed.record_id] = (index, leaf_hash(line[:-1]))
    promised = {record_id: (each.leaf_index, each.leaf_hash) for record_id, each in model.receipts.items()}
    assert promised.items() <= found.items(), (
        "an acknowledged event is not there, or not where its receipt says"
    )
    assert len({receipt.log_id for receipt in model.receipts.values()}) <= 1, "the log has changed its id"
    check_proofs(disk, model, [line[:-1] for line in lines])
    folder = PATH.parent
    moved = [disk.content(folder / name) for name in disk.names(folder) if ".damaged-" in name]
    assert all(cut in moved for cut in model.cut_off), "what was cut off the log is lost"


def check_proofs(disk: SimulatedDisk, model: Model, lines: Sequence[bytes]) -> None:
    """Hold hashes and checkpoints against the lines, and against what was told of them."""
    paths = AuditPaths.of(PATH)
    verifiers = [Verifier.from_vkey(vkey) for vkey in disk.content(paths.vkey).decode().split()]
    assert len(verifiers) == 1 or not model.published, "the key has changed"
    frontier = Frontier()
    stored = b"".join(frontier.extend(list(map(leaf_hash, lines))))
    notes = [note for _, note in split_notes(disk.content(paths.checkpoints))]
    try:
        checkpoints = [Checkpoint.parse(open_note(note, verifiers)) for note in notes]
    except NoteInvalid as error:
        raise AssertionError("a checkpoint is damaged") from error
    assert [each.size for each in checkpoints] == sorted({each.size for each in checkpoints}), (
        "it went backwards"
    )
    for each in checkpoints:
        assert each.size <= len(lines), "a checkpoint speaks of lines that are not there"
        assert root_hash(each.size, lambda at: stored[at * 32 : at * 32 + 32]) == each.root
    assert [note for note in notes if note in model.published] == model.published, "a checkpoint is lost"
    assert frontier.size == (checkpoints[-1].size if checkpoints else 0), (
        "a last start leaves nothing unsigned"
    )
    assert disk.content(paths.hashes) == stored
    assert not [line for line in model.reports if "rebuilt" in line], "the hashes were not on the medium"


@pytest.fixture(autouse=True, scope="module")
def _tight_index() -> Iterator[None]:
    """Let every group have an entry in the index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_tree, "INDEX_INTERVAL_BYTES", 1)
        yield


@settings(max_examples=300, deadline=None)
@given(stories)
def test_what_is_acknowledged_survives_every_crash(story: Story) -> None:
    """After any lives, each acknowledged event is in the log once, at its index, and every line is whole."""
    play(story)


@pytest.mark.parametrize("fault", range(15, 31))
def test_a_start_does_not_trust_what_a_failed_sync_left_in_memory(fault: int) -> None:
    """Not for the list of keys either: a key that is on it in memory only must not sign."""
    first = Life(Troubles(frozenset({fault}), None), NO_TROUBLES, [], False, False)
    second = Life(NO_TROUBLES, NO_TROUBLES, [[1]], False, True)
    for seed in range(8):
        play(Story([first, second], seed))


def search(of: st.SearchStrategy[Story], broken: Callable[[Story], bool]) -> Story:
    """Return a story that is `broken`; raise NoSuchExample if none is found. The same every time."""
    search_settings = settings(
        max_examples=3_000,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return find(of, broken, settings=search_settings, random=random.Random(0))


@pytest.mark.slow
def test_every_sync_is_listed() -> None:
    """The syncs that are left out below are all there are."""
    seen: set[str] = set()

    def has_seen_all(story: Story) -> bool:
        seen.update(play(story).sites)
        return seen >= {*SYNCS, *SPARE}

    search(stories, has_seen_all)
    assert seen == {*SYNCS, *SPARE}


@pytest.mark.slow
@pytest.mark.parametrize("site", SYNCS)
def test_every_sync_is_needed(site: str) -> None:
    """Without any one of the syncs there are lives after which a promise is broken."""

    def is_broken(story: Story) -> bool:
        try:
            play(story, ignored=[site])
        except AssertionError:
            return True
        return False

    search(SYNCS[site], is_broken)
