"""The examples beside the Python client: the logins of an sshd, and sending, which both share."""

import io
import json
import subprocess
import sys
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import grpc
import pytest

from emitd.v1 import LogRecord
from support.client.fake_log_service import accept, fail, fake_log_service, record_error, refuse
from support.docs.examples import EXAMPLES, load_example, run_example

SSHD_LOG = """\
Dec 31 23:59:58 gate sshd[101]: Invalid user admin from 192.0.2.7
Dec 31 23:59:58 gate sshd[101]: pam_unix(sshd:auth): authentication failure; logname= uid=0 rhost=192.0.2.7
Dec 31 23:59:59 gate sshd[101]: Failed password for invalid user admin from 192.0.2.7 port 4001 ssh2
Dec 31 23:59:59 gate sshd[101]: Failed none for invalid user  from 192.0.2.7 port 4001 ssh2
Jan  1 00:00:01 gate sshd[102]: Failed password for root from 2001:db8::1 port 4002 ssh2
Jan  1 00:00:02 gate sshd[102]: message repeated 2 times: [ Failed password for root from 2001:db8::1 port 4002 ssh2]
Jan  1 00:00:03 gate sshd[102]: Connection closed by 2001:db8::1 [preauth]
Jan  1 00:00:04 gate cron[103]: Accepted password for root from 192.0.2.9 port 1 ssh2
Jan  1 00:00:05 gate sshd-session[104]: Accepted publickey for ann from 192.0.2.8 port 4003 ssh2: ED25519 SHA256:abc
Jan  1 00:00:06 gate sshd[105]: Failed password for x from 192.0.2.66 port 1 ssh2: y from 198.51.100.5 port 4004 ssh2
Jan  1 00:00:07 gate sshd[106]: Failed password for bob from UNKNOWN port 65535 ssh2
2026-01-01T00:00:08.250000+02:00 gate sshd[107]: Failed password for eve from 192.0.2.5 port 4005 ssh2
"""


def read_sshd(log: str = SSHD_LOG, zone: str = "UTC") -> list[LogRecord]:
    module = load_example("sshd_audit")
    lines = io.StringIO(log)
    return list(module.SshdLog(module.SyslogClock(2025, ZoneInfo(zone))).read(lines))


def details(record: LogRecord) -> Any:
    return json.loads(record.audit.details_json)


def at(record: LogRecord) -> datetime:
    return datetime.fromtimestamp(record.time_unix_nano / 1e9, UTC)


def test_what_an_sshd_log_tells() -> None:
    """Each ended attempt to log in is an event; what other programs and PAM say is none.

    An address that a client puts into its user name is not taken for its own.
    """
    assert [(e.event_name, e.user_id, e.source_ip) for e in (record.audit for record in read_sshd())] == [
        ("user.login.failure", "admin", "192.0.2.7"),
        ("user.login.failure", "unknown", "192.0.2.7"),
        ("user.login.failure", "root", "2001:db8::1"),
        ("user.login.failure", "root", "2001:db8::1"),
        ("user.login.failure", "root", "2001:db8::1"),
        ("user.login.success", "ann", "192.0.2.8"),
        ("user.login.failure", "x from 192.0.2.66 port 1 ssh2: y", "198.51.100.5"),
        ("user.login.failure", "bob", "unknown"),
        ("user.login.failure", "eve", "192.0.2.5"),
    ]


def test_the_details_of_a_login() -> None:
    """What the line says beyond the mandatory fields."""
    records = read_sshd()
    assert details(records[0]) == {
        "host": "gate",
        "pid": 101,
        "method": "password",
        "port": 4001,
        "invalid_user": True,
    }
    assert details(records[1])["method"] == "none"
    assert "invalid_user" not in details(records[2])
    assert [details(record).get("repetition") for record in records[2:5]] == [None, 1, 2]
    assert details(records[3])["repetitions"] == 2
    assert details(records[5])["key"] == "ED25519 SHA256:abc"
    assert details(records[7])["address"] == "UNKNOWN"
    assert records[5].message.startswith("Accepted publickey for ann")
    assert {record.source for record in records} == {"sshd"}


def test_the_year_of_a_login() -> None:
    """It begins as told, and turns with the log; a time that says its own zone is taken as it is."""
    times = [at(record) for record in read_sshd()]
    assert times[0] == datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert times[2] == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert times[-1] == datetime(2025, 12, 31, 22, 0, 8, 250_000, tzinfo=UTC)
    assert at(read_sshd(zone="Asia/Hong_Kong")[0]).hour == 15


@pytest.mark.parametrize(
    ("now", "stamp", "year"),
    [
        ("2026-11-23T12:00:00+00:00", "Nov 23 11:00:00", 2026),
        ("2026-11-23T12:00:00+00:00", "Nov 24 11:00:00", 2026),
        ("2026-11-23T12:00:00+00:00", "Nov 24 13:00:00", 2025),
        ("2026-12-31T23:00:00+00:00", "Jan  1 01:00:00", 2027),
        ("2026-12-31T23:00:00+00:00", "Dec 31 22:00:00", 2026),
        ("2029-01-05T00:00:00+00:00", "Feb 29 10:00:00", 2028),
    ],
)
def test_the_year_that_nobody_told(
    log: str, monkeypatch: pytest.MonkeyPatch, now: str, stamp: str, year: int
) -> None:
    """It is the last one in which the log does not begin more than a day ahead, as zones may differ."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromisoformat(now).astimezone(tz)

    monkeypatch.setattr(load_example("sshd_audit"), "datetime", Clock)
    Path(log).write_text(f"{stamp} gate sshd[1]: Failed password for a from ::1 port 1 ssh2\n")
    code, stdout, _ = run_example("sshd_audit", log, "--dry-run")
    assert code == 0
    assert datetime.fromtimestamp(int(json.loads(stdout)["timeUnixNano"]) / 1e9, UTC).year == year


def test_a_day_that_the_year_does_not_have() -> None:
    """The error says which flag is wrong."""
    with pytest.raises(ValueError, match=r"there is no 'Feb 29 .*' in 2025; say the log's --year"):
        read_sshd("Feb 29 00:00:00 gate sshd[1]: Failed password for a from ::1 port 1 ssh2")


def test_a_name_that_is_too_long_for_the_contract() -> None:
    """It is cut at a whole character, and stands in full in the details: an attacker cannot keep an event out."""
    name = "é" * 200
    (record,) = read_sshd(f"Jan  1 00:00:00 gate sshd[1]: Failed password for {name} from ::1 port 1 ssh2")
    assert record.audit.user_id == "é" * 128
    assert details(record)["user"] == name


def test_the_ids_of_logins() -> None:
    """They are the same in each run, also from another line on; equal lines have different ones."""
    line = "Jan  1 00:00:00 gate sshd[1]: Failed password for a from ::1 port 1 ssh2\n"
    ids = [record.record_id for record in read_sshd(SSHD_LOG + line + line)]
    assert len(set(ids)) == len(ids) == 11
    assert [record.record_id for record in read_sshd(SSHD_LOG + line + line)] == ids
    tail = "".join(SSHD_LOG.splitlines(keepends=True)[4:])
    assert [record.record_id for record in read_sshd(tail)] == ids[2:9]
    assert all(record.audit.event_id == record.record_id for record in read_sshd())
    assert read_sshd(line)[0].record_id != read_sshd(line.replace("gate", "door"))[0].record_id


@pytest.fixture
def log(tmp_path: Path) -> str:
    (tmp_path / "auth.log").write_bytes(SSHD_LOG.replace("\n", "\r\n").encode() + b"\xff\n")
    return str(tmp_path / "auth.log")


def test_a_dry_run_prints_what_it_would_send(log: str) -> None:
    """In the contract's JSON form, one record a line; what it found goes to standard error."""
    code, stdout, stderr = run_example("sshd_audit", log, "--year", "2025", "--dry-run")
    assert code == 0
    assert stderr == "13 lines read: 1 user.login.success, 8 user.login.failure\n"
    first = json.loads(stdout.splitlines()[0])
    assert first["audit"]["userId"] == "admin"
    assert len(stdout.splitlines()) == 9


def test_what_is_sent_is_counted(log: str) -> None:
    """In batches and in order; the end says what became of the records."""
    with fake_log_service(accept) as service:
        code, stdout, stderr = run_example(
            "sshd_audit", log, "--address", service.address, "--batch-size", "4"
        )
    assert (code, stderr) == (0, "")
    assert stdout.splitlines() == [
        "9 records sent: 9 committed, 0 queued, 0 duplicates, 0 refused",
        "13 lines read: 1 user.login.success, 8 user.login.failure",
    ]
    sent = [record.audit.user_id for request in service.requests for record in request.records]
    assert [len(request.records) for request in service.requests] == [4, 4, 1]
    assert sent == [record.audit.user_id for record in read_sshd()]


def test_what_is_not_taken_at_once_is_sent_again(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed call and a record that is refused for now; one that is refused for good is told: exit code 1."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    partly = refuse(record_error(0, "busy", 1.0), record_error(1, "records[1].audit: no"))
    with fake_log_service(fail(grpc.StatusCode.UNAVAILABLE, "full"), partly, accept) as service:
        code, stdout, stderr = run_example("sshd_audit", log, "--address", service.address)
    assert code == 1
    assert stdout.startswith("9 records sent: 8 committed, 0 queued, 0 duplicates, 1 refused\n")
    told, refused = stderr.splitlines()
    assert told == "UNAVAILABLE: trying again for 30 s"
    assert refused.startswith("refused: records[1].audit: no: 'Failed none for invalid user")
    assert [len(request.records) for request in service.requests] == [9, 9, 1]
    assert service.requests[2].records[0] == service.requests[0].records[0]


def test_a_dry_run_into_a_pipe_that_is_closed_early(tmp_path: Path) -> None:
    """`--dry-run | head -1` ends quietly, with exit code 0."""
    lines = "Dec 10 06:55:46 host sshd[1]: Failed password for root from 192.0.2.7 port 1 ssh2\n"
    (tmp_path / "auth.log").write_text(lines * 2000)  # more than a pipe holds
    program = f"{sys.executable} {EXAMPLES / 'sshd_audit.py'} {tmp_path / 'auth.log'} --dry-run"
    done = subprocess.run(
        ["bash", "-c", f"{program} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_giving_up(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4 and one line when the server takes no call; 1 when it goes on to refuse a record for now."""
    monkeypatch.setattr(load_example("shipping"), "RETRY_SECONDS", 0)
    with fake_log_service(fail(grpc.StatusCode.UNAVAILABLE, "full")) as service:
        code, stdout, stderr = run_example("sshd_audit", log, "--address", service.address)
        assert (code, stderr) == (4, f"{service.address}: UNAVAILABLE: full\n")
        assert stdout.startswith("0 records sent")
    with fake_log_service(refuse(record_error(0, "busy", 1.0))) as service:
        code, stdout, stderr = run_example("sshd_audit", log, "--address", service.address)
    assert (code, stdout[:15]) == (1, "9 records sent:")
    assert stderr.startswith("refused: not accepted within 0 s: ")


def test_misuse() -> None:
    """Exit code 2 and one line, or argparse's."""
    code, _, stderr = run_example("sshd_audit", "/nowhere/log")
    assert code == 2
    assert stderr.startswith("/nowhere/log: ")
    for flags in (["--year", "26"], ["--timezone", "Mars/Base"], ["--batch-size", "0"]):
        with pytest.raises(SystemExit, match="2"):
            run_example("sshd_audit", "-", *flags)


@pytest.mark.parametrize("name", ["sshd_audit", "hadoop_jobs"])
def test_examples_use_the_stubs_only(name: str) -> None:
    """Users have the client, not the server."""
    source = (EXAMPLES / f"{name}.py").read_text() + (EXAMPLES / "shipping.py").read_text()
    assert "emitd_" not in source
