"""Which log a command is about, and by which keys it judges."""

import argparse
from pathlib import Path

import pytest

from emitd_cli.audit.log_files import AuditTarget, find_log, keys_from_flags
from emitd_cli.errors import CannotTell, CommandError, Misuse
from emitd_handlers.audit.format.files import read_key_file
from emitd_handlers.tlog.note import NoteInvalid
from support.audit.sealed_log import SealedLog
from support.processes.run_main import run_main

CONFIG = """
handlers:
  audit: {type: json_audit, path: trail/audit.json.log, log_id: emitd.test/log, key: key.pem}
"""


@pytest.fixture
def log(tmp_path: Path) -> SealedLog:
    return SealedLog.make(tmp_path / "trail" / "audit.json.log", 3)


def find(log: Path | None, config: Path | None = None) -> AuditTarget:
    return find_log(argparse.Namespace(log=log and str(log), config=config and str(config)))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_log_is_named_by_its_file_or_its_folder(log: SealedLog) -> None:
    """A folder does where it has one log with checkpoints."""
    assert find(log.path) == find(log.path.parent) == AuditTarget(log.path)
    assert find(log.path).paths == log.paths


def test_a_folder_with_several_logs_or_none_is_misuse(log: SealedLog, tmp_path: Path) -> None:
    """It says how many there are, and what to do."""
    SealedLog.make(log.path.with_name("other.log"), 1)
    with pytest.raises(Misuse, match=r"has 2 logs with checkpoints: name the log's file"):
        find(log.path.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Misuse, match="has 0 logs"):
        find(tmp_path / "empty")


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    """It cannot be told of."""
    with pytest.raises(CannotTell, match="there is no log"):
        find(tmp_path / "missing")


def test_the_configuration_names_the_log_its_id_and_its_key(log: SealedLog, tmp_path: Path) -> None:
    """Relative to the configuration's file."""
    target = find(None, write(tmp_path / "emitd.yml", CONFIG))
    assert target == AuditTarget(log.path, "emitd.test/log", tmp_path / "key.pem")


def test_the_configuration_of_this_folder_is_the_default(
    log: SealedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `emitd serve` takes it."""
    write(tmp_path / "logging_config.yml", CONFIG)
    monkeypatch.chdir(tmp_path)
    assert find(None).log_id == "emitd.test/log"


def test_a_configuration_that_names_no_log(tmp_path: Path) -> None:
    """It has no audit handler, has several, is wrong, or its log is not there yet."""
    file = tmp_path / "emitd.yml"
    with pytest.raises(CannotTell, match="names no audit log"):
        find(None, write(file, "handlers: {console: {type: console}}"))
    two = "handlers: {a: {type: json_audit, path: a.log}, b: {type: json_audit, path: b.log}}"
    with pytest.raises(Misuse, match="several audit logs, 'a', 'b': name the log's file"):
        find(None, write(file, two))
    with pytest.raises(CommandError, match="names no audit log: "):
        find(None, write(file, "handlers: ["))
    with pytest.raises(CannotTell, match=r"there is no log '.*trail/audit\.json\.log' yet"):
        find(None, write(file, CONFIG))


OWN_CODE = """
from pathlib import Path
Path(__file__).with_name("was-run").touch()
from emitd_handlers.audit.handler import JsonAuditHandler
class Mine(JsonAuditHandler):
    pass
"""
FOREIGN_CONFIG = """
handler_paths: [handlers]
handlers:
  mine: {type: mine.Mine, path: mine.log}
  dotted: {type: own_code.Mine, path: dotted.log}
  old: {type: json_audit, path: old.log, enabled: false}
  audit: {type: TYPE, path: "trail/${NAME}"}
"""


@pytest.mark.parametrize("audit_type", ["json_audit", "emitd_handlers.audit.handler.JsonAuditHandler"])
def test_no_code_next_to_the_log_is_run(
    log: SealedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit_type: str
) -> None:
    """The configuration of others is text: an auditor does not run what a suspect has put there."""
    (tmp_path / "handlers").mkdir()
    for file in ("handlers/mine.py", "own_code.py"):
        write(tmp_path / file, OWN_CODE)
    config = write(tmp_path / "logging_config.yml", FOREIGN_CONFIG.replace("TYPE", audit_type))
    monkeypatch.setenv("NAME", log.path.name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find(None) == find(None, config) == AuditTarget(log.path)
    for command in (
        ["verify"],
        ["key"],
        ["prove", "event-000001", "--output", "proof"],
        ["check", "proof"],
        ["export", "www"],
    ):
        assert run_main("audit", *command).returncode == 0, command
    assert not [*tmp_path.rglob("was-run")]


def test_a_log_of_a_type_of_ones_own_is_to_be_named(tmp_path: Path) -> None:
    """Only its code could say that it is an audit log."""
    config = write(tmp_path / "emitd.yml", "handlers: {mine: {type: mine.Mine, path: mine.log}}")
    with pytest.raises(CannotTell, match=r"no handler of yours is loaded: name the log's file"):
        find(None, config)


def test_keys_are_given_as_vkeys_or_files(log: SealedLog, tmp_path: Path) -> None:
    """In any mixture; a file has one a line."""
    log.rotate_key()
    file = write(tmp_path / "auditor.vkey", "\n".join(log.vkeys) + "\n")
    found = keys_from_flags([log.vkeys[1], str(file)])
    assert [verifier.vkey for verifier in found] == [log.vkeys[1], *log.vkeys]
    assert keys_from_flags([]) == []


@pytest.mark.parametrize("key", ["nonsense", "missing.vkey", "x" * 5000])
def test_what_is_no_key_is_misuse(key: str) -> None:
    """A file that is not there is taken for a vkey, which it is not."""
    with pytest.raises(Misuse, match=r"--key: .* is not the vkey of an Ed25519 key") as caught:
        keys_from_flags([key])
    assert caught.value.field == "--key"


def test_keys_that_cannot_be_read_are_misuse(tmp_path: Path) -> None:
    """A folder is no file of keys."""
    with pytest.raises(Misuse, match=r"--key: '.*' cannot be read: Is a directory"):
        keys_from_flags([str(tmp_path)])


def test_a_file_without_keys_is_misuse(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(Misuse, match=r"--key: '.*empty\.vkey' has no key"):
        keys_from_flags([str(write(tmp_path / "empty.vkey", "\n"))])


def test_the_keys_beside_a_log(log: SealedLog) -> None:
    """All of them, the newest last; none where there is no file; a damaged file is told."""
    log.rotate_key()
    assert [key.verifier.vkey for key in read_key_file(log.paths.vkey)] == log.vkeys
    log.paths.vkey.write_text("nonsense\n")
    with pytest.raises(NoteInvalid):
        read_key_file(log.paths.vkey)
    log.paths.vkey.unlink()
    assert read_key_file(log.paths.vkey) == []
