"""`emitd audit key`: the keys it prints, and a new one."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from emitd_handlers.audit.write.identity import read_key
from emitd_handlers.tlog.note import Signer
from support.audit.sealed_log import LOG_ID, SealedLog
from support.processes.run_main import Done, run_main


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    log = SealedLog.make(tmp_path / "audit.json.log", 3)
    log.paths.key.write_bytes(log.key_pem)
    return log


def key(log: SealedLog, *flags: str) -> Done:
    return run_main("audit", "key", str(log.path), *flags)


def signing_vkey(path: Path, log_id: str = LOG_ID) -> str:
    return Signer(log_id, read_key(path.read_bytes())).verifier.vkey


def test_the_keys_are_printed_the_newest_last(log: SealedLog) -> None:
    """And nothing else, so that they can be kept in a file as they are."""
    log.rotate_key()
    assert key(log) == Done(0, "".join(f"{vkey}\n" for vkey in log.vkeys), "")


def test_as_json(log: SealedLog) -> None:
    """With the log that they are of."""
    assert json.loads(key(log, "--json").stdout) == {
        "log": str(log.path),
        "log_id": LOG_ID,
        "vkeys": log.vkeys,
    }


def test_no_keys_end_with_4_and_damaged_ones_with_1(log: SealedLog) -> None:
    """It says where they should be."""
    log.paths.vkey.write_text("nonsense\n")
    done = key(log)
    assert (done.returncode, done.stdout) == (1, "")
    log.paths.vkey.unlink()
    done = key(log)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"there is no key in '{log.paths.vkey}' yet" in done.stderr


def test_a_new_key_is_the_last_of_them(log: SealedLog) -> None:
    """It is the one in the key's file; what happened is told beside the list."""
    done = key(log, "--rotate")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [log.vkeys[0], signing_vkey(log.paths.key)]
    assert done.stderr == (
        f"emitd: the last of these keys is new, in '{log.paths.key}'; "
        "the service signs with it from its next start on\n"
    )


def test_the_configuration_says_which_key_and_which_id(tmp_path: Path) -> None:
    """The file that it names is replaced, and the key has the log's name."""
    log = SealedLog.make(tmp_path / "audit.json.log", 3)
    secret = tmp_path / "secret.pem"
    secret.write_bytes(log.key_pem)
    log.paths.log_id.unlink()
    config = tmp_path / "emitd.yml"
    config.write_text(
        f"handlers: {{audit: {{type: json_audit, path: audit.json.log, log_id: {LOG_ID}, key: secret.pem}}}}"
    )
    done = run_main("audit", "key", "--rotate", "--config", str(config), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["vkeys"] == [log.vkeys[0], signing_vkey(secret)]
    assert not log.paths.key.exists()


def test_without_its_id_the_log_has_the_name_of_its_keys(log: SealedLog) -> None:
    """A copy of a log whose id is configured elsewhere; without keys as well, nothing can be told."""
    log.paths.log_id.unlink()
    assert key(log, "--rotate").stdout.splitlines()[-1] == signing_vkey(log.paths.key)
    log.paths.vkey.unlink()
    done = key(log, "--rotate")
    assert done.returncode == 4
    assert "has no key yet: start the service first" in done.stderr


def test_a_key_that_was_not_where_it_is_written_is_told(log: SealedLog) -> None:
    """The configuration may name another file."""
    log.paths.key.unlink()
    done = key(log, "--rotate")
    assert done.returncode == 0
    assert f"there was no key '{log.paths.key}' before" in done.stderr


def test_a_log_in_use_ends_with_4(log: SealedLog) -> None:
    """Its service must be stopped first; nothing is changed."""
    before = log.paths.key.read_bytes(), log.paths.vkey.read_bytes()
    fd = os.open(log.path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    done = key(log, "--rotate")
    os.close(fd)
    assert (done.returncode, done.stdout) == (4, "")
    assert "is in use: stop the service first" in done.stderr
    assert (log.paths.key.read_bytes(), log.paths.vkey.read_bytes()) == before
