"""The spool of one process: order, limits, permissions, trouble with the disk, and how it ends."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from emitd.spool import spool as spool_module
from emitd.spool.spool import Spool, Spooled, SpoolError, SpoolFull, adopt_orphans

TARGET = "localhost:50051"
MAX_BYTES = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    with closing(Spool.create(folder, TARGET, MAX_BYTES)) as spool:
        yield spool


@pytest.fixture(params=[0, 0o777], ids=["no umask", "full umask"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def records_of(spool: Spool) -> list[bytes]:
    return [spooled.record for spooled in spool.first(10**6, 10**9)]


def rejected_in(path: Path) -> list[tuple[bytes, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT record, reason FROM rejected ORDER BY number").fetchall()


def test_records_are_shown_in_their_order(spool: Spool) -> None:
    """The oldest first, as often as asked, until they are deleted."""
    spool.append([b"a", b"b"])
    spool.append([b"c"])
    assert (
        spool.first(10, 100) == spool.first(10, 100) == [Spooled(1, b"a"), Spooled(2, b"b"), Spooled(3, b"c")]
    )
    spool.delete([1, 3])
    assert records_of(spool) == [b"b"]
    assert (len(spool), spool.size_bytes) == (1, 1)


def test_what_is_shown_is_bounded_by_count_and_by_bytes(spool: Spool) -> None:
    """Whichever comes first, and at least one record, so that a large one holds up nobody for ever."""
    spool.append([b"x" * 10] * 5)
    assert len(spool.first(3, 1000)) == 3
    assert len(spool.first(10, 30)) == 3
    assert len(spool.first(10, 29)) == 2
    assert len(spool.first(10, 1)) == len(spool.first(0, 0)) == 1


def test_nothing_is_shown_where_nothing_waits(spool: Spool) -> None:
    """An empty spool is no error, nor is an empty batch."""
    spool.append([])
    assert list(spool.first(10, 100)) == []
    assert (len(spool), spool.size_bytes, spool.rejected_count) == (0, 0, 0)


def test_a_number_is_never_given_again(spool: Spool) -> None:
    """So that deleting what was delivered twice over cannot hit a record that came later."""
    spool.append([b"a", b"b"])
    spool.delete([1, 2])
    spool.append([b"c"])
    spool.delete([1, 2, 99])
    assert spool.first(10, 100) == [Spooled(3, b"c")]


def test_a_rejected_record_is_put_aside_with_its_reason(spool: Spool) -> None:
    """It holds up no other, and can be read by people after the end of the process."""
    spool.append([b"a", b"bad", b"c"])
    spool.reject(2, "audit.source_ip: \ud800 is no address")
    spool.reject(2, "once more")
    assert records_of(spool) == [b"a", b"c"]
    assert (len(spool), spool.rejected_count) == (2, 1)
    spool.delete([1, 3])
    spool.close()
    assert rejected_in(spool.path) == [(b"bad", "audit.source_ip: ? is no address")]


def test_the_limit_is_exact_and_a_batch_is_refused_whole(spool: Spool) -> None:
    """Up to the last byte there is room; what does not fit leaves nothing behind, and takes nothing away."""
    spool.append([b"x" * 400] * 2)
    with pytest.raises(SpoolFull, match=r"may keep 1000 bytes: 800 wait, and 201 more do not fit"):
        spool.append([b"y", b"y" * 200])
    spool.append([b"z" * 200])
    assert (len(spool), spool.size_bytes) == (3, MAX_BYTES)
    spool.delete([1])
    spool.append([b"z" * 400])
    assert [record[:1] for record in records_of(spool)] == [b"x", b"z", b"z"]


def test_rejected_records_count_and_make_room_for_others(spool: Spool) -> None:
    """The oldest go first, and only as many as it takes; for a batch that fits never, none goes."""
    records = [name * 100 for name in (b"a", b"b", b"c", b"d", b"e", b"f")]
    spool.append(records)
    for number in (1, 2, 3):
        spool.reject(number, "r" * 100)
    assert spool.size_bytes == 900
    with pytest.raises(SpoolFull):
        spool.append([b"y" * 701])
    assert spool.rejected_count == 3
    spool.append([b"y" * 150])
    assert (spool.rejected_count, spool.size_bytes) == (2, 850)
    spool.close()
    assert [record for record, _ in rejected_in(spool.path)] == records[1:3]


def test_the_reasons_cannot_outgrow_the_limit(spool: Spool) -> None:
    """A reason is cut, older rejected records go, and the newest one stays."""
    spool.append([b"x" * 300] * 3)
    spool.reject(1, "older")
    spool.reject(2, "r" * 10_000)
    assert spool.rejected_count == 1
    spool.close()
    assert rejected_in(spool.path) == [(b"x" * 300, "r" * 1000)]


def test_files_are_for_their_owner_only(folder: Path, umask: None) -> None:
    """Whatever the umask: the database, SQLite's own files, the lock and the folders."""
    with closing(Spool.create(folder, TARGET, MAX_BYTES)) as spool:
        spool.append([b"secret"])
        files = list(folder.iterdir())
        assert sorted(path.suffix for path in files) == [".db", ".db-wal", ".lock"]
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}


def test_a_folder_that_is_there_keeps_its_mode(folder: Path) -> None:
    """It is its owner's affair who may see the names in it."""
    folder.mkdir(parents=True)
    folder.chmod(0o750)
    Spool.create(folder, TARGET, MAX_BYTES).close()
    assert folder.stat().st_mode & 0o777 == 0o750


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file in the place of a folder above it, or of itself, and a file system that takes no folders."""
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file" / "spool", tmp_path / "file", Path("/proc/emitd-spool")):
        with pytest.raises(SpoolError, match=f"cannot make a spool in {folder}: "):
            Spool.create(folder, TARGET, MAX_BYTES)


def test_a_spool_that_cannot_be_made_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a database that nobody needs nor a lock."""

    def fail(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(spool_module, "sync_folder", fail)
    with pytest.raises(SpoolError, match="Input/output error"):
        Spool.create(folder, TARGET, MAX_BYTES)
    assert list(folder.iterdir()) == []


def test_a_full_disk_refuses_the_batch_and_takes_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what did not fit is there, and all that was there before is."""
    make_database = spool_module.make_database

    def make_small_database(path: Path) -> sqlite3.Connection:
        connection = make_database(path)
        connection.execute("PRAGMA max_page_count = 6")
        return connection

    monkeypatch.setattr(spool_module, "make_database", make_small_database)
    with closing(Spool.create(folder, TARGET, 10**6)) as spool:
        spool.append([b"before"])
        with pytest.raises(
            SpoolError, match=f"cannot write to the spool {spool.path}: database or disk is full"
        ):
            spool.append([b"small", b"x" * 50_000])
        assert (len(spool), spool.size_bytes) == (1, 6)
        spool.append([b"after"])
        assert records_of(spool) == [b"before", b"after"]


def test_a_failed_write_leaves_nothing_behind(folder: Path) -> None:
    """The system refuses to let the file grow: afterwards, and in another process, only what was taken is there."""
    program = f"""
import os, resource, signal
from pathlib import Path
from emitd.spool.spool import Spool, SpoolError
spool = Spool.create(Path({str(folder)!r}), {TARGET!r}, 10**9)
spool.append([b"before"])
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
for size in range(1, 200_000, 7919):
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        spool.append([b"small", b"x" * size])
    except SpoolError as error:
        print(error)
        assert len(spool) == 1, len(spool)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    spool.delete([number for number, record in spool.first(9, 10**9)[1:]])
spool.append([b"after"])
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "cannot write to the spool" in done.stdout
    (orphan,) = adopt_orphans(folder, TARGET, 10**9)
    with closing(orphan):
        assert records_of(orphan) == [b"before", b"after"]


@pytest.mark.parametrize("replacement", [None, b"something else"])
def test_a_file_that_was_taken_away_takes_no_more_records(spool: Spool, replacement: bytes | None) -> None:
    """Nobody would find them again; what is in it can still be read, and what replaced it is left alone."""
    spool.append([b"before"])
    spool.path.unlink()
    if replacement is not None:
        spool.path.write_bytes(replacement)
    with pytest.raises(SpoolError, match="was deleted or replaced"):
        spool.append([b"after"])
    assert records_of(spool) == [b"before"]
    spool.delete([1])
    spool.close()
    assert spool.path.exists() == (replacement is not None)


def test_an_interrupted_change_is_counted_right(spool: Spool) -> None:
    """An exception from outside, such as Ctrl-C's, undoes all of the change."""
    spool.append([b"a"])

    def interrupted() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spool.delete(interrupted())
    assert (len(spool), spool.size_bytes, records_of(spool)) == (1, 1, [b"a"])


def test_an_empty_spool_deletes_its_files(spool: Spool, folder: Path) -> None:
    """Once nothing waits in it and nothing is rejected; twice closed is closed."""
    spool.append([b"a"])
    spool.delete([1])
    spool.close()
    spool.close()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("is_rejected", [False, True])
def test_a_spool_with_records_keeps_its_file(spool: Spool, folder: Path, is_rejected: bool) -> None:
    """One file alone, which holds all, and no lock."""
    spool.append([b"a"])
    if is_rejected:
        spool.reject(1, "bad")
    spool.close()
    assert list(folder.iterdir()) == [spool.path]


def test_a_closed_spool_says_so(spool: Spool) -> None:
    """Every verb does, but those that only tell what there was."""
    spool.close()
    for use in (lambda: spool.append([b"a"]), lambda: spool.first(1, 1), lambda: spool.reject(1, "bad")):
        with pytest.raises(SpoolError, match=f"the spool {spool.path} is closed"):
            use()
    with pytest.raises(SpoolError, match="is closed"):
        spool.delete([1])
    assert (len(spool), spool.size_bytes, spool.rejected_count) == (0, 0, 0)


def test_nobody_else_can_look_in_while_it_is_open(spool: Spool) -> None:
    """Somebody who did, and closed the file, would take its WAL away."""
    spool.append([b"a"])
    with (
        closing(sqlite3.connect(spool.path, timeout=0)) as connection,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        connection.execute("SELECT * FROM waiting")


def test_threads_share_a_spool(folder: Path) -> None:
    """Each batch stands together, each thread's in its order, and none is lost."""
    with closing(Spool.create(folder, TARGET, 10**6)) as spool:

        def append(name: int) -> None:
            for number in range(40):
                spool.append([b"%d %d" % (name, number), b"%d %d+" % (name, number)])

        threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        records = records_of(spool)
        assert len(records) == len(spool) == 320
        assert [first + b"+" for first in records[::2]] == records[1::2]
        for name in range(4):
            mine = [record for record in records[::2] if record.startswith(b"%d " % name)]
            assert mine == [b"%d %d" % (name, number) for number in range(40)]
        spool.delete(spooled.number for spooled in spool.first(10**6, 10**6))
