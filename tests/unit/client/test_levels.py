"""`emitd.records.levels`: which of the five levels is meant."""

import logging
import subprocess
import sys
from typing import Any

import pytest

from emitd import v1
from emitd.records.levels import JOB_STATES, LEVELS, is_level, job_state_name, level_name, level_number

FIVE = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


@pytest.mark.parametrize(("name", "number"), FIVE.items())
def test_the_five_are_pythons_and_the_contracts(name: str, number: int) -> None:
    """Names and numbers are the same in `logging` and in `emitd.v1.Level`."""
    assert number == getattr(logging, name) == v1.Level.Value(f"LEVEL_{name}")
    assert level_number(name) == level_number(name.lower()) == level_number(number) == number
    assert is_level(name)
    assert is_level(number)


@pytest.mark.parametrize(
    ("level", "means"),
    [
        (-5, 10),
        (0, 10),
        (9, 10),
        (19, 10),
        (25, 20),
        (49, 40),
        (60, 50),
        (2**80, 50),
        (True, 10),
        ("WARN", 30),
        ("fatal", 50),
        ("NOTSET", 10),
        ("NOTICE", 20),
        ("Level 30", 20),
        ("", 20),
        (None, 20),
        (30.0, 20),
        ([], 20),
        (v1.LEVEL_ERROR, 40),
    ],
)
def test_any_other_level_is_the_next_lower_one(level: Any, means: int) -> None:
    """Below 10 it is DEBUG, above 50 CRITICAL, and what nobody knows INFO; nothing raises."""
    assert level_number(level) == means
    assert is_level(level) is (level == 40 and level is not None)


def test_a_name_that_was_registered_means_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names given to `logging.addLevelName` are understood, as they were given or in capitals."""
    monkeypatch.setattr(logging, "_nameToLevel", dict(logging._nameToLevel))
    monkeypatch.setattr(logging, "_levelToName", dict(logging._levelToName))
    logging.addLevelName(5, "TRACE")
    logging.addLevelName(35, "Notice")
    assert [level_number(name) for name in ("TRACE", "trace", "Notice", "notice")] == [10, 10, 30, 20]
    assert not is_level("TRACE")


def test_logging_is_not_loaded_for_this() -> None:
    """Where nobody has imported `logging`, an unknown name is INFO, and it stays so."""
    program = (
        "import sys; from emitd.records.levels import level_number as n; "
        "print(n('TRACE'), n('WARN'), 'logging' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["20", "30", "False"]


def test_the_tables_are_those_of_the_contract() -> None:
    """Each name and number, and no other."""
    levels = {name.removeprefix("LEVEL_"): number for name, number in v1.Level.items() if number}
    states = {name.removeprefix("JOB_STATE_"): number for name, number in v1.JobState.items() if number}
    assert (levels, states) == (LEVELS, JOB_STATES)
    assert [level_name(number) for number in (60, 61)] == ["AUDIT", "61"]
    assert [job_state_name(number) for number in (4, 5)] == ["FAILED", "5"]
