"""Turn the log of an OpenSSH server into an audit trail.

Every line with the result of a login attempt becomes one audit event:

  Accepted METHOD for USER from ADDRESS port PORT ssh2                  user.login.success
  Failed METHOD for [invalid user ]USER from ADDRESS port PORT ssh2     user.login.failure

`message repeated N times: [ ... ]` is N further events. Lines of PAM about the same attempts are left out, because
they would count them twice. `details` has the host, the process id of the connection, the method (`password`,
`publickey`; `none` is a client's first probe), the port, the key if there is one, and `invalid_user` if the host
does not know the user. If sshd names no user or no address, the event has `unknown`.

The times of syslog have no year and no zone: give the year of the first line with --year, and the zone with --timezone.
Without --year it is this year, or last year if the log would otherwise begin more than a day in the future.
A second run over the same log writes nothing twice, as long as the server remembers the ids.

Examples:
  python sshd_audit.py /var/log/auth.log
  tail -F /var/log/auth.log | python sshd_audit.py - --batch-size 1
  python sshd_audit.py old.log --year 2015 --timezone Asia/Hong_Kong --dry-run

"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, tzinfo
from ipaddress import ip_address

from shipping import LineIds, ship, shipping_parser, unix_nano

from emitd.v1 import AuditEvent, LogRecord, LogServiceStub

__all__ = ["SshdLog", "SyslogClock", "main"]

SUCCESS, FAILURE = "user.login.success", "user.login.failure"
#: The contract's limit; a longer name is cut, and the details have the whole of it.
MAX_USER_BYTES = 256
#: A time that lies further in the future belongs to last year. Zones and clocks differ, so a day is allowed.
AHEAD = timedelta(days=1)

# Newer rsyslog and systemd write the second form of time; sshd-session is OpenSSH 9.8 and newer.
_LINE = re.compile(
    r"(?P<stamp>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) (?P<host>\S+) "
    r"sshd(?:-session)?\[(?P<pid>\d+)\]: (?P<text>.*)"
)
_REPEATED = re.compile(r"message repeated (?P<times>\d+) times: \[ (?P<text>.*)\]")
# A client chooses its user name, spaces and all, and may put a false ` from ADDRESS port PORT` into it. The one
# that sshd adds is the last, which is why USER takes as much as it can, and the end must match.
_LOGIN = re.compile(
    r"(?P<outcome>Accepted|Failed) (?P<method>\S+) for (?P<invalid>invalid user )?(?P<user>.*) "
    r"from (?P<address>\S+) port (?P<port>\d+)(?: ssh\d?)?(?:: (?P<key>.*))?"
)


class SyslogClock:
    """Reads the times of a log whose lines are in order.

    `year` is that of the first line; None: the last year in which the line lies at most `AHEAD` in the future.
    """

    def __init__(self, year: int | None, zone: tzinfo) -> None:
        self._year = year
        self._zone = zone
        self._month = 0

    def unix_nano(self, stamp: str) -> int:
        """Return a time in nanoseconds since 1970. Raises ValueError for a day that the year does not have."""
        if stamp[0].isdigit():
            moment = datetime.fromisoformat(stamp)
            return unix_nano(moment if moment.tzinfo else moment.replace(tzinfo=self._zone))
        # 2000 has every day: the day is needed before the year is known.
        day = datetime.strptime(f"2000 {stamp}", "%Y %b %d %H:%M:%S")
        if self._year is None:
            latest = datetime.now(self._zone) + AHEAD
            self._year = latest.year - (day > latest.replace(year=2000, tzinfo=None))
        elif day.month < self._month - 6:
            self._year += 1
        self._month = day.month
        try:
            moment = datetime.strptime(f"{self._year} {stamp}", "%Y %b %d %H:%M:%S")
        except ValueError:
            raise ValueError(f"there is no '{stamp}' in {self._year}; say the log's --year") from None
        return unix_nano(moment.replace(tzinfo=self._zone))


class SshdLog:
    """The logins in a log, and how many there were."""

    def __init__(self, clock: SyslogClock) -> None:
        self._clock = clock
        self._ids = LineIds()
        self.line_count = 0
        self.event_counts: Counter[str] = Counter({SUCCESS: 0, FAILURE: 0})

    def read(self, lines: Iterable[str]) -> Iterator[LogRecord]:
        """Yield the records of a log's lines, in order. Raises ValueError for an impossible time."""
        for line in lines:
            self.line_count += 1
            if found := _LINE.fullmatch(line.rstrip("\r\n")):
                yield from self._read_message(found)

    def _read_message(self, line: re.Match[str]) -> Iterator[LogRecord]:
        repeated = _REPEATED.fullmatch(line["text"])
        text, times = (repeated["text"], int(repeated["times"])) if repeated else (line["text"], 1)
        login = _LOGIN.fullmatch(text)
        if login is None:
            return
        unix_nano = self._clock.unix_nano(line["stamp"])
        line_id = self._ids.make(line["host"], line["stamp"], line[0])
        for number in range(1, times + 1):
            details = _details(line, login)
            if repeated:
                details["repetition"] = number
                details["repetitions"] = times
            event = _event(login, details, f"{line_id}-{number}" if repeated else line_id)
            self.event_counts[event.event_name] += 1
            yield LogRecord(
                record_id=event.event_id, time_unix_nano=unix_nano, message=text, source="sshd", audit=event
            )


def _details(line: re.Match[str], login: re.Match[str]) -> dict[str, object]:
    details: dict[str, object] = {
        "host": line["host"],
        "pid": int(line["pid"]),
        "method": login["method"],
        "port": int(login["port"]),
    }
    if login["invalid"]:
        details["invalid_user"] = True
    if login["key"]:
        details["key"] = login["key"]
    return details


def _event(login: re.Match[str], details: dict[str, object], event_id: str) -> AuditEvent:
    user, address = login["user"], login["address"]
    user_id = user.encode()[:MAX_USER_BYTES].decode(errors="ignore")
    if user_id != user:
        details["user"] = user
    if not _is_address(address):
        details["address"] = address
        address = "unknown"
    return AuditEvent(
        event_id=event_id,
        event_name=SUCCESS if login["outcome"] == "Accepted" else FAILURE,
        user_id=user_id or "unknown",
        source_ip=address,
        details_json=json.dumps(details, ensure_ascii=False),
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return 0, 1 if records were refused, 2 for misuse, 4 if the server does not answer."""
    parser = shipping_parser(__doc__, "the log of an sshd, such as /var/log/auth.log")
    parser.add_argument(
        "--year", type=_year, help="the year of the log's first line (default: this year, or last year)"
    )
    options = parser.parse_args(arguments)
    log = SshdLog(SyslogClock(options.year, options.timezone))

    def conclude(stub: LogServiceStub | None) -> Iterator[str]:
        counts = ", ".join(f"{count} {name}" for name, count in log.event_counts.items())
        yield f"{log.line_count} lines read: {counts}"

    return ship(options, log.read, conclude)


def _year(text: str) -> int:
    if not re.fullmatch(r"[12]\d{3}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a year of four digits")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
