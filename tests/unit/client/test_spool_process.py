"""The spool of a process that is killed, or that forks: with real processes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emitd.spool.spool import Spool, adopt_orphans

TARGET = "localhost:50051"
MAX_BYTES = 10**9
#: What all programs begin with; the folder is their argument.
HEAD = """
import gc, os, signal, sys, threading, time
from pathlib import Path
from emitd.spool.spool import Spool
from emitd.spool.spool import adopt_orphans
from emitd.runtime.fork_guards import sqlite_gate
folder, target, max_bytes = Path(sys.argv[1]), "localhost:50051", 10**9

def show(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def records_of(spool):
    return [record.decode() for number, record in spool.first(10**6, 10**9)]

def empty(spool):
    spool.delete([number for number, record in spool.first(10**6, 10**9)])
    spool.close()
"""


def start(program: str, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HEAD + program, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def run(program: str, folder: Path, *, status: int = 0) -> list[str]:
    """Run a program to its end, and return what it printed."""
    process = start(program, folder)
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, errors
    assert "Error" not in errors
    return output.splitlines()


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def adopt(folder: Path) -> list[Spool]:
    """Adopt what there is; nothing may be reported."""
    reports: list[str] = []
    spools = adopt_orphans(folder, TARGET, MAX_BYTES, reports.append)
    assert reports == []
    return list(spools)


def empty(spool: Spool) -> list[str]:
    """Take all out, and close it."""
    spooled = spool.first(10**6, 10**9)
    spool.delete(number for number, _ in spooled)
    spool.close()
    return [record.decode() for _, record in spooled]


BUSY = """
spool = Spool.create(folder, target, max_bytes)
added = gone = 0
while True:
    size = added % 7 + 1
    spool.append([b"%d %s" % (n, b"x" * (n * 617 % 9000)) for n in range(added, added + size)])
    added += size
    show("added", added)
    if added % 3 == 0:
        numbers = [number for number, record in spool.first(3, 10**9)]
        spool.delete(numbers)
        gone += len(numbers)
        show("gone", gone)
"""


@pytest.mark.parametrize("seed", range(12))
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, seed: int) -> None:
    """All of it, once and in order, and of what was not only a whole batch; what was deleted is gone."""
    chance = random.Random(seed)
    with start(BUSY, tmp_path) as process:
        lines = [read_line(process) for _ in range(chance.randint(1, 150))]
        time.sleep(chance.random() / 200)
        process.kill()
        assert process.stdout
        assert process.stderr
        # Not `communicate`: it passes over what `readline` has read ahead.
        output, errors = process.stdout.read(), process.stderr.read()
    # A line that the kill cut short acknowledges nothing.
    lines += [line.strip() for line in output.splitlines(keepends=True) if line.endswith("\n")]
    assert errors == ""
    acknowledged = {"added": 0, "gone": 0} | {word: int(number) for word, number in map(str.split, lines)}
    added, gone = acknowledged["added"], acknowledged["gone"]
    (orphan,) = adopt(tmp_path)
    found = [int(record.split()[0]) for record in empty(orphan)]
    assert found == list(range(found[0], found[-1] + 1))
    assert found[0] in (gone, gone + 3)
    assert found[-1] + 1 in (added, added + added % 7 + 1)
    assert list(tmp_path.iterdir()) == []


KILLED_AT_EACH_LINE = """
def live(acknowledge):
    spool = Spool.create(folder, target, max_bytes)
    acknowledge()
    spool.append([b"a", b"b"])
    acknowledge()
    spool.append([b"c" * 9000])
    acknowledge()
    spool.delete([1])
    acknowledge()
    spool.reject(2, "bad")
    acknowledge()
    spool.delete([3])
    acknowledge()
    spool.append([b"d"])
    acknowledge()
    spool.close()

STATES = ["", "", "a b", "a b c", "b c", "c", "", "d", "d"]

def die_at(moment):
    def trace(frame, event, argument):
        nonlocal moment
        if "/emitd/spool" not in frame.f_code.co_filename:
            return None
        moment -= event == "line"
        if moment == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

moment, status = 0, 1
while status:
    moment += 3
    reader, writer = os.pipe()
    if not os.fork():
        die_at(moment)
        live(lambda: os.write(writer, b"."))
        os._exit(0)
    os.close(writer)
    status = os.wait()[1]
    done = len(os.read(reader, 100))
    os.close(reader)
    reports = []
    spools = adopt_orphans(folder, target, max_bytes, reports.append)
    found = " ".join(record[:1] for spool in spools for record in records_of(spool))
    assert not reports, (moment, reports)
    assert len(spools) < 2, moment
    assert found in STATES[done:done + 2], (moment, done, found)
    for spool in spools:
        assert spool.rejected_count == (done > 4) or done == 4, (moment, done)
        empty(spool)
    for path in folder.iterdir():
        assert done > 3, (moment, done, path)
        assert path.suffix == ".db", (moment, path)
        path.unlink()
show(moment)
"""


def test_a_kill_at_any_line_leaves_a_spool_that_can_be_adopted(tmp_path: Path) -> None:
    """With what was acknowledged, or with what was just being done, and no other file stays for ever."""
    (moments,) = run(KILLED_AT_EACH_LINE, tmp_path)
    assert int(moments) > 150


CHILD_ENDS = """
spool = Spool.create(folder, target, max_bytes)
spool.append([b"before"])
if not os.fork():
    spool.leave_to_parent()
    spool.leave_to_parent()
    try:
        spool.append([b"child"])
    except Exception as error:
        show(type(error).__name__, error)
    spool.close()
    %s
    gc.collect()
    sys.exit()
assert os.wait()[1] == 0
spool.append([b"after"])
show(len(adopt_orphans(folder, target, max_bytes, show)), *records_of(spool))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("rest", ["pass", "del spool", "spool.ring = [spool]; del spool"])
def test_the_end_of_a_forked_child_does_not_harm_the_parents_spool(tmp_path: Path, rest: str) -> None:
    """The child's interpreter, ending as usual, neither closes the file nor unlocks it nor deletes its WAL."""
    lines = run(CHILD_ENDS % rest, tmp_path, status=-signal.SIGKILL)
    assert lines[0].startswith("SpoolError the spool ")
    assert lines[0].endswith(" belongs to the process that this one was forked from")
    assert lines[1:] == ["0 before after"]
    (orphan,) = adopt(tmp_path)
    assert empty(orphan) == ["before", "after"]


PARENT_DIES = """
spool = Spool.create(folder, target, max_bytes)
spool.append([b"parent"])
parent = os.getpid()
if os.fork():
    signal.pause()
spool.leave_to_parent()
show(os.getpid(), parent)
sys.stdin.readline()
orphans = adopt_orphans(folder, target, max_bytes, show)
show(*[record for orphan in orphans for record in records_of(orphan)])
for orphan in orphans:
    orphan.append([b"child"])
    %s
"""


def forked_and_orphaned(folder: Path, rest: str) -> "subprocess.Popen[str]":
    """Start a process that makes a spool and forks, and kill it; return what talks with its child."""
    process = start(PARENT_DIES % rest, folder)
    _, parent = read_line(process).split()
    os.kill(int(parent), signal.SIGKILL)
    process.wait(30)
    return process


def test_a_living_child_does_not_keep_its_dead_parents_spool(tmp_path: Path) -> None:
    """Another process adopts it while the child lives on, and the child finds it locked then."""
    process = forked_and_orphaned(tmp_path, "pass")
    (orphan,) = adopt(tmp_path)
    output, errors = process.communicate("go on\n", timeout=30)
    assert (output.strip(), errors) == ("", "")
    assert empty(orphan) == ["parent"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rest", ["empty(orphan)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_child_can_adopt_its_dead_parents_spool(tmp_path: Path, rest: str) -> None:
    """Though it still has the parent's connection in memory; and what it adds survives its own kill."""
    process = forked_and_orphaned(tmp_path, rest)
    output, errors = process.communicate("go on\n", timeout=30)
    assert (output.strip(), errors) == ("parent", "")
    assert [empty(orphan) for orphan in adopt(tmp_path)] == ([["parent", "child"]] if "kill" in rest else [])
    assert list(tmp_path.iterdir()) == []


FORKS_UNDER_LOAD = """
spool = Spool.create(folder, target, max_bytes)
stop = threading.Event()
written = {}

def load(name):
    written[name] = []
    while not stop.is_set():
        written[name].append(f"{name} {len(written[name])}")
        spool.append([written[name][-1].encode()])

def use_another():
    mine = Spool.create(folder, target, max_bytes)
    mine.append([b"child"])
    show(*records_of(mine))
    empty(mine)

threads = [threading.Thread(target=load, args=(name,)) for name in "ab"]
for thread in threads:
    thread.start()
for fork in range(30):
    assert sqlite_gate.acquire(timeout=10)
    child = os.fork()
    if not child:
        signal.alarm(20)
        spool.leave_to_parent()
        threading.Thread(target=use_another).start()
        sys.exit()
    sqlite_gate.release()
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
records = records_of(spool)
for name in "ab":
    assert [record for record in records if record[0] == name] == written[name]
empty(spool)
show(*os.listdir(folder))
"""


def test_children_forked_under_load_make_spools_of_their_own(tmp_path: Path) -> None:
    """They neither hang nor fail, and at the end of all no file is left."""
    assert run(FORKS_UNDER_LOAD, tmp_path) == ["child"] * 30 + [""]
