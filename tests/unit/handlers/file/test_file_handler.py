"""`FileHandler`: every line is there once, whatever happens to the file, and can be read back."""

import asyncio
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from emitd_handlers.clock import Clock
from emitd_handlers.durable.disk import Disk
from emitd_handlers.errors import HandlerUnavailable
from emitd_handlers.file import read
from emitd_handlers.file.handler import FileHandler, FileSettings, RotateSettings
from emitd_handlers.log_source import LogFilter, LogQuery
from emitd_handlers.outcome import Committed, Refused
from emitd_handlers.record import Level, LogRecord
from emitd_handlers.record_text import LineFormat
from emitd_handlers.settings import CommittedSettings, Delivery
from emitd_handlers.testing import make_record
from emitd_server.dispatch.committed_delivery import CommittedDelivery
from emitd_server.memory import MemoryAccount
from support.processes.open_files import open_under

HOUR = 3600 * 10**9


class SetClock(Clock):
    """Shows the time that a test sets."""

    time = 1_800_000_000 * 10**9

    def now(self, wall: int | None = None) -> int:
        """Return that, a little later each time."""
        self.time += 1000
        return self.time


class FullDisk(Disk):
    """Takes only some bytes of a write while it is full."""

    is_full = False
    syncs = 0

    def write(self, fd: int, data: memoryview) -> int:
        """Write half of what is left, and then fail."""
        if self.is_full and len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fd, data[: len(data) // 2] if self.is_full else data)

    def sync(self, fd: int) -> None:
        """Count the syncs."""
        self.syncs += 1
        super().sync(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "lines.jsonl"


def make_handler(path: Path, *, disk: Disk | None = None, **settings: object) -> FileHandler:
    handler = FileHandler(FileSettings(path=path, **settings), name="lines", disk=disk)  # type: ignore[arg-type]
    handler.clock = SetClock()
    return handler


def lines(count: int, first: int = 0, clock: Clock | None = None, **fields: object) -> list[LogRecord]:
    """Return records with numbers for messages; `clock` gives the times of receipt."""
    times = [{} if clock is None else {"received_unix_nano": clock.now()} for _ in range(count)]
    return [
        make_record(message=str(first + number), **times[number], **fields)  # type: ignore[arg-type]
        for number in range(count)
    ]


async def read_all(path: Path, **query: object) -> list[LogRecord]:
    """Return what is read back."""
    parts = read.LineReader(path).read_parts(LogQuery(**query))  # type: ignore[arg-type]
    return [line for part in [part async for part in parts] for line in part.lines]


def messages(records: Sequence[LogRecord]) -> list[str]:
    return [record.message for record in records]


async def test_a_line_has_every_field_and_comes_back_equal(path: Path) -> None:
    """One JSON object a line, mode 0600, in a folder with mode 0700."""
    handler = make_handler(path)
    sent = make_record(
        Level.WARNING,
        message="a\nb\u2028\x85 é",
        source="shop",
        attributes_json='{"n":1.50,"s":"\u202e"}',
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
    )
    await handler.start()
    await handler.emit_batch([sent])
    await handler.stop()
    (line,) = path.read_text().splitlines()
    members = json.loads(line)
    assert members["message"] == sent.message
    assert members["level"] == "WARNING"
    assert members["trace_id"] == sent.trace_id.hex()
    assert "\u202e" not in line
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    (back,) = await read_all(path)
    assert json.loads(back.attributes_json) == json.loads(sent.attributes_json)
    assert '"n":1.50' in back.attributes_json
    for field in ("level", "message", "record_id", "time_unix_nano", "received_unix_nano", "source"):
        assert getattr(back, field) == getattr(sent, field)
    assert (back.trace_id, back.span_id) == (sent.trace_id, sent.span_id)


async def test_text_is_the_line_of_the_console(path: Path) -> None:
    """With `format: text`, which cannot be read back and is no source then."""
    handler = make_handler(path, format=LineFormat.TEXT, timezone="Europe/Berlin")
    await handler.start()
    await handler.emit(
        make_record(message="hello", source="shop", time_unix_nano=0, attributes_json='{"a":1}')
    )
    await handler.stop()
    assert path.read_text() == "[1970-01-01 01:00:00] [INFO] [shop] hello a=1\n"
    assert not handler.keeps_lines
    with pytest.raises(ValueError, match="timezone: is no name of the IANA database"):
        FileSettings(path=path, timezone="Nowhere")


async def test_it_rotates_by_size_and_keeps_some(path: Path) -> None:
    """No line is split or lost at a rotation; the oldest files go."""
    handler = make_handler(path, rotate=RotateSettings(bytes=1000, keep=2))
    await handler.start()
    for number in range(30):
        await handler.emit_batch(lines(1, number, handler.clock))
    await handler.stop()
    files = [each for _, each in read.old_files(path)] + [path]
    assert len(files) == 3
    assert all(0 < file.stat().st_size <= 1000 for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    kept = messages(await read_all(path))
    assert kept == [str(number) for number in range(30 - len(kept), 30)]
    assert 6 <= len(kept) <= 12


async def test_it_rotates_by_age_also_after_a_restart(path: Path) -> None:
    """The age counts from the first line, also if another service began the file."""
    clock = SetClock()
    for number in range(6):
        handler = make_handler(path, rotate=RotateSettings(hours=2.0))
        handler.clock = clock
        await handler.start()
        await handler.emit_batch(lines(1, number, clock))
        await handler.stop()
        clock.time += HOUR
    assert len(read.old_files(path)) == 2
    assert messages(await read_all(path)) == [str(number) for number in range(6)]


@pytest.mark.parametrize("keep", [0, 1, 5, 10])
async def test_so_many_rotated_files_are_kept(path: Path, keep: int) -> None:
    """`keep: 0` leaves none but the file itself; none is removed before there are more."""
    handler = make_handler(path, rotate=RotateSettings(bytes=300, keep=keep))
    await handler.start()
    counts = []
    for number in range(13):
        await handler.emit_batch(lines(1, number, handler.clock))
        counts.append(len(read.old_files(path)))
    await handler.stop()
    assert counts == [min(number, keep) for number in range(13)]


@pytest.mark.parametrize("how", ["mv", "rm", "copytruncate", "folder"])
async def test_what_logrotate_does_loses_nothing_more(path: Path, how: str) -> None:
    """The next line stands in the file that `path` leads to; of those before, nothing is lost that was kept."""
    handler = make_handler(path)
    await handler.start()
    await handler.emit_batch(lines(3))
    copy = path.with_name("lines.jsonl.1")
    if how == "mv":
        path.rename(copy)
    elif how == "rm":
        path.unlink()
    elif how == "folder":
        path.parent.rename(path.parent.with_name("moved"))
        copy = path.parent.with_name("moved") / path.name
    else:
        copy.write_bytes(path.read_bytes())
        os.truncate(path, 0)
    await handler.emit_batch(lines(3, 3))
    assert messages(await read_all(path)) == ["3", "4", "5"]
    if how != "rm":
        assert messages(await read_all(copy)) == ["0", "1", "2"]
    await handler.stop()


async def test_a_link_stays_and_files_rotate_where_it_leads(path: Path, tmp_path: Path) -> None:
    """Also if its target is not there yet, or if it is made to lead elsewhere."""
    path.parent.mkdir()
    path.symlink_to(tmp_path / "data" / "real.jsonl")
    handler = make_handler(path, rotate=RotateSettings(bytes=300, keep=3))
    await handler.start()
    for number in range(4):
        await handler.emit_batch(lines(1, number, handler.clock))
    assert path.is_symlink()
    assert len(read.old_files(tmp_path / "data" / "real.jsonl")) == 3
    parts = [part async for part in handler.read_lines(LogQuery())]
    assert messages([line for part in parts for line in part.lines]) == ["0", "1", "2", "3"]
    path.unlink()
    path.symlink_to(tmp_path / "other.jsonl")
    await handler.emit_batch(lines(1, 4, handler.clock))
    parts = [part async for part in handler.read_lines(LogQuery())]
    assert messages([line for part in parts for line in part.lines]) == ["4"]
    await handler.stop()


async def test_what_else_stands_in_the_folder_does_no_harm(path: Path) -> None:
    """A folder with the name of a rotated file, and one from a far future, which is no reason to move the clock."""
    (path.parent / "lines.jsonl.2020-01-01T000000.000000000Z").mkdir(parents=True)
    (path.parent / "lines.jsonl.2099-01-01T000000.000000000Z").touch()
    handler = FileHandler(FileSettings(path=path, rotate=RotateSettings(bytes=300, keep=1)), name="lines")
    await handler.start()
    assert abs(handler.clock.now() - time.time_ns()) < HOUR
    for number in range(3):
        await handler.emit_batch(lines(1, number, handler.clock))
    parts = [part async for part in handler.read_lines(LogQuery(received_before_unix_nano=time.time_ns()))]
    assert messages([line for part in parts for line in part.lines]) == ["2"]
    await handler.stop()


async def test_times_go_on_after_those_kept(path: Path) -> None:
    """If the wall clock was set back between two runs, no line comes before the earlier ones."""
    late = time.time_ns() + HOUR
    first = make_handler(path)
    await first.start()
    await first.emit_batch([make_record(message="0", received_unix_nano=late)])
    await first.stop()
    again = FileHandler(FileSettings(path=path), name="lines")
    await again.start()
    assert late <= again.clock.now() < late + HOUR
    await again.stop()


def test_a_name_leaves_room_for_that_of_a_rotated_file(tmp_path: Path) -> None:
    """It would fail at the first rotation, and each record from then on."""
    FileSettings(path=tmp_path / ("é" * 113))
    with pytest.raises(
        ValueError, match="path: the name of a rotated file would have 256 bytes, more than 255"
    ):
        FileSettings(path=tmp_path / ("n" * 227))


async def test_a_line_cut_by_a_kill_stays_by_itself(path: Path) -> None:
    """A new line begins after a torn one, which is passed over when lines are read."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"message":"to')
    handler = make_handler(path)
    await handler.start()
    await handler.emit_batch(lines(2))
    await handler.stop()
    assert path.read_bytes().startswith(b'{"message":"to\n{')
    assert messages(await read_all(path)) == ["0", "1"]


async def test_a_full_disk_refuses_and_leaves_no_half_line(path: Path) -> None:
    """The records can be sent again; health says why; the file ends at a line's end."""
    disk = FullDisk()
    handler = make_handler(path, disk=disk)
    await handler.start()
    await handler.emit_batch(lines(1))
    disk.is_full = True
    with pytest.raises(
        HandlerUnavailable, match=r"handler 'lines' cannot write '.*lines\.jsonl': No space left"
    ):
        await handler.emit_batch(lines(50, 1))
    assert "No space left" in handler.health_problem
    assert messages(await read_all(path)) == ["0"]
    assert path.read_bytes().endswith(b"\n")
    disk.is_full = False
    await handler.emit_batch(lines(50, 1))
    assert handler.health_problem == ""
    assert messages(await read_all(path)) == [str(number) for number in range(51)]
    await handler.stop()


async def test_committed_lines_are_synced_together_and_queued_ones_are_not(path: Path) -> None:
    """Calls that come together share a sync."""
    disk = FullDisk()
    handler = make_handler(path, disk=disk, delivery=Delivery.COMMITTED)
    await handler.start()
    delivery = CommittedDelivery(handler, CommittedSettings(), 10, lambda _: None, MemoryAccount(1 << 30))
    outcomes = await asyncio.gather(*(delivery.take(lines(1, number), 1) for number in range(20)))
    assert all(outcome == [Committed()] for outcome in outcomes)
    assert disk.syncs == 1
    await handler.stop()
    disk.syncs = 0
    handler = make_handler(path, disk=disk)
    await handler.start()
    await handler.emit_batch(lines(5, 20))
    assert disk.syncs == 0
    await handler.stop()
    assert len(await read_all(path)) == 25


async def test_one_process_writes_a_file(path: Path) -> None:
    """A second one cannot start until the first has gone, and says why."""
    first, second = make_handler(path), make_handler(path)
    await first.start()
    with pytest.raises(HandlerUnavailable, match=r"another process writes '.*lines\.jsonl'"):
        await second.start()
    await second.stop()
    await first.stop()
    await second.start()
    await second.stop()


async def test_a_record_that_has_no_line_is_refused_alone(path: Path) -> None:
    """Half a surrogate pair cannot be JSON."""
    handler = make_handler(path)
    await handler.start()
    first, bad, last = await handler.emit_batch([*lines(1), make_record(message="\ud800"), *lines(1, 1)])
    await handler.stop()
    assert isinstance(bad, Refused)
    assert first == last == Committed()
    assert messages(await read_all(path)) == ["0", "1"]


class TestReading:
    """`read_parts`, over several files and blocks."""

    @pytest.fixture(autouse=True)
    async def _written(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Write 200 lines into several files, each of several blocks."""
        monkeypatch.setattr(read, "BLOCK_BYTES", 700)
        monkeypatch.setattr(read, "MAX_WAIT_NANOS", 0)
        handler = make_handler(path, rotate=RotateSettings(bytes=10_000))
        await handler.start()
        self.sent = []
        for number in range(200):
            self.sent += lines(1, number, handler.clock, source="shop")
            await handler.emit_batch(self.sent[-1:])
        await handler.stop()
        self.path = path
        assert len(read.old_files(path)) == 3

    async def test_forwards_and_backwards(self) -> None:
        """Every line once, in order."""
        assert messages(await read_all(self.path)) == messages(self.sent)
        assert messages(await read_all(self.path, newest_first=True)) == messages(self.sent)[::-1]

    @pytest.mark.parametrize("newest_first", [False, True])
    async def test_between_any_two_times(self, newest_first: bool) -> None:
        """`received_after` is in, `received_before` is out, wherever they fall."""
        for after in range(0, 200, 13):
            for before in range(after, 200, 29):
                found = await read_all(
                    self.path,
                    received_after_unix_nano=self.sent[after].received_unix_nano,
                    received_before_unix_nano=self.sent[before].received_unix_nano,
                    newest_first=newest_first,
                )
                expected = messages(self.sent[after:before])
                assert messages(found) == (expected[::-1] if newest_first else expected)

    async def test_a_filter(self) -> None:
        """Only what matches."""
        assert messages(await read_all(self.path, filter=LogFilter(text="17"))) == [
            str(number) for number in range(200) if "17" in str(number)
        ]
        assert await read_all(self.path, filter=LogFilter(sources=("other",))) == []

    async def test_only_as_much_is_read_as_is_needed(self) -> None:
        """The newest line is found in the last block, and old files are passed over, once the blocks are known."""
        reader = read.LineReader(self.path)
        assert [part async for part in reader.read_parts(LogQuery())][-1].lines
        parts = reader.read_parts(LogQuery(newest_first=True))
        while not (first := await anext(parts)).lines:
            pass
        await parts.aclose()
        assert open_under(self.path.parent) == []
        assert messages(first.lines)[0] == "199"
        assert len(first.lines) < 10
        late = LogQuery(received_after_unix_nano=self.sent[195].received_unix_nano)
        found = [part async for part in reader.read_parts(late)]
        assert len(found) <= 4
        assert messages([line for part in found for line in part.lines]) == [
            "195",
            "196",
            "197",
            "198",
            "199",
        ]

    async def test_a_file_that_was_cut_and_grew_is_read_afresh(self) -> None:
        """What was known of a file's blocks is no longer true then, although it may be as large as before."""
        reader = read.LineReader(self.path)
        assert [part async for part in reader.read_parts(LogQuery())]
        os.truncate(self.path, 0)
        handler = make_handler(self.path)
        await handler.start()
        later = self.sent[-1].received_unix_nano + HOUR
        new = [make_record(message=f"new {n}", received_unix_nano=later + n) for n in range(100)]
        await handler.emit_batch(new)
        await handler.stop()
        found = [part async for part in reader.read_parts(LogQuery(received_after_unix_nano=later + 50))]
        assert messages([line for part in found for line in part.lines]) == messages(new[50:])

    @pytest.mark.parametrize("newest_first", [False, True])
    async def test_lines_that_waited_come_in_their_place(
        self, newest_first: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lines stand in a file as they were written; they are read by their time of receipt, from any time on."""
        order = [number ^ (number * 7 % 64) for number in range(200)]
        written = sorted(self.sent, key=lambda record: order[int(record.message)])
        monkeypatch.setattr(read, "MAX_WAIT_NANOS", HOUR)
        path = self.path.with_name("late.jsonl")
        handler = make_handler(path, rotate=RotateSettings(bytes=10_000))
        handler.clock.time = self.sent[-1].received_unix_nano  # type: ignore[attr-defined]
        await handler.start()
        for record in written:
            await handler.emit_batch([record])
        await handler.stop()
        for after in range(0, 200, 13):
            found = await read_all(
                path, received_after_unix_nano=self.sent[after].received_unix_nano, newest_first=newest_first
            )
            expected = messages(self.sent[after:])
            assert messages(found) == (expected[::-1] if newest_first else expected)

    async def test_damage_is_passed_over(self) -> None:
        """A line that is none, and one without its end, hide no other."""
        oldest = read.old_files(self.path)[0][1]
        oldest.write_bytes(b"\xff\x00 damaged\n" + oldest.read_bytes())
        with self.path.open("ab") as file:
            file.write(b'{"message":"half')
        assert messages(await read_all(self.path)) == messages(self.sent)
        assert messages(await read_all(self.path, newest_first=True)) == messages(self.sent)[::-1]

    async def test_files_that_go_meanwhile(self) -> None:
        """A file that is removed while others are read is left out, and no descriptor is lost."""
        parts = read.LineReader(self.path).read_parts(LogQuery())
        await anext(parts)
        for _, each in read.old_files(self.path):
            each.unlink()
        rest = [line async for part in parts for line in part.lines]
        assert messages(rest)[-1] == "199"
        assert open_under(self.path.parent) == []

    async def test_nothing_there(self, tmp_path: Path) -> None:
        """No file is no line."""
        assert await read_all(tmp_path / "none" / "x.jsonl") == []


def test_a_kill_while_it_rotates_loses_no_line(path: Path) -> None:
    """Each line whose write was acknowledged is there once, in order, after kills at any moment."""
    program = f"""
import asyncio, sys
from pathlib import Path
from emitd_handlers.file.handler import FileHandler, FileSettings, RotateSettings
from emitd_handlers.settings import Delivery
from emitd_handlers.testing import make_record
async def main():
    rotate = RotateSettings(bytes=600, keep=10_000)
    handler = FileHandler(FileSettings(path=Path({str(path)!r}), delivery=Delivery.COMMITTED, rotate=rotate))
    await handler.start()
    for number in range(int(sys.argv[1]), 10**9):
        await handler.emit_batch([make_record(message=str(number))])
        print(number, flush=True)
asyncio.run(main())
"""
    acknowledged: list[str] = []
    for _ in range(5):
        begin = int(acknowledged[-1]) + 2 if acknowledged else 0
        command = [sys.executable, "-c", program, str(begin)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(40):
                acknowledged.append(process.stdout.readline().strip())
            process.kill()
            acknowledged += process.stdout.read().split()
    found = messages(asyncio.run(read_all(path)))
    assert [line for line in found if line in set(acknowledged)] == acknowledged
    assert len(found) == len(set(found))
