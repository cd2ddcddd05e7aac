"""Values that flags take: names of levels and statuses, KEY=VALUE pairs, JSON objects and times."""

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, cast

from emitd.v1 import JobState, Level
from emitd_cli.command_line.parser import not_one_of
from emitd_cli.errors import Misuse

#: Levels that a payload fixes, and the flag that gives the payload.
_LEVELS_OF_PAYLOADS = {"AUDIT": "--audit EVENT_NAME", "JOB_STATUS": "--job JOB_ID"}
# The stubs call the values int.
STATUSES = cast(
    "Mapping[str, JobState]",
    {name.removeprefix("JOB_STATE_"): code for name, code in JobState.items() if code},
)
LEVELS = cast(
    "Mapping[str, Level]",
    {
        short: code
        for name, code in Level.items()
        if code and (short := name.removeprefix("LEVEL_")) not in _LEVELS_OF_PAYLOADS
    },
)
#: What other systems and loggers call them.
_OTHER_STATUS_NAMES = {
    **dict.fromkeys(("PENDING", "WAITING"), "QUEUED"),
    **dict.fromkeys(("STARTED", "ACTIVE"), "RUNNING"),
    **dict.fromkeys(("DONE", "FINISHED", "SUCCESS", "SUCCEEDED"), "COMPLETED"),
    **dict.fromkeys(("ERROR", "CRASHED"), "FAILED"),
}
_OTHER_LEVEL_NAMES = {
    "TRACE": "DEBUG",
    "NOTICE": "INFO",
    "WARN": "WARNING",
    "ERR": "ERROR",
    "FATAL": "CRITICAL",
}


def status_from_flag(name: str) -> JobState:
    """Return the status of this name, in any case. Raises Misuse, which suggests one."""
    status = STATUSES.get(name.upper())
    if status is None:
        raise Misuse(f"--status: {not_one_of(name, STATUSES, _OTHER_STATUS_NAMES)}", field="--status")
    return status


def status_name(status: JobState) -> str:
    """Return a status without its prefix: `RUNNING`."""
    return JobState.Name(status).removeprefix("JOB_STATE_")


def level_from_flag(name: str, *, emits: bool = True) -> Level:
    """Return the level of this name, in any case. Raises Misuse, which suggests one, or the flag that `emits` it."""
    if emits and (payload := _LEVELS_OF_PAYLOADS.get(name.upper())):
        raise Misuse(f"--level: {name.upper()} is not given by itself; use {payload}", field="--level")
    level = LEVELS.get(name.upper())
    if level is None:
        raise Misuse(f"--level: {not_one_of(name, LEVELS, _OTHER_LEVEL_NAMES)}", field="--level")
    return level


def pairs_from_flag(flag: str, pairs: Sequence[str]) -> dict[str, str]:
    """Return the flag's values by their keys. Raises Misuse for a value that is no pair, and for a key given twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Misuse(f"{flag}: '{pair}' is not KEY=VALUE", field=flag)
        if key in found:
            raise Misuse(f"{flag}: '{key}' is given twice", field=flag)
        found[key] = value
    return found


#: Of the text, shown on each side of an error.
SHOWN_CHARACTERS = 12


def check_details(text: str | None) -> str:
    """Return the text, or empty for None. Raises Misuse for anything but one JSON object."""
    if not text:
        return ""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _misuse(f"is not JSON: {_place(error)}{_quoting(text)}") from error
    except (ValueError, RecursionError):  # numbers of thousands of digits, thousands of brackets
        return text
    if not isinstance(value, dict):
        raise _misuse(f'is {_kind(value)}; it must be one JSON object, such as \'{{"key": "value"}}\'')
    return text


def _place(error: json.JSONDecodeError) -> str:
    text, at = error.doc, error.pos
    before = "…" * (at > SHOWN_CHARACTERS) + text[max(0, at - SHOWN_CHARACTERS) : at]
    after = text[at : at + SHOWN_CHARACTERS] + "…" * (at + SHOWN_CHARACTERS < len(text))
    where = f"line {error.lineno}, character {error.colno}" if "\n" in text else f"character {error.colno}"
    reason = error.msg[0].lower() + error.msg[1:]
    return f"{reason} at {where}: {before}⟨here⟩{after}"


def _quoting(text: str) -> str:
    """Return a hint for a text whose quotation marks the shell has removed, or that has single ones."""
    if '"' in text:
        return ""
    return '; write it in single quotes, with double quotes inside: --details \'{"key": "value"}\''


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {list: "an array", str: "a string", bool: "true or false"}
    return names.get(type(value), "a number")


def _refuse_constant(name: str) -> NoReturn:
    raise _misuse(f"has {name}, which is not JSON")


def _misuse(problem: str) -> Misuse:
    return Misuse(f"--details: {problem}", field="--details")


_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The largest value of a fixed64.
MAX_UNIX_NANO = 2**64 - 1


def moment_from_flag(flag: str, text: str, now_unix_nano: int | None = None) -> int:
    """Return a moment in nanoseconds since 1970: ISO 8601 (UTC if it does not say), or a time ago. Raises Misuse."""
    now = time.time_ns() if now_unix_nano is None else now_unix_nano
    duration = _DURATION.fullmatch(text)
    if text and duration is not None:
        seconds = sum(
            int(count or 0) * unit for count, unit in zip(duration.groups(), _UNITS.values(), strict=True)
        )
        # What lies before 1970 is before all there is.
        return max(now - seconds * 1_000_000_000, 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misuse(
            f"{flag}: '{text}' is neither a time, such as 2026-11-23T08:00, nor a time ago, such as 15m or 2h30m",
            field=flag,
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    unix_nano = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 <= unix_nano <= MAX_UNIX_NANO:
        raise Misuse(f"{flag}: '{text}' lies before 1970 or after 2554", field=flag)
    return unix_nano


def period_from_flags(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a request that --since and --until give. Raises Misuse."""
    fields = {"since": "received_after_unix_nano", "until": "received_before_unix_nano"}
    given = {flag: text for flag in fields if (text := getattr(options, flag, None)) is not None}
    return {fields[flag]: moment_from_flag(f"--{flag}", text) for flag, text in given.items()}


def iso_time(unix_nano: int) -> str:
    """Return a moment in ISO 8601, to the second, in UTC; `-` for none."""
    if not unix_nano:
        return "-"
    return datetime.fromtimestamp(unix_nano // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_text(unix_nano: int) -> str:
    """Return a moment for people, to the second, in UTC; empty for none."""
    return iso_time(unix_nano).replace("T", " ").replace("Z", " UTC") if unix_nano else ""


def filter_from_flags(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a request that --type, --status, --label and --id give. Raises Misuse."""
    return {
        "job_type": options.type,
        "statuses": [status_from_flag(name) for name in options.status],
        "job_ids": getattr(options, "id", ()),
        "labels": pairs_from_flag("--label", options.label),
    }
