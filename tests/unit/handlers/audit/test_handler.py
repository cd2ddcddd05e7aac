"""`JsonAuditHandler`: batches in, receipts out, and everything between a start and a stop."""

import asyncio
import json
import subprocess
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from emitd_handlers.audit.format.line import encode_line
from emitd_handlers.audit.handler import JsonAuditHandler, JsonAuditSettings
from emitd_handlers.audit.write import recovery as audit_recovery
from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerError, HandlerUnavailable, RecordInvalid
from emitd_handlers.outcome import AuditReceipt, Committed, Outcome, RecentCommit, Refused
from emitd_handlers.record import AuditEvent, Level, LogRecord, audit_fingerprint
from emitd_handlers.settings import CommittedSettings, Delivery
from emitd_handlers.text.uuid7 import uuid7
from emitd_handlers.tlog.merkle import leaf_hash
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.memory import MemoryAccount
from support.processes.open_files import open_under
from support.processes.own_threads import alive, own_threads

TIME = 1_795_405_140_000_000_000


class GatedDisk(Disk):
    """Keeps syncs waiting until a test opens the gate; fails where it is told to; counts writes and syncs."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Event()
        self.is_full = False
        #: How many syncs succeed before all fail; None: all succeed.
        self.good_syncs: int | None = None
        self.written: list[int] = []
        self.syncs = 0

    def write(self, fd: int, data: memoryview) -> int:
        self.written.append(len(data))
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self.at_gate.set()
        assert self.gate.wait(10)
        self.syncs += 1
        if self.good_syncs is not None and self.syncs > self.good_syncs:
            raise OSError(5, "Input/output error")
        super().sync(fd)

    def start_counting(self) -> None:
        self.written.clear()
        self.syncs = 0
        self.at_gate.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.json.log"


@asynccontextmanager
async def running(path: Path, disk: Disk | None = None, **settings: Any) -> AsyncIterator[JsonAuditHandler]:
    handler = JsonAuditHandler(JsonAuditSettings(path=path, **settings), name="audit", disk=disk)
    await handler.start()
    try:
        yield handler
    finally:
        await handler.stop()


def event(number: int, *, record_id: str | None = None, **fields: Any) -> LogRecord:
    """A record as the server's edge makes it."""
    payload = AuditEvent(f"event-{number}", "user.login", "u1", "192.0.2.1", f'{{"n":{number}}}')
    payload = replace(payload, **fields)
    return LogRecord(
        Level.AUDIT,
        record_id=f"record-{number}" if record_id is None else record_id,
        time_unix_nano=TIME + number,
        received_unix_nano=TIME + number,
        payload=payload,
        fingerprint=audit_fingerprint(
            "",
            "",
            "",
            b"",
            b"",
            payload.event_id,
            payload.event_name,
            payload.user_id,
            payload.source_ip,
            payload.details_json,
            TIME + number,
        ),
    )


def receipts(outcomes: Sequence[Outcome]) -> list[AuditReceipt]:
    found = [outcome.receipt for outcome in outcomes if isinstance(outcome, Committed)]
    assert len(found) == len(outcomes)
    return [receipt for receipt in found if isinstance(receipt, AuditReceipt)]


def errors(outcomes: Sequence[Outcome]) -> list[HandlerError]:
    return [outcome.error for outcome in outcomes if isinstance(outcome, Refused)]


async def test_a_receipt_tells_where_its_line_is(path: Path) -> None:
    """Index and leaf of each receipt are those of the record's line in the file."""
    async with running(path) as handler:
        found = receipts(await handler.emit_batch([event(0), event(1)]))
        found += receipts(await handler.emit_batch([event(2)]))
    lines = path.read_bytes().splitlines()
    assert [receipt.leaf_index for receipt in found] == [0, 1, 2]
    assert [receipt.leaf_hash for receipt in found] == [leaf_hash(line) for line in lines]
    assert [receipt.event_id for receipt in found] == ["event-0", "event-1", "event-2"]
    assert lines == [encode_line(event(number)) for number in range(3)]
    (log_id,) = {receipt.log_id for receipt in found}
    assert path.with_name("audit.json.log.log_id").read_text() == f"{log_id}\n"


async def test_one_event_can_be_emitted_alone(path: Path) -> None:
    """`emit` returns the receipt, and raises what a batch would have refused with."""
    async with running(path, log_id="example.com/log") as handler:
        receipt = await handler.emit(event(0))
        assert receipt == AuditReceipt("example.com/log", "event-0", 0, leaf_hash(encode_line(event(0))))
        with pytest.raises(RecordInvalid):
            await handler.emit(event(1, user_id=""))


async def test_a_bad_record_takes_no_line(path: Path) -> None:
    """Bad records of a batch are refused by field, the others are committed with indexes that follow."""
    async with running(path) as handler:
        outcomes = await handler.emit_batch(
            [event(0), event(1, user_id=""), event(2), event(3, source_ip="x"), event(4, details_json="[]")]
        )
        assert [type(outcome) for outcome in outcomes] == [Committed, Refused, Committed, Refused, Refused]
        assert [receipt.leaf_index for receipt in receipts(outcomes[:3:2])] == [0, 1]
        assert [getattr(error, "field", None) for error in errors(outcomes)] == [
            "audit.user_id",
            "audit.source_ip",
            "audit.details_json",
        ]
    assert len(path.read_bytes().splitlines()) == 2


async def test_a_batch_of_bad_records_writes_nothing(path: Path) -> None:
    """Without a good record there is no group."""
    async with running(path, disk := GatedDisk()) as handler:
        disk.start_counting()
        assert len(errors(await handler.emit_batch([event(0, user_id="")]))) == 1
        assert (disk.written, disk.syncs) == ([], 0)


async def test_hand_made_records_are_completed(path: Path) -> None:
    """A record without a fingerprint, id and times gets what the server's edge would have given it."""
    async with running(path) as handler:
        bare = LogRecord(Level.AUDIT, payload=AuditEvent("", "user.login", "u1", "unknown", '{"a":\n1}'))
        (receipt,) = receipts(await handler.emit_batch([bare]))
        twice = replace(bare, payload=AuditEvent("e", "n", "u", "::1", '{"a":1,"a":1}'))
        (error,) = errors(await handler.emit_batch([twice]))
    line = json.loads(path.read_bytes())
    assert line["event_id"] == receipt.event_id != ""
    assert line["assigned"] == ["timestamp", "event_id"]
    assert line["timestamp"] == line["received_at"]
    assert str(error) == 'audit.details_json: has the key "a" twice in one object'


@pytest.mark.parametrize("extra", [0, 1])
async def test_lines_are_limited(path: Path, extra: int) -> None:
    """A line of exactly the limit is written, one byte more is refused, naming what is large."""
    limit = 2_000
    room = limit - len(encode_line(event(0, details_json='{"a":""}'))) + extra
    long_details = event(0, details_json='{"a":"' + "x" * room + '"}')
    long_message = replace(event(0, details_json="{}"), message="x" * (room - len(',"message":""') + 6))
    assert len(encode_line(long_details)) == len(encode_line(long_message)) == limit + extra
    async with running(path, max_line_bytes=limit) as handler:
        outcomes = await handler.emit_batch([long_details, long_message])
    if not extra:
        assert [receipt.leaf_index for receipt in receipts(outcomes)] == [0, 1]
        return
    assert [str(error) for error in errors(outcomes)] == [
        "audit.details_json: makes an audit line of 2001 bytes, more than 2000",
        "makes an audit line of 2001 bytes, more than 2000",
    ]


async def test_times_of_receipt_never_decrease(path: Path) -> None:
    """When the clock goes back, within a run or over a restart, `received_at` stays where it was."""
    for numbers in ((5, 3, 7), (1, 8)):
        async with running(path) as handler:
            for number in numbers:
                await handler.emit_batch([event(number)])
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["received_at"][-3:] for line in lines] == ["05Z", "05Z", "07Z", "07Z", "08Z"]
    assert [line["timestamp"][-3:] for line in lines] == ["05Z", "03Z", "07Z", "01Z", "08Z"]


async def test_calls_that_wait_share_the_next_sync(path: Path) -> None:
    """While one group is synced, all calls that come wait, and are then written and synced at once."""
    async with running(path, disk := GatedDisk()) as handler:
        memory = MemoryAccount(1 << 30)
        delivery = CommittedDelivery(handler, CommittedSettings(), 1000, lambda _: None, memory)
        disk.start_counting()
        disk.gate.clear()
        first = asyncio.create_task(delivery.take([event(0)], 1))
        await asyncio.to_thread(disk.at_gate.wait, 10)
        others = [asyncio.create_task(delivery.take([event(number)], 1)) for number in range(1, 100)]
        await asyncio.sleep(0)
        assert not first.done()
        disk.gate.set()
        answers = await asyncio.gather(first, *others)
        assert [receipt.leaf_index for answer in answers for receipt in receipts(answer)] == list(range(100))
        assert (len(disk.written), disk.syncs) == (2, 2)
        assert (handler.stats.groups, handler.stats.lines) == (2, 100)


async def test_groups_are_limited_and_hold_whole_lines(path: Path) -> None:
    """A batch larger than a group goes out in several, each as full as whole lines make it."""
    padding = "x" * (1_024 - 1 - len(encode_line(event(10, details_json='{"a":""}'))))
    records = [event(number, details_json=f'{{"a":"{padding}"}}') for number in range(10, 90)]
    async with running(path, disk := GatedDisk(), max_group_bytes=65_536) as handler:
        disk.start_counting()
        found = receipts(await handler.emit_batch(records))
        assert [receipt.leaf_index for receipt in found] == list(range(80))
        assert (disk.written, disk.syncs) == ([64 * 1_024, 16 * 1_024], 2)


async def test_a_line_is_not_split_over_groups(path: Path) -> None:
    """A line that does not fit into what is left of a group begins the next one."""
    padding = "x" * (1_024 - len(encode_line(event(10, details_json='{"a":""}'))))
    records = [event(number, details_json=f'{{"a":"{padding}"}}') for number in range(10, 90)]
    async with running(path, disk := GatedDisk(), max_group_bytes=65_536) as handler:
        disk.start_counting()
        receipts(await handler.emit_batch(records))
        assert disk.written == [63 * 1_025, 17 * 1_025]


async def test_a_failed_group_harms_no_other(path: Path) -> None:
    """What could not be written is refused as something that may pass; what comes after is committed."""
    async with running(path, disk := GatedDisk()) as handler:
        await handler.emit_batch([event(0)])
        disk.is_full = True
        (error,) = errors(await handler.emit_batch([event(1)]))
        assert isinstance(error, HandlerUnavailable)
        assert str(error).endswith("cannot be written: No space left on device")
        disk.is_full = False
        (receipt,) = receipts(await handler.emit_batch([event(2)]))
        assert receipt.leaf_index == 1
        assert (handler.stats.failed_groups, handler.stats.lines) == (1, 2)
    assert path.read_bytes() == encode_line(event(0)) + b"\n" + encode_line(event(2)) + b"\n"


async def test_a_batch_can_fail_in_part(path: Path) -> None:
    """Of a batch in several groups those that were synced are acknowledged, the rest is refused."""
    async with running(path, disk := GatedDisk(), max_group_bytes=65_536) as handler:
        disk.start_counting()
        disk.good_syncs = 1
        outcomes = await handler.emit_batch(
            [event(number, details_json='{"a":"' + "x" * 40_000 + '"}') for number in range(3)]
        )
        assert [type(outcome) for outcome in outcomes] == [Committed, Refused, Refused]
    assert len(path.read_bytes().splitlines()) == 1


async def test_a_deleted_log_acknowledges_nothing(path: Path) -> None:
    """A sync of a deleted file succeeds; the handler refuses all the same, and its end saves the lines."""
    reports: list[str] = []
    handler = JsonAuditHandler(JsonAuditSettings(path=path), report=reports.append)
    await handler.start()
    await handler.emit_batch([event(0)])
    path.unlink()
    for number in (1, 2):
        (error,) = errors(await handler.emit_batch([event(number)]))
        assert isinstance(error, HandlerUnavailable)
        assert "was deleted or renamed" in str(error)
    await handler.stop()
    said = handler.restart_problem or reports[-1]
    assert "was deleted or renamed" in said
    assert not path.exists()
    with pytest.raises(HandlerUnavailable, match="All of it is in"):
        await handler.start()
    with pytest.raises(HandlerUnavailable, match=r"was displaced\. All of it is in"):
        await JsonAuditHandler(JsonAuditSettings(path=path)).start()
    await asyncio.to_thread(subprocess.run, said.split("run: ")[1], shell=True, check=True)
    await handler.start()
    assert receipts(await handler.emit_batch([event(3)]))[0].leaf_index == 1
    await handler.stop()


async def test_recent_commits_tell_what_a_retry_is_known_by(path: Path) -> None:
    """After a restart, ids, fingerprints and receipts are those of the lines, oldest first."""
    records = [event(number) for number in range(5)]
    async with running(path) as handler:
        found = receipts(await handler.emit_batch(records))
    expected = [
        RecentCommit(
            f"record-{number}",
            f"event-{number}",
            records[number].fingerprint,
            found[number],
            records[number].source,
        )
        for number in range(5)
    ]
    async with running(path) as handler:
        assert list(await handler.recent_commits(100)) == expected
    async with running(path) as handler:
        assert list(await handler.recent_commits(2)) == expected[3:]
        assert list(await handler.recent_commits(0)) == []


async def test_recent_commits_leave_out_what_nobody_can_repeat(path: Path) -> None:
    """A line whose ids are all the server's is not told, and counts as one of those read."""
    anonymous = replace(event(0, event_id=uuid7()), record_id="", assigned=("event_id",))
    named = replace(event(1, event_id=uuid7()), assigned=("event_id",))
    async with running(path) as handler:
        await handler.emit_batch([event(2), anonymous, named])
    async with running(path) as handler:
        commits = await handler.recent_commits(2)
        assert [(commit.record_id, commit.event_id) for commit in commits] == [("record-1", "")]
        assert len(await handler.recent_commits(3)) == 2


async def test_damage_that_is_only_read_stops_the_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged line too far back for a crash is found when it is read, and named by its offset."""
    async with running(path) as handler:
        await handler.emit_batch([event(number) for number in range(9)])
    content = path.read_bytes()
    offset = content.index(b"\n") + 1
    path.write_bytes(content[:offset] + b"x" + content[offset + 1 :])
    monkeypatch.setattr(audit_recovery, "MAX_GROUP_BYTES", 500)
    async with running(path) as handler:
        assert len(await handler.recent_commits(7)) == 7
        with pytest.raises(HandlerUnavailable, match=f"is damaged at byte {offset}, further back than"):
            await handler.recent_commits(9)
    assert len(path.read_bytes()) == len(content)


async def test_two_handlers_cannot_share_a_log(path: Path) -> None:
    """The second one does not start, says why, and leaves no thread behind."""
    async with running(path):
        second = JsonAuditHandler(JsonAuditSettings(path=path))
        with own_threads() as threads:
            with pytest.raises(HandlerUnavailable, match=r"is in use by another process$"):
                await second.start()
            assert alive(threads) == []
        await second.stop()


async def test_a_start_that_is_given_up_leaves_nothing(path: Path) -> None:
    """Cancelled while it opens the log, a start ends with the lock free and no thread left."""
    disk = GatedDisk()
    disk.gate.clear()
    handler = JsonAuditHandler(JsonAuditSettings(path=path), disk=disk)
    with own_threads() as threads:
        starting = asyncio.create_task(handler.start())
        while not disk.at_gate.is_set():
            await asyncio.sleep(0.001)
        starting.cancel()
        await asyncio.sleep(0)
        disk.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert threads
        assert alive(threads) == []
    async with running(path):
        pass


async def test_stop_commits_what_was_accepted(path: Path) -> None:
    """Batches under way when `stop` is called are committed before it returns; later ones are refused."""
    disk = GatedDisk()
    async with running(path, disk) as handler:
        disk.start_counting()
        disk.gate.clear()
        first = asyncio.create_task(handler.emit_batch([event(0)]))
        await asyncio.to_thread(disk.at_gate.wait, 10)
        second = asyncio.create_task(handler.emit_batch([event(1)]))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(handler.stop())
        await asyncio.sleep(0)
        (error,) = errors(await handler.emit_batch([event(2)]))
        assert str(error) == "handler 'audit' is not running"
        disk.gate.set()
        await stopping
        assert [receipt.leaf_index for task in (first, second) for receipt in receipts(task.result())] == [
            0,
            1,
        ]
    assert len(path.read_bytes().splitlines()) == 2


async def test_stop_leaves_nothing_open(path: Path) -> None:
    """After `stop` there is no thread, no task and no descriptor; `stop` without `start`, and twice, is safe."""
    tasks = asyncio.all_tasks()
    handler = JsonAuditHandler(JsonAuditSettings(path=path))
    with own_threads() as threads:
        await handler.stop()
        await handler.start()
        await handler.emit_batch([event(0)])
        await handler.stop()
        await handler.stop()
        assert threads
        assert (alive(threads), open_under(path.parent), asyncio.all_tasks() - tasks) == ([], [], set())
    (error,) = errors(await handler.emit_batch([event(1)]))
    assert isinstance(error, HandlerUnavailable)


async def test_nothing_is_taken_before_start(path: Path) -> None:
    """Without `start` records are refused, and no commits are told."""
    handler = JsonAuditHandler(JsonAuditSettings(path=path))
    assert len(errors(await handler.emit_batch([event(0)]))) == 1
    assert list(await handler.recent_commits(10)) == []
    assert not path.exists()


async def test_repairs_are_reported_on_standard_error(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody else takes them, lines for the operator go to standard error, and are counted."""
    path.write_bytes(b"torn")
    async with running(path) as handler:
        assert handler.stats.damaged_bytes_moved == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"emitd audit log '{path}': its last 4 bytes")
    assert captured.err.count("\n") == 1


def test_it_takes_audit_records_and_commits_them() -> None:
    """By default the handler is for AUDIT alone, and the reply waits for it."""
    handler = JsonAuditHandler()
    assert [level for level in Level if handler.can_handle(level)] == [Level.AUDIT]
    assert handler.default_delivery is Delivery.COMMITTED
    assert handler.settings == JsonAuditSettings(path=Path("logs/audit.json.log"), log_id="")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_line_bytes", 65_536),
        ("max_line_bytes", 1023),
        ("max_group_bytes", 65_535),
        ("max_group_bytes", 8 * 1024 * 1024 + 1),
    ],
)
def test_limits_have_limits(key: str, value: int) -> None:
    """A line is never longer than an entry of C2SP tiles, a group never larger than a crash may damage."""
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert({key: value}, JsonAuditSettings)
