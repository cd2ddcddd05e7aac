"""The contract's guards, run on copies: stale stubs, bad names and breaking changes are found."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.processes.toolchains import ROOT, proto_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the protos and of the stubs."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("protos", "clients/python"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def run_tool(copy: Path, verb: str) -> tuple[int, str]:
    """Run the copy's own tool; return its exit code and all that it said."""
    command = [str(proto_python()), str(copy / "protos" / "tool.py"), verb]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def change(path: Path, old: str, new: str) -> None:
    """Replace a pattern that stands in the file exactly once."""
    text, count = re.subn(old, new, path.read_text())
    assert count == 1, f"{old} stands {count} times in {path.name}"
    path.write_text(text)


def test_the_stubs_are_what_the_protos_generate(copy: Path) -> None:
    """The committed stubs are up to date."""
    assert run_tool(copy, "check") == (0, "")


@pytest.mark.parametrize("name", ["record_pb2.py", "job_pb2.pyi", "log_service_pb2_grpc.py"])
def test_an_altered_stub_is_found_and_cured(name: str, copy: Path) -> None:
    """A stub that was edited by hand fails the check, which names it and the cure; generating anew is the cure."""
    stub = copy / "clients" / "python" / "emitd" / "v1" / name
    stub.write_text(stub.read_text() + "\n# edited by hand\n")
    code, said = run_tool(copy, "check")
    assert code == 1
    assert f"not up to date: emitd/v1/{name}\n" in said
    assert "cure: make proto" in said
    assert run_tool(copy, "generate") == (0, "")
    assert run_tool(copy, "check") == (0, "")


def test_a_missing_and_a_left_over_stub_are_found(copy: Path) -> None:
    """Stubs that nobody generated, or whose proto is gone, fail the check too."""
    stubs = copy / "clients" / "python" / "emitd" / "v1"
    (stubs / "job_pb2.pyi").unlink()
    (stubs / "gone_pb2.py").touch()
    code, said = run_tool(copy, "check")
    assert code == 1
    assert "emitd/v1/gone_pb2.py, emitd/v1/job_pb2.pyi" in said


def test_a_proto_changed_without_its_stubs_is_found(copy: Path) -> None:
    """A field that was added to a proto only fails the check."""
    change(copy / "protos/emitd/v1/job.proto", r"message GetJobRequest \{", r"\g<0>\n  bool extra = 2;")
    code, said = run_tool(copy, "check")
    assert code == 1
    assert {"emitd/v1/job_pb2.py", "emitd/v1/job_pb2.pyi"} == set(re.findall(r"emitd/\S+_pb2\w*\.pyi?", said))


def test_the_contract_is_lint_clean_and_breaks_nothing(copy: Path) -> None:
    """There is nothing for buf to say, neither of the names nor against the last released contract."""
    assert run_tool(copy, "lint") == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (r"string job_type = 2;\n  // The state", "string jobType = 2;\n  // The state", "lower_snake_case"),
        (r"LEVEL_DEBUG = 10", "DEBUG = 10", 'should be prefixed with "LEVEL_"'),
        (r"  // The W3C trace id.*\n", "", "should have a non-empty comment"),
    ],
    ids=["field", "enum value", "comment"],
)
def test_a_bad_name_or_a_missing_comment_is_found(old: str, new: str, complaint: str, copy: Path) -> None:
    """The linter complains of a field, an enum value, or a field that nobody documented."""
    change(copy / "protos/emitd/v1/record.proto", old, new)
    code, said = run_tool(copy, "lint")
    assert code != 0
    assert complaint in said


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (r"string user_id = 3;", "string user_id = 33;", 'field "3" with name "user_id"'),
        (r"string user_id = 3;", "bytes user_id = 3;", 'from "string" to "bytes"'),
        (r"string user_id = 3;", "string actor = 3;", 'from "user_id" to "actor"'),
        (r"JOB_STATE_FAILED = 4", "JOB_STATE_FAILED = 6", 'enum value "4"'),
    ],
    ids=["field number", "type", "name", "enum number"],
)
def test_a_breaking_change_is_found(old: str, new: str, complaint: str, copy: Path) -> None:
    """The comparison complains of a changed number, type or enum value, against the released contract."""
    change(copy / "protos/emitd/v1/record.proto", old, new)
    code, said = run_tool(copy, "lint")
    assert code != 0
    assert complaint in said


def test_an_addition_breaks_nothing(copy: Path) -> None:
    """A new field with a comment passes lint and is no breaking change."""
    addition = "\\g<0>\n  // Also tell what nobody asked for.\n  bool extra = 2;"
    change(copy / "protos/emitd/v1/job.proto", r"message GetJobRequest \{", addition)
    assert run_tool(copy, "lint") == (0, "")
