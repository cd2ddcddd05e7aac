"""Orphaned spools: who gets them, what of them, and what is left alone."""

import fcntl
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from emitd.spool import files
from emitd.spool.files import SpoolLock
from emitd.spool.spool import Spool, SpoolError, adopt_orphans
from support.processes.own_calls import with_own

TARGET = "localhost:50051"
MAX_BYTES = 10**6


def make_orphan(folder: Path, *records: bytes, target: str = TARGET) -> Path:
    spool = Spool.create(folder, target, MAX_BYTES)
    spool.append(records)
    spool.close()
    return spool.path


def adopt(folder: Path, *, reports: list[str] | None = None) -> dict[Path, list[bytes]]:
    """Adopt, empty and close each; return what was in it. What is reported must be asked for."""
    told: list[str] = []
    spools = adopt_orphans(folder, TARGET, MAX_BYTES, told.append)
    found = {}
    for spool in spools:
        spooled = spool.first(10**6, 10**9)
        found[spool.path] = [record for _, record in spooled]
        spool.delete(number for number, _ in spooled)
        spool.close()
    assert told if reports is not None else not told
    (reports if reports is not None else []).extend(told)
    return found


def test_orphans_are_adopted_and_deleted_when_sent(tmp_path: Path) -> None:
    """All of the same target that have records; a number goes on where it was."""
    orphans = [make_orphan(tmp_path, b"%d" % number) for number in range(3)]
    other = make_orphan(tmp_path, b"other", target="other:1")
    spools = adopt_orphans(tmp_path, TARGET, MAX_BYTES)
    assert sorted(spool.path for spool in spools) == sorted(orphans)
    for spool in spools:
        spool.append([b"more"])
        assert [number for number, _ in spool.first(9, 99)] == [1, 2]
        spool.delete([1, 2])
        spool.close()
    assert list(tmp_path.iterdir()) == [other]


def test_a_folder_that_is_missing_has_no_orphans(tmp_path: Path) -> None:
    """One that cannot be read is an error."""
    assert adopt(tmp_path / "missing") == {}
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="cannot look for spools in"):
        adopt(tmp_path / "file")


def test_a_spool_in_use_is_left_alone(tmp_path: Path) -> None:
    """Also by another client of the same process, and also while nothing waits in it."""
    with closing(Spool.create(tmp_path, TARGET, MAX_BYTES)) as spool:
        assert adopt(tmp_path) == {}
        spool.append([b"a"])
        assert adopt(tmp_path) == {}
        assert [record for _, record in spool.first(9, 99)] == [b"a"]
    ((path, records),) = adopt(tmp_path).items()
    assert (path, records) == (spool.path, [b"a"])


def test_rejected_records_are_kept_for_people(tmp_path: Path) -> None:
    """A file with nothing else in it is not adopted, and one that is adopted is not deleted."""
    with closing(Spool.create(tmp_path, TARGET, MAX_BYTES)) as spool:
        spool.append([b"bad", b"good"])
        spool.reject(1, "no such level")
    assert adopt(tmp_path) == {spool.path: [b"good"]}
    assert adopt(tmp_path) == {}
    assert list(tmp_path.iterdir()) == [spool.path]
    with closing(sqlite3.connect(spool.path)) as connection:
        assert connection.execute("SELECT record, reason FROM rejected").fetchall() == [
            (b"bad", "no such level")
        ]


def test_several_processes_share_the_orphans(tmp_path: Path) -> None:
    """Each goes to exactly one of them, however they race."""
    program = f"""
import sys
from pathlib import Path
from emitd.spool.spool import adopt_orphans
print("ready", flush=True)
sys.stdin.readline()
spools = adopt_orphans(Path({str(tmp_path)!r}), {TARGET!r}, 10**6, lambda line: print("reported:", line))
print(*[spool.first(1, 1)[0].record.decode() for spool in spools], flush=True)
sys.stdin.readline()
for spool in spools:
    spool.delete([1])
    spool.close()
"""
    for number in range(30):
        make_orphan(tmp_path, b"%d" % number)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    adopted: list[str] = []
    try:
        for wait in ("ready", "adopted"):
            lines = [process.stdout.readline().split() for process in processes if process.stdout]
            adopted = [word for line in lines for word in line]
            for process in processes:
                assert process.stdin
                process.stdin.write(f"go on, {wait}\n")
                process.stdin.flush()
        assert [process.wait(30) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sorted(adopted, key=int) == [str(number) for number in range(30)]
    assert list(tmp_path.iterdir()) == []


def damage_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


def damage_the_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"this is no database")


def damage_a_record(path: Path) -> None:
    """Where only who reads all of it would see it."""
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xff" * 4096)


def cut(path: Path) -> None:
    os.truncate(path, 5000)


@pytest.mark.parametrize("damage", [damage_a_page, damage_the_head, damage_a_record, cut])
def test_a_damaged_file_is_set_aside_and_reported(tmp_path: Path, damage: object) -> None:
    """Under another name, with what SQLite keeps beside it, once; the others are adopted."""
    damaged = make_orphan(tmp_path, *[b"x" * 9000] * 20)
    whole = make_orphan(tmp_path, b"whole")
    assert callable(damage)
    damage(damaged)
    Path(f"{damaged}-wal").touch(0o600)
    reports: list[str] = []
    assert adopt(tmp_path, reports=reports) == {whole: [b"whole"]}
    assert len(reports) == 1
    assert reports[0].startswith(f"the spool {damaged} is damaged (")
    assert reports[0].endswith(f"what is left of it is in {damaged}.damaged")
    names = {path.name for path in tmp_path.iterdir()}
    assert f"{damaged.name}.damaged" in names
    assert names <= {f"{damaged.name}.damaged", f"{damaged.name}.damaged-wal"}
    assert adopt(tmp_path) == {}


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    """To the byte, whatever its name; and so is the spool of a newer emitd."""
    foreign, newer = make_orphan(tmp_path, b"a"), make_orphan(tmp_path, b"a")
    foreign.unlink()
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE waiting (number)")
    foreign.chmod(0o600)
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    reports: list[str] = []
    assert adopt(tmp_path, reports=reports) == {}
    assert sorted(reports) == sorted(
        [
            f"{foreign} is no spool, but some other database",
            f"the spool {newer} has version 2, and this emitd knows only 1",
        ]
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_a_file_that_others_may_touch_is_not_read(tmp_path: Path, suffix: str) -> None:
    """What they wrote to it, or beside it, would be sent under this process's name."""
    path = make_orphan(tmp_path, b"a")
    part = Path(f"{path}{suffix}")
    part.touch()
    part.chmod(0o620)
    reports: list[str] = []
    assert adopt(tmp_path, reports=reports) == {}
    assert reports == [
        f"the spool {path} is left alone, because {part} has mode 0620, so that others may read or write it: "
        "it must have 0600"
    ]


def test_a_file_of_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a link, which could lead to one."""
    path = make_orphan(tmp_path, b"a")
    user = os.geteuid()
    reports: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert adopt(tmp_path, reports=reports) == {}
    assert f"{path} belongs to user {user}, and this process is of user {user + 1}" in reports[0]
    monkeypatch.undo()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert adopt(tmp_path, reports=reports) == {}
    assert f"{path} is no regular file" in reports[1]


def test_somebody_who_looks_in_delays_the_adoption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is only in use by another program is no damaged one."""
    monkeypatch.setattr("emitd.spool.database.BUSY_SECONDS", 0.05)
    path = make_orphan(tmp_path, b"a")
    reports: list[str] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert adopt(tmp_path, reports=reports) == {}
        connection.execute("ROLLBACK")
    assert reports == [f"cannot open the spool {path}: database is locked"]
    assert adopt(tmp_path) == {path: [b"a"]}


def test_what_a_dead_process_left_unfinished_is_deleted(tmp_path: Path) -> None:
    """A lock without a spool, and a file that never got its tables."""
    lock_only, unfinished = make_orphan(tmp_path, b"a"), make_orphan(tmp_path, b"a")
    lock_only.rename(lock_only.with_suffix(".lock"))
    unfinished.write_bytes(b"")
    assert adopt(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("successor", [None, b""])
def test_a_lock_whose_file_was_taken_away_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, successor: bytes | None
) -> None:
    """Its holder deletes it: who had opened it before gets the lock of a file that the next one does not see."""
    path = tmp_path / "lock"

    def flock_too_late(descriptor: int, operation: int) -> None:
        path.unlink()
        if successor is not None:
            path.write_bytes(successor)
        fcntl.flock(descriptor, operation)

    lock = SpoolLock(path)
    monkeypatch.setattr(files, "fcntl", with_own(fcntl, flock=flock_too_late))
    assert not lock.take()
    monkeypatch.undo()
    assert lock.take()
    lock.release()
    assert not path.exists()
