"""The interface of clients: that the client in process fits it, how objects become JSON, and the errors."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from emitd import AsyncJobReporter, AsyncLogClient, AsyncLogger, EmitError, JobNotApplied, Unavailable, errors
from emitd.jobs.reporter import RemoteJob
from emitd.records.encoding import as_text, encode_details
from emitd.transport.reply import request_error
from emitd_server.errors import StartError
from emitd_server.in_process.client import InProcessClient
from emitd_server.in_process.ingress import call_failure, record_error
from emitd_server.rpc.status import CODES, is_retryable

ROOT = Path(__file__).parents[3]


class Unspeakable:
    """Its repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def parameters(method: Callable[..., Any]) -> list[tuple[str, object, object]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


@pytest.mark.parametrize(
    ("interface", "client"),
    [(AsyncLogger, AsyncLogClient), (AsyncLogger, InProcessClient), (AsyncJobReporter, RemoteJob)],
)
def test_the_client_has_every_verb_with_the_same_parameters(interface: type, client: type) -> None:
    """Names, kinds and defaults of parameters are those of the interface; what a client has beyond it is optional."""
    verbs = [name for name, value in vars(interface).items() if callable(value) and name in dir(client)]
    public = [name for name in vars(interface) if not name.startswith("_")]
    assert [name for name in public if not hasattr(client, name)] == []
    for name in {*verbs, *public} - {"__init__", "__subclasshook__"}:
        if callable(getattr(interface, name)):
            expected, found = parameters(getattr(interface, name)), parameters(getattr(client, name))
            assert found[: len(expected)] == expected, name
            assert inspect.Parameter.empty not in [default for *_, default in found[len(expected) :]], name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expression", "is_good"),
    [
        ("InProcessClient.from_config(None, source='shop')", True),
        ("InProcessClient.from_config(None).bind(user='u1')", True),
        ("LoggingService().client('shop')", True),
        ("LoggingService()", False),
    ],
)
def test_the_type_checker_agrees(expression: str, is_good: bool, tmp_path: Path) -> None:
    """The client passes mypy as an `AsyncLogger`, its reporter as an `AsyncJobReporter`, and a service as neither."""
    (tmp_path / "program.py").write_text(
        "from emitd import AsyncJobReporter, AsyncLogger\n"
        "from emitd_server.in_process.client import InProcessClient\n"
        "from emitd_server.service import LoggingService\n"
        f"logger: AsyncLogger = {expression}\n"
        "job: AsyncJobReporter = logger.job('j1', 'sync')\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        ROOT / "pyproject.toml",
        "--cache-dir",
        tmp_path,
    ]
    done = subprocess.run(
        [*command, tmp_path / "program.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is is_good, done.stdout + done.stderr


def test_details_are_a_mapping() -> None:
    """A TypeError says what else they are."""
    with pytest.raises(TypeError, match="details must be a mapping, not list"):
        encode_details(["x"])  # type: ignore[arg-type]


def test_details_are_one_object() -> None:
    """None is the empty object; a mapping of any kind is an object."""
    assert encode_details(None) == "{}"
    assert (
        encode_details({"none": None, "huge": 2**80, "set": {1}})
        == f'{{"none":null,"huge":{2**80},"set":[1]}}'
    )
    assert encode_details({"at": UUID(int=1), "list": (1, 2)}) == (
        '{"at":"00000000-0000-0000-0000-000000000001","list":[1,2]}'
    )


def test_every_text_has_utf8() -> None:
    """Half a surrogate pair is escaped, and what is no text is shown by its repr."""
    assert as_text("a\udcffb") == "a\\udcffb"
    assert as_text(ValueError("x")) == "ValueError('x')"
    as_text(Unspeakable()).encode()


def test_every_error_of_the_service_has_its_client_error() -> None:
    """For a record and for a question; both sides agree whether a retry can help."""
    for ours in CODES:
        error = ours.__new__(ours)
        if "retry_after_seconds" in inspect.signature(ours.__init__).parameters:
            error.retry_after_seconds = 1.0
        for theirs in (record_error(error), request_error(call_failure(error))):
            assert theirs.retryable is is_retryable(error), ours


def test_an_error_without_a_status_is_still_an_emit_error() -> None:
    """Nothing but the client's tree comes out of a client."""
    error = record_error(StartError("odd"))
    assert isinstance(error, EmitError)
    assert str(error) == "odd"
    assert not error.retryable


def test_the_errors_are_one_tree() -> None:
    """Each exported error is an EmitError, drawn in the module's docstring; only Unavailable invites another try."""
    assert errors.__doc__ is not None
    tree = {name: error for name, error in vars(errors).items() if isinstance(error, type)}
    assert all(issubclass(error, EmitError) for error in tree.values())
    assert [name for name in tree if name not in errors.__doc__] == []
    assert [error for error in tree.values() if error.retryable] == [Unavailable]
    assert JobNotApplied("j1", "SUPERSEDED").stale_reason == "SUPERSEDED"
