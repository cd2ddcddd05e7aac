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


@pytest.mark.parametrize("text", ["x" * 70_000, "long line\n" * 7_000, "\U0001f600" * 70_000])
def test_a_long_text_costs_no_frame_and_no_type(text: str) -> None:
    """The text loses its middle first: what stands before it and behind it stays."""
    found = exception_attributes(raised(ValueError(f"{text} the end")))
    stack, message = str(found["exception.stacktrace"]), str(found["exception.message"])
    assert found["exception.type"] == "ValueError"
    assert stack.startswith("Traceback (most recent call last):\n  File ")
    assert ", in raised\n    raise error\n" in stack
    assert f"\nValueError: {text[:500]}" in stack
    assert stack.endswith(" the end\n")
    assert message.startswith(text[:1000])
    assert message.endswith(" the end")
    assert " characters are left out ..." in message
    assert len(message) == failure.MAX_MESSAGE_CHARACTERS == len(failure_message(ValueError(text)))
    assert len(encode_attributes(found).encode()) < 64 * 1024


def even(n: int) -> None:
    odd(n - 1)


def odd(n: int) -> None:
    even(n - 1)


def test_a_deep_stack_loses_its_middle() -> None:
    """A thousand frames keep the first, the last, and what was raised."""
    try:
        even(0)
    except RecursionError as error:
        stack = str(exception_attributes(error)["exception.stacktrace"])
    assert len(stack) == failure.MAX_STACK_CHARACTERS
    assert "in test_a_deep_stack_loses_its_middle" in stack
    assert "RecursionError: maximum recursion depth exceeded" in stack[-200:]
    assert " characters are left out ..." in stack


def test_chains_groups_and_notes_are_in_the_stack() -> None:
    """With every type, however long the text of each is."""
    first = raised(KeyError("y" * 70_000))
    group = ExceptionGroup("several", [raised(OSError("z" * 70_000)), raised(ValueError("short"))])
    group.add_note("note " + "n" * 70_000)
    group.__cause__ = first
    stack = str(exception_attributes(raised(group))["exception.stacktrace"])
    for words in (
        "KeyError: 'yyy",
        "direct cause",
        "ExceptionGroup: several",
        "OSError: zzz",
        "note nnn",
        "short",
    ):
        assert words in stack
    assert len(stack) <= failure.MAX_STACK_CHARACTERS


class OddNotes(Exception):
    """Cannot be formatted."""

    @property
    def __notes__(self) -> list[str]:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (OddNotes("x"), "OddNotes <it could not be formatted: RuntimeError>\n"),
        (Unspeakable(), "Unspeakable: <exception str() failed>\n"),
        (SyntaxError("bad", ("f.py", 1, 70_000, "q" * 70_000)), "SyntaxError: bad\n"),
    ],
)
def test_an_odd_exception_keeps_its_frames(error: Exception, end: str) -> None:
    """And its type: only its text is lost."""
    found = exception_attributes(raised(error))
    assert str(found["exception.type"]).endswith(type(error).__name__)
    assert ", in raised\n" in str(found["exception.stacktrace"])
    assert str(found["exception.stacktrace"]).endswith(end)


def test_a_stack_that_is_a_text_already_is_cut_line_by_line() -> None:
    """As `logging` and structlog make it."""
    text = "Traceback:\n  File 1\nValueError: " + "x" * 70_000
    found = failure.stack_text(text)
    assert found.startswith("Traceback:\n  File 1\nValueError: xxx")
    assert len(found) < failure.MAX_PIECE_CHARACTERS + 100


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
    assert len(failure_message(error)) == failure.MAX_MESSAGE_CHARACTERS


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
