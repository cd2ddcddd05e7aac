"""Values that flags take: names of levels and statuses, KEY=VALUE pairs, JSON objects and times."""

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from emitd.records.levels import JOB_STATES, LEVELS, is_level
from emitd.v1 import JobState, Level
from emitd_cli.command_line.parser import not_one_of
from emitd_cli.errors import Misuse

# The contract's own types.
STATUSES = cast("Mapping[str, JobState]", JOB_STATES)
LOG_LEVELS = cast("Mapping[str, Level]", {name: LEVELS[name] for name in LEVELS if is_level(name)})


def status_from_flag(name: str) -> JobState:
    """Return the status of this name, in any case. Raises Misuse."""
    if (status := STATUSES.get(name.upper())) is None:
        raise Misuse(f"--status: {not_one_of(name, STATUSES)}", field="--status")
    return status


def level_from_flag(name: str) -> Level:
    """Return the level of this name, in any case. Raises Misuse."""
    if (level := LOG_LEVELS.get(name.upper())) is None:
        raise Misuse(f"--level: {not_one_of(name, LOG_LEVELS)}", field="--level")
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


def check_details(text: str | None) -> str:
    """Return the text, or empty for None. Raises Misuse for anything but one JSON object."""
    # Loaded here: most commands need no handlers.
    from emitd_handlers.text.json_object import check_json_object

    try:
        if text:
            check_json_object(text, max_bytes=sys.maxsize, max_depth=1000)
    except ValueError as error:
        raise Misuse(f"--details: {error}", field="--details") from error
    return text or ""


_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The largest value of a fixed64.
MAX_UNIX_NANO = 2**64 - 1


def moment_from_flag(flag: str, text: str, now_unix_nano: int | None = None, *, ahead: bool = False) -> int:
    """Return a moment in nanoseconds since 1970: ISO 8601 (UTC if it does not say), or a time ago or `ahead`.

    Raises Misuse.
    """
    now = time.time_ns() if now_unix_nano is None else now_unix_nano
    duration = _DURATION.fullmatch(text)
    if text and duration is not None:
        seconds = sum(
            int(count or 0) * unit for count, unit in zip(duration.groups(), _UNITS.values(), strict=True)
        )
        # What lies before 1970 is before all there is.
        return min(max(now + (seconds if ahead else -seconds) * 1_000_000_000, 0), MAX_UNIX_NANO)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misuse(
            f"{flag}: '{text}' is neither a time, such as 2026-11-23T08:00, nor a time {'ahead' if ahead else 'ago'}, "
            "such as 15m or 2h30m",
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
