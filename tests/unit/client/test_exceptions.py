"""`emitd.records.exceptions`: what records say of an exception."""

import asyncio
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emitd.errors import LeaseLost
from emitd.records import exceptions as failure
from emitd.records.encoding import encode_attributes
from emitd.records.exceptions import (
    Incomplete,
    exception_attributes,
    failure_message,
    failure_of,
    failure_reason,
)


class Unspeakable(Exception):
    """Its text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_no_exception_has_no_attributes() -> None:
    """What `sys.exception()` returns outside of an except block is nothing to say."""
    assert exception_attributes(None) == {}


def test_an_exception_has_type_message_and_stack() -> None:
    """By OpenTelemetry's names; a builtin type stands without its module."""
    found = exception_attributes(raised(LookupError("no such order")))
    assert found["exception.type"] == "LookupError"
    assert found["exception.message"] == "no such order"
    stack = str(found["exception.stacktrace"])
    assert stack.startswith("Traceback (most recent call last):")
    assert stack.endswith("LookupError: no such order\n")
    assert exception_attributes(LeaseLost("j", "SUPERSEDED"))["exception.type"] == "emitd.errors.LeaseLost"


def test_a_long_stack_keeps_its_end() -> None:
    """It says where the exception was raised."""
    stack = str(exception_attributes(raised(ValueError("x" * 100_000 + " the end")))["exception.stacktrace"])
    assert len(stack) == failure.MAX_STACK_CHARACTERS
    assert stack.endswith(" the end\n")


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (ValueError("row 7"), "ValueError", "row 7"),
        (asyncio.CancelledError(), "CANCELLED", ""),
        (Incomplete("left after 3 of 10 items"), "INCOMPLETE", "left after 3 of 10 items"),
        (KeyboardInterrupt(), "KeyboardInterrupt", ""),
        (ValueError("half \ud800"), "ValueError", "half \\ud800"),
        (Unspeakable(), "Unspeakable", "<its text could not be made: RuntimeError>"),
    ],
)
def test_a_failed_job_says_why(error: BaseException, reason: str, message: str) -> None:
    """The reason is the exception's type, but for what has a word of its own; the message is its text."""
    assert (failure_reason(error), failure_message(error)) == (reason, message)


def test_both_are_cut() -> None:
    """A report does not fail for the length of its own text."""
    error = type("Ä" * 200, (Exception,), {})("x" * 1_000_000)
    assert len(failure_reason(error)) == failure.MAX_REASON_CHARACTERS
    assert len(failure_message(error)) == failure.MAX_FAILURE_CHARACTERS


def test_an_exception_without_a_text_still_has_attributes() -> None:
    """Somebody's `__str__` that raises costs the text, not the line."""
    found = exception_attributes(raised(Unspeakable()))
    assert "Unspeakable" in encode_attributes(found)
    assert "RuntimeError" in str(found["exception.message"])


class Undecided(SystemExit):
    """Its code raises."""

    @property
    def code(self) -> int:  # type: ignore[override]
        raise RuntimeError("no")


@pytest.mark.parametrize("code", [None, 0, False, 256, -256, 2**63 - 256, signal.Handlers.SIG_DFL])
def test_exit_code_0_is_no_failure(code: int | None) -> None:
    """As the process that ends by it has it: the last 8 bits."""
    assert failure_of(SystemExit(code)) is None
    assert failure_of(None) is None


@pytest.mark.parametrize(
    "error",
    [
        *map(SystemExit, (1, True, -1, 143, 2**64, -(2**64), 10**30, "", "no space", 0.0, (), Ellipsis)),
        SystemExit(0, 0),
        Undecided(),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        GeneratorExit(),
        StopIteration(),
        ValueError(0),
        BaseExceptionGroup("two", [SystemExit(0), KeyboardInterrupt()]),
        BaseExceptionGroup("one", [SystemExit(0)]),
    ],
)
def test_every_other_exception_is_a_failure(error: BaseException) -> None:
    """Also a group with an exit in it: the process that ends by it has exit code 1."""
    assert failure_of(error) is error


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.none()
    | st.integers(-(2**70), 2**70)
    | st.integers(-4, 4).map((256).__mul__)
    | st.text("0 ")
    | st.floats()
)
def test_exit_codes_are_what_a_process_makes_of_them(code: object) -> None:
    """A real one."""
    command = [sys.executable, "-S", "-c", f"nan = inf = 0.5; raise SystemExit({code!r})"]
    ended = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    assert (failure_of(SystemExit(code)) is None) == (ended.returncode == 0)
