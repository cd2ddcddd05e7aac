"""The checks of the contract: style, compatibility with the released one, and stubs that are up to date.

Each runs on a copy, so that it can be seen to fail.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from support.toolchains import ROOT, require_proto_python

pytestmark = pytest.mark.slow


class Contract:
    """A copy of the protos and of the stubs."""

    def __init__(self, folder: Path) -> None:
        self._python = require_proto_python()
        self._protos = folder / "protos"
        shutil.copytree(ROOT / "protos", self._protos)
        shutil.copytree(ROOT / "clients" / "python", folder / "clients" / "python")

    def edit(self, file: str, old: str, new: str) -> None:
        path = self._protos / "emitd" / "v1" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new))

    def run(self, command: str) -> tuple[int, str]:
        """Run a command of tool.py; return its exit code and what it said."""
        done = subprocess.run(
            [self._python, self._protos / "tool.py", command], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    return Contract(tmp_path)


def test_the_contract_is_clean(contract: Contract) -> None:
    """The contract passes buf's rules and is compatible with the released one, and its stubs are up to date."""
    assert contract.run("lint") == (0, "")
    assert contract.run("check") == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (
            "  LEVEL_UNSPECIFIED = 0;",
            "  LEVEL_NONE = 0;",
            '"LEVEL_NONE" should be suffixed with "_UNSPECIFIED"',
        ),
        ("  string source = 5;", "  string Source = 5;", '"Source" should be lower_snake_case'),
        ("message AuditEvent {", "message Audit_event {", '"Audit_event" should be PascalCase'),
        (
            "  // A report on a job, for the table of jobs.\n",
            "",
            'Field "job" should have a non-empty comment',
        ),
    ],
)
def test_bad_style_is_found(contract: Contract, old: str, new: str, rule: str) -> None:
    """Wrong names and missing comments fail `buf lint`, by file and rule."""
    contract.edit("record.proto", old, new)
    if "AuditEvent" in old:
        contract.edit("record.proto", "    AuditEvent audit = 10;", "    Audit_event audit = 10;")
    code, said = contract.run("lint")
    assert code != 0
    assert "emitd/v1/record.proto:" in said
    assert rule in said


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("record.proto", "string source = 5;", "string source = 9;", 'Previously present field "5"'),
        ("record.proto", "string source = 5;", "bytes source = 5;", 'changed type from "string" to "bytes"'),
        (
            "record.proto",
            "string source = 5;",
            "string sender = 5;",
            'changed name from "source" to "sender"',
        ),
        ("record.proto", "  JOB_STATE_FAILED = 4;", "  JOB_STATE_BROKEN = 4;", "JOB_STATE_FAILED"),
        (
            "log_service.proto",
            "returns (stream WatchJobResponse)",
            "returns (WatchJobResponse)",
            "changed from server streaming",
        ),
    ],
)
def test_a_breaking_change_is_found(contract: Contract, file: str, old: str, new: str, problem: str) -> None:
    """What would break a program made for the released contract fails `buf breaking`."""
    contract.edit(file, old, new)
    code, said = contract.run("lint")
    assert code != 0
    assert problem in said


def test_an_addition_breaks_nothing_but_needs_new_stubs(contract: Contract) -> None:
    """A new field passes lint; `check` fails and prints the cure until the stubs are generated again."""
    contract.edit(
        "record.proto",
        "  string source = 5;",
        "  string source = 5;\n  // Where the sender runs.\n  string host = 16;",
    )
    assert contract.run("lint") == (0, "")
    code, said = contract.run("check")
    assert code == 1
    assert "record_pb2.py" in said
    assert "cure: make proto" in said
    assert contract.run("generate")[0] == 0
    assert contract.run("check") == (0, "")
