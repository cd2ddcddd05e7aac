"""`SpoolManager`: a client's spools, and the thread that sends from them."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from emitd import EmitError, RecordRejected, Unavailable, v1
from emitd.runtime.threads import TimeLeft
from emitd.settings import ClientSettings
from emitd.spool import manager as module
from emitd.spool import spool as spool_adoption
from emitd.spool.manager import SpoolManager
from emitd.spool.spool import Spool, SpoolError
from emitd.transport.reply import Reply

TARGET = "logs:1"
Answer: TypeAlias = Callable[[Sequence[bytes]], Reply]


def accept(records: Sequence[bytes]) -> Reply:
    return Reply()


def again(records: Sequence[bytes], seconds: float = 0.0) -> Reply:
    return Reply(again=dict.fromkeys(range(len(records)), ("down", seconds)))


class Service:
    """Notes each batch and answers with the next of `answers`, the last of which stays."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.answers: list[Answer] = [accept]
        self.drops: list[tuple[str, int, str]] = []

    def send(self, records: Sequence[bytes]) -> Reply:
        self.batches.append(list(records))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(records)

    def drop(self, cause: str, level: int, why: str) -> None:
        self.drops.append((cause, level, why))

    @property
    def records(self) -> list[bytes]:
        return [record for batch in self.batches for record in batch]


class Managers:
    """Makes managers in one folder, as several processes would, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[SpoolManager] = []

    def make(self, service: Service, **settings: Any) -> SpoolManager:
        given: dict[str, Any] = {"address": TARGET, "source": "shop", "spool": str(self.folder)}
        given |= {"backoff_initial": 0.001, "backoff_max": 0.001}
        made = ClientSettings(**(given | settings))
        self._made.append(SpoolManager(made, service.send, service.drop, TimeLeft(10.0)))
        return self._made[-1]

    def end(self, manager: SpoolManager) -> None:
        manager.close_replay()
        assert manager.join(time.monotonic() + 10)
        manager.close()

    def end_all(self) -> None:
        for manager in self._made:
            self.end(manager)

    def files(self) -> list[str]:
        return sorted(path.suffix for path in self.folder.glob("*"))


@pytest.fixture
def managers(tmp_path: Path) -> Iterator[Managers]:
    managers = Managers(tmp_path / "spool")
    yield managers
    managers.end_all()


@pytest.fixture
def service() -> Service:
    return Service()


def test_a_folder_may_begin_with_a_home_folder(service: Service, tmp_path: Path, monkeypatch: Any) -> None:
    """A variable of a service's unit keeps its `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    manager = SpoolManager(ClientSettings(spool="~/spool"), service.send, service.drop, TimeLeft(10.0))
    assert manager._folder() == tmp_path / "spool"


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def leave_behind(managers: Managers, *records: bytes) -> None:
    """Have a process that came to its end with records that nobody could be sent."""
    service = Service()
    service.answers = [again]
    manager = managers.make(service)
    manager.append(records)
    managers.end(manager)


class TestAppending:
    def test_what_was_appended_is_on_the_disk(self, managers: Managers, service: Service) -> None:
        """And is told, until it is sent."""
        service.answers = [again]
        manager = managers.make(service)
        manager.append([b"one", b"three"])
        stats = manager.stats()
        assert (stats["spool_records"], stats["spool_bytes"], stats["replayed"]) == (2, 8, 0)
        assert ".db" in managers.files()

    def test_it_is_sent_in_the_background(self, managers: Managers, service: Service) -> None:
        """As soon as that can be, and then is on the disk no more."""
        service.answers = [again, accept]
        manager = managers.make(service)
        manager.append([b"a", b"b"])
        until(lambda: manager.stats()["replayed"] == 2)
        assert service.batches == [[b"a", b"b"]] * 2
        assert manager.stats() == {"replayed": 2, "spool_records": 0, "spool_bytes": 0, "spool_rejected": 0}

    def test_later_records_wake_the_same_thread(self, managers: Managers, service: Service) -> None:
        """Which waits for them, and is one."""
        manager = managers.make(service)
        for record in (b"a", b"b", b"c"):
            manager.append([record])
            until(lambda: not manager.stats()["spool_records"])
        assert service.batches == [[b"a"], [b"b"], [b"c"]]
        assert len(manager._replay.threads) == 1

    def test_without_a_spool_there_is_none(self, managers: Managers, service: Service) -> None:
        """It is unavailable, and nothing is made."""
        manager = managers.make(service, spool="off")
        with pytest.raises(Unavailable, match="there is no spool"):
            manager.append([b"a"])
        manager.start()
        assert not managers.folder.exists()
        assert not len(manager._replay.threads)

    def test_a_folder_that_cannot_be_had_is_said_once(
        self, managers: Managers, service: Service, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And the client runs without."""
        managers.folder.write_text("a file")
        manager = managers.make(service)
        for _ in range(3):
            with pytest.raises(Unavailable, match="there is no spool"):
                manager.append([b"a"])
        told = capsys.readouterr().err
        assert told.startswith(f"emitd: shop: there is no spool: cannot make a spool in {managers.folder}")
        assert told.count("\n") == 1

    def test_a_full_spool_takes_no_more(self, managers: Managers, service: Service) -> None:
        """It stays the one that there is, and keeps what it has."""
        service.answers = [again]
        manager = managers.make(service, max_spool_bytes=10)
        manager.append([b"12345678"])
        with pytest.raises(Unavailable, match="may keep 10 bytes"):
            manager.append([b"123"])
        manager.append([b"12"])
        assert manager.stats()["spool_records"] == 2
        assert managers.files().count(".db") == 1

    def test_a_spool_that_was_cleaned_away_is_replaced(self, managers: Managers, service: Service) -> None:
        """What was in it is still open, and is sent all the same."""
        service.answers = [again]
        manager = managers.make(service)
        manager.append([b"a"])
        for path in managers.folder.glob("*"):
            path.unlink()
        manager.append([b"b"])
        assert manager.stats()["spool_records"] == 2
        service.answers = [accept]
        until(lambda: manager.stats()["replayed"] == 2)

    def test_records_of_a_spool_that_was_cleaned_away_go_into_another(
        self, managers: Managers, service: Service, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """So that the next process finds them, if this one cannot send them."""
        service.answers = [again]
        manager = managers.make(service)
        manager.append([b"1", b"2"])
        for path in managers.folder.iterdir():
            path.unlink()
        manager.append([b"3"])
        managers.end(manager)
        assert "its 2 records are now in" in capfd.readouterr().err
        service.answers, service.batches = [accept], []
        managers.make(service).start()
        until(lambda: len(service.records) == 3)
        assert sorted(service.records) == [b"1", b"2", b"3"]

    @pytest.mark.parametrize(
        "error", [MemoryError(), OSError(24, "Too many open files"), RuntimeError("odd")]
    )
    def test_whatever_fails_is_unavailable(
        self, managers: Managers, service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        """The caller of `audit` gets an error of the client's; the next record is kept."""

        def fail(*_: object) -> None:
            raise error

        manager = managers.make(service)
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "create", fail)
            with pytest.raises(
                Unavailable, match=type(error).__name__ if not str(error) else str(error.args[-1])
            ):
                manager.append([b"a"])
        manager.append([b"b"])
        until(lambda: service.records == [b"b"])

    def test_the_folder_is_the_user_s_by_default(
        self, managers: Managers, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """By the XDG base directory specification; where there is none, that is said."""
        monkeypatch.delenv("EMITD_SPOOL", raising=False)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        managers.make(service, spool="").append([b"a"])
        assert list((tmp_path / "state" / "emitd" / "spool").glob("logs-1-*.db"))

    def test_without_a_home_there_is_no_spool(
        self,
        managers: Managers,
        service: Service,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """It is said once."""
        for name in ("EMITD_SPOOL", "XDG_STATE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", "nowhere")
        manager = managers.make(service, spool="")
        for _ in range(2):
            with pytest.raises(Unavailable, match="there is no spool"):
                manager.append([b"a"])
        assert capsys.readouterr().err.count("there is no home folder") == 1


class TestReplay:
    def test_records_go_in_order_and_in_batches(self, managers: Managers, service: Service) -> None:
        """Of no more records than a batch has."""
        leave_behind(managers, *[bytes([number]) for number in range(10)])
        managers.make(service, batch_records=4).start()
        until(lambda: len(service.records) == 10)
        assert [len(batch) for batch in service.batches] == [4, 4, 2]
        assert service.records == [bytes([number]) for number in range(10)]

    def test_a_batch_has_no_more_bytes_than_it_may(self, managers: Managers, service: Service) -> None:
        """One record at least."""
        leave_behind(managers, b"123", b"456", b"78", b"123456789")
        managers.make(service, batch_bytes=6).start()
        until(lambda: len(service.records) == 4)
        assert service.batches == [[b"123", b"456"], [b"78"], [b"123456789"]]

    def test_nothing_overtakes_what_was_not_taken(self, managers: Managers, service: Service) -> None:
        """It is tried again, and what was taken beside it is not."""
        service.answers = [
            again,
            lambda records: Reply(again={1: ("busy", 0.0)}),
            again,
            accept,
        ]
        leave_behind(managers, b"a", b"b", b"c", b"d")
        managers.make(service, batch_records=3).start()
        until(lambda: len(service.batches) == 4)
        assert service.batches == [[b"a", b"b", b"c"], [b"a", b"b", b"c"], [b"b", b"d"], [b"b", b"d"]]

    def test_pauses_grow_while_nothing_is_taken(
        self, managers: Managers, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the first again after a success; the service can ask for longer ones."""
        asked: list[tuple[int, float]] = []

        def pause(_: object, attempts: int, at_least: float = 0.0) -> float:
            asked.append((attempts, at_least))
            return 0.0

        monkeypatch.setattr(module.Backoff, "pause", pause)
        service.answers = [again, lambda records: again(records, 7.0), accept, again, accept]
        leave_behind(managers, b"a", b"b")
        asked.clear()
        manager = managers.make(service, batch_records=1)
        manager.start()
        until(lambda: manager.stats()["replayed"] == 2)
        assert asked == [(1, 0.0), (2, 7.0), (1, 0.0)]

    def test_it_is_asked_no_less_often_than_it_may(self, managers: Managers, service: Service) -> None:
        """The pauses go beyond those of other records, and not further than a few seconds."""
        manager = managers.make(service, backoff_max=2.0)
        assert manager._backoff.maximum == 5.0
        assert managers.make(service, backoff_max=60.0)._backoff.maximum == 60.0

    def test_an_absurd_pause_does_not_end_it(self, managers: Managers, service: Service) -> None:
        """It ends with the client, as any other."""
        service.answers = [lambda records: again(records, 1e12)]
        leave_behind(managers, b"a")
        manager = managers.make(service)
        manager.start()
        until(lambda: service.batches)
        assert not manager.join(time.monotonic() + 0.05)
        assert len(service.batches) == 1

    def test_what_is_refused_for_good_is_put_aside(self, managers: Managers, service: Service) -> None:
        """It holds up no other, and is told by its level, with the reason."""
        records = [
            v1.LogRecord(audit=v1.AuditEvent(event_name="x")),
            v1.LogRecord(message="m", level=v1.LEVEL_ERROR),
            v1.LogRecord(job=v1.JobStatus(job_id="j")),
            v1.LogRecord(message="good", level=v1.LEVEL_INFO),
        ]
        refused: dict[int, EmitError] = {index: RecordRejected(f"bad {index}") for index in range(3)}
        service.answers = [lambda records: Reply(rejected=refused), accept]
        leave_behind(managers, *[record.SerializeToString() for record in records])
        manager = managers.make(service)
        manager.start()
        until(lambda: manager.stats()["replayed"] == 1)
        assert service.drops == [
            ("refused", v1.LEVEL_AUDIT, "bad 0"),
            ("refused", v1.LEVEL_ERROR, "bad 1"),
            ("refused", v1.LEVEL_JOB_STATUS, "bad 2"),
        ]
        assert len(service.batches) == 1

    def test_what_nobody_can_read_is_put_aside_too(self, managers: Managers, service: Service) -> None:
        """Whatever is in a file: the thread goes on."""
        service.answers = [lambda records: Reply(divide=RecordRejected("no record")), accept]
        manager = managers.make(service)
        manager.append([b"\xff\xff"])
        until(lambda: service.drops)
        manager.append([b""])
        until(lambda: manager.stats()["replayed"] == 1)
        assert service.drops == [("refused", v1.LEVEL_UNSPECIFIED, "no record")]
        assert manager.stats()["spool_rejected"] == 1

    def test_a_call_that_is_refused_as_a_whole_is_halved(self, managers: Managers, service: Service) -> None:
        """Until the one that is to blame stands alone."""
        bad = v1.LogRecord(message="bad", level=v1.LEVEL_ERROR).SerializeToString()

        def too_large(records: Sequence[bytes]) -> Reply:
            return Reply(divide=RecordRejected("too large")) if bad in records else Reply()

        service.answers = [too_large]
        leave_behind(managers, b"", bad, b"", b"")
        manager = managers.make(service)
        manager.start()
        until(lambda: manager.stats()["replayed"] == 3)
        assert service.drops == [("refused", v1.LEVEL_ERROR, "too large")]
        assert [len(batch) for batch in service.batches] == [4, 2, 1, 3, 1, 2]

    def test_a_service_that_refuses_all_calls_costs_no_record(
        self, managers: Managers, service: Service, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Such as one without this method: they wait until it, or the client, is configured as it should be."""
        refused: dict[int, EmitError] = dict.fromkeys(range(2), RecordRejected("UNIMPLEMENTED: what?"))
        no: Answer = lambda records: Reply(rejected=refused, is_call_refused=True)  # noqa: E731
        service.answers = [no, no, accept]
        leave_behind(managers, b"a", b"b")
        capsys.readouterr()
        manager = managers.make(service)
        manager.start()
        until(lambda: manager.stats()["replayed"] == 2)
        assert (service.drops, manager.stats()["spool_rejected"]) == ([], 0)
        assert capsys.readouterr().err == "emitd: shop: the spool waits: UNIMPLEMENTED: what?\n"

    def test_a_file_that_cannot_be_read_now_is_tried_again(
        self,
        managers: Managers,
        service: Service,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """After a pause, and it is said once."""
        first = Spool.first
        failures = [SpoolError("disk")] * 3

        def read(spool: Spool, max_records: int, max_bytes: int, after: int) -> Any:
            if failures:
                raise failures.pop()
            return first(spool, max_records, max_bytes, after)

        leave_behind(managers, b"a")
        monkeypatch.setattr(Spool, "first", read)
        managers.make(service).start()
        until(lambda: service.records == [b"a"])
        assert capsys.readouterr().err == "emitd: shop: disk\n"


class TestOrphans:
    def test_what_another_process_left_is_sent(self, managers: Managers, service: Service) -> None:
        """All of it, and then its files are gone."""
        leave_behind(managers, b"a")
        leave_behind(managers, b"b", b"c")
        managers.make(service).start()
        until(lambda: len(service.records) == 3)
        assert sorted(service.records) == [b"a", b"b", b"c"]
        until(lambda: managers.files() == [])

    def test_what_another_process_uses_is_left_alone(self, managers: Managers, service: Service) -> None:
        """Its records are its own."""
        down = Service()
        down.answers = [again]
        managers.make(down).append([b"theirs"])
        manager = managers.make(service)
        manager.append([b"ours"])
        until(lambda: manager.stats()["replayed"] == 1)
        assert service.records == [b"ours"]

    def test_what_is_left_for_another_server_is_left_alone(
        self, managers: Managers, service: Service
    ) -> None:
        """Records belong to the address that they were meant for."""
        leave_behind(managers, b"theirs")
        manager = managers.make(service, address="other:1")
        manager.append([b"ours"])
        until(lambda: manager.stats()["replayed"] == 1)
        assert service.records == [b"ours"]

    def test_they_are_looked_for_now_and_then(
        self, managers: Managers, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process may die later than this one begins."""
        monkeypatch.setattr(module, "ADOPT_INTERVAL_SECONDS", 0.01)
        managers.folder.mkdir()
        managers.make(service).start()
        time.sleep(0.03)
        leave_behind(managers, b"a")
        until(lambda: service.records == [b"a"])

    def test_they_are_not_looked_for_all_the_time(
        self, managers: Managers, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With nothing to do the thread sleeps, also after it was woken."""
        looks: list[int] = []
        adopt = SpoolManager._adopt
        monkeypatch.setattr(SpoolManager, "_adopt", lambda manager: (looks.append(1), adopt(manager)))
        manager = managers.make(service)
        manager.append([b"a"])
        until(lambda: manager.stats()["replayed"] == 1)
        time.sleep(0.05)
        assert len(looks) <= 2

    @pytest.mark.parametrize("spool", ["off", None])
    def test_without_a_folder_there_is_nothing_to_adopt(
        self, managers: Managers, service: Service, spool: str | None
    ) -> None:
        """Because there is to be none, or it is gone."""
        manager = managers.make(service, **({} if spool is None else {"spool": spool}))
        manager._adopt()
        assert manager.stats()["spool_records"] == 0

    def test_without_a_folder_nothing_is_started(self, managers: Managers, service: Service) -> None:
        """Nobody has spooled anything yet."""
        manager = managers.make(service)
        manager.start()
        assert not len(manager._replay.threads)
        assert not managers.folder.exists()

    def test_a_folder_that_cannot_be_read_is_said_once(
        self,
        managers: Managers,
        service: Service,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """And looked into again."""

        def refused(folder: Path, target: str) -> Any:
            raise PermissionError("no")

        leave_behind(managers, b"a")
        with monkeypatch.context() as patch:
            patch.setattr(spool_adoption, "spool_paths", refused)
            manager = managers.make(service)
            for _ in range(3):
                manager._adopt()
        assert capsys.readouterr().err.count("cannot look for spools") == 1
        manager.start()
        until(lambda: service.records == [b"a"])


class TestEnd:
    def test_the_rest_stays_on_the_disk(self, managers: Managers, service: Service) -> None:
        """For whoever comes next; also what is appended after the end of the replay."""
        service.answers = [again]
        manager = managers.make(service)
        manager.append([b"a"])
        until(lambda: service.batches)
        manager.close_replay()
        assert manager.join(time.monotonic() + 10)
        calls = len(service.batches)
        manager.append([b"b"])
        assert not len(manager._replay.threads)
        manager.close()
        assert len(service.batches) == calls
        later = Service()
        managers.make(later).start()
        until(lambda: later.records == [b"a", b"b"])

    def test_even_later_records_find_another_file(self, managers: Managers, service: Service) -> None:
        """After the files were closed, at the very end of the program."""
        manager = managers.make(service)
        manager.close_replay()
        manager.append([b"a"])
        manager.close()
        manager.append([b"b"])
        manager.close()
        manager.close()
        later = Service()
        managers.make(later).start()
        until(lambda: sorted(later.records) == [b"a", b"b"])

    def test_it_waits_for_the_batch_under_way(self, managers: Managers, service: Service) -> None:
        """Until the deadline; the answer is still noted, so that nothing is sent twice."""
        entered, leave = threading.Event(), threading.Event()

        def slow(records: Sequence[bytes]) -> Reply:
            entered.set()
            leave.wait(10)
            return Reply()

        service.answers = [slow]
        manager = managers.make(service)
        manager.append([b"a"])
        assert entered.wait(10)
        manager.close_replay()
        assert not manager.join(time.monotonic() + 0.02)
        leave.set()
        assert manager.join(time.monotonic() + 10)
        assert manager.stats()["replayed"] == 1


class TestForks:
    def test_a_pause_keeps_every_thread_out_of_the_files(self, managers: Managers, service: Service) -> None:
        """Until it ends; where no spool was ever opened, there is nothing to pause."""
        manager = managers.make(service)
        manager.append([b"a"])
        until(lambda: service.records)
        manager.pause(5)
        appended = threading.Thread(target=manager.append, args=([b"b"],))
        appended.start()
        appended.join(0.05)
        assert appended.is_alive()
        manager.resume()
        appended.join(10)
        until(lambda: service.records == [b"a", b"b"])
        manager.pause(5)
        manager.resume()

    def test_a_forked_child_leaves_its_parent_s_files_alone(self, tmp_path: Path) -> None:
        """Its end harms them not, and a manager of its own has a file of its own."""
        program = FORKS.format(folder=str(tmp_path))
        process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert process.stderr == ""
        assert process.stdout.split() == ["child:1", "parent:2"]
        assert sorted(path.suffix for path in tmp_path.glob("*.db")) == [".db", ".db"]

    def test_a_parent_s_spool_is_adopted_while_its_child_lives_on(
        self, managers: Managers, service: Service
    ) -> None:
        """The child holds no lock of it."""
        program = OUTLIVED.format(folder=str(managers.folder))
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"ready\n"
            assert parent.wait(10) == 0
            managers.make(service, address="127.0.0.1:50051").start()
            until(lambda: service.records == [b"a"])


FORKS = """
import os
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply
from emitd.runtime.threads import TimeLeft
from emitd.spool.manager import SpoolManager

def make():
    settings = ClientSettings(source="shop", spool={folder!r})
    down = Reply(again={{0: ("down", 60.0)}})
    manager = SpoolManager(settings, lambda records: down, lambda *drop: None, TimeLeft(9.0))
    manager.close_replay()  # no thread, which a fork would have to wait for
    return manager

manager = make()
manager.append([b"a"])
manager.pause(5)
if not os.fork():
    manager.leave_to_parent()
    own = make()
    own.append([b"b"])
    print(f"child:{{own.stats()['spool_records']}}", flush=True)
    own.close()
    os._exit(0)
manager.resume()
os.wait()
manager.append([b"c"])
print(f"parent:{{manager.stats()['spool_records']}}", flush=True)
manager.close()
"""

OUTLIVED = """
import os, sys
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply
from emitd.runtime.threads import TimeLeft
from emitd.spool.manager import SpoolManager

manager = SpoolManager(ClientSettings(spool={folder!r}), lambda records: Reply(), lambda *drop: None, TimeLeft(9.0))
manager.close_replay()
manager.append([b"a"])
manager.pause(5)
if os.fork():
    os._exit(0)
manager.leave_to_parent()
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""
