"""`LogVerbs`: the plain calls that both clients have, which queue log lines."""

import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn, Self, TypedDict, Unpack

from emitd.context import current_attributes
from emitd.jobs.run_state import JobRunState
from emitd.jobs.ticker import JobTicker
from emitd.records.encoding import encode_attributes
from emitd.records.exceptions import exception_attributes
from emitd.records.levels import is_level, level_number
from emitd.sending.engine import Engine
from emitd.settings import ClientSettings
from emitd.v1 import record_pb2 as pb


class MoreSettings(TypedDict, total=False):
    """The other settings of a client: see `emitd.settings.ClientSettings`. None: not given."""

    tls: bool | None
    ca_file: str | os.PathLike[str] | None
    cert_file: str | os.PathLike[str] | None
    key_file: str | os.PathLike[str] | None
    token: str | None
    token_file: str | os.PathLike[str] | None
    timeout: float | None
    call_timeout: float | None
    close_timeout: float | None
    fork_wait: float | None
    max_queue_records: int | None
    max_queue_bytes: int | None
    overflow: str | None
    batch_records: int | None
    batch_bytes: int | None
    linger: float | None
    max_in_flight: int | None
    backoff_initial: float | None
    backoff_max: float | None
    tick_interval: float | None
    spool: str | os.PathLike[str] | None
    spool_records: str | None
    max_spool_bytes: int | None
    unconfirmed_seconds: float | None
    unconfirmed_records: int | None
    report_interval: float | None


class LogVerbs:
    """For any thread. No call waits or raises for trouble with the delivery: that is counted, in `stats`."""

    def __init__(
        self,
        address: str | None = None,
        *,
        source: str | None = None,
        level: str | int | None = None,
        **settings: Unpack[MoreSettings],
    ) -> None:
        """Take settings from the arguments, else from the environment (`EMITD_ADDRESS`, ...), else the defaults.

        Nothing is connected or started before the first record. Raises ValueError naming a setting that is wrong.
        """
        self._settings = ClientSettings.read(
            {"address": address, "source": source, "level": level, **settings}
        )
        self._threshold = self._settings.threshold
        self._bound: Mapping[str, object] = {}
        self._engine = Engine(self._settings)
        self._prepare()

    def _prepare(self) -> None:
        """Make what a kind of client has besides."""

    def debug(self, message: str, /, **attributes: object) -> None:
        """Log a line of level DEBUG. See `log`."""
        if self._threshold <= 10:
            self._engine.write(10, message, {**self._bound, **attributes} if self._bound else attributes)

    def info(self, message: str, /, **attributes: object) -> None:
        """Log a line of level INFO. See `log`."""
        if self._threshold <= 20:
            self._engine.write(20, message, {**self._bound, **attributes} if self._bound else attributes)

    def warning(self, message: str, /, **attributes: object) -> None:
        """Log a line of level WARNING. See `log`."""
        if self._threshold <= 30:
            self._engine.write(30, message, {**self._bound, **attributes} if self._bound else attributes)

    def error(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR. See `log`."""
        if self._threshold <= 40:
            self._engine.write(40, message, {**self._bound, **attributes} if self._bound else attributes)

    def critical(self, message: str, /, **attributes: object) -> None:
        """Log a line of level CRITICAL. See `log`."""
        if self._threshold <= 50:
            self._engine.write(50, message, {**self._bound, **attributes} if self._bound else attributes)

    def log(self, level: str | int, message: str, /, **attributes: object) -> None:
        """Log a line. See `emitd.AsyncLogger.log`."""
        number = level_number(level)
        if self._threshold <= number:
            asked = {} if is_level(level) else {"level": level}
            self._engine.write(number, message, {**asked, **self._bound, **attributes})

    def exception(self, message: str, /, **attributes: object) -> None:
        """Log a line of level ERROR with the exception that is being handled, by OpenTelemetry's names."""
        self.error(message, **{**exception_attributes(sys.exception()), **attributes})

    def bind(self, **attributes: object) -> Self:
        """Return a client that adds these attributes to every record, and shares everything else with this one."""
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._bound = {**self._bound, **attributes}
        return bound

    def stats(self) -> Mapping[str, int]:
        """Return what became of the records of this process: `sent`, `unconfirmed`, `dropped_...`, `spooled`, ...

        A forked child counts from 0. See docs/client.md.
        """
        return self._engine.stats()

    @property
    def state(self) -> str:
        """Whether the client is `open` or `closed`."""
        return "closed" if self._engine.is_closed else "open"

    @property
    def settings(self) -> ClientSettings:
        """The settings in force."""
        return self._settings

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: it has threads and a connection. Make one in each process; "
            "a forked child may use its parent's, which then is its own"
        )

    def __copy__(self) -> Self:
        return self.bind()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self._settings.source!r} to {self._settings.address}, {self.state}>"
        )

    def _ticker(self, job_id: str, job_type: str, **options: Any) -> JobTicker:
        """Return the state of a job's run, whose news the engine sends. Raises what `job` raises."""
        attributes_json = encode_attributes({**current_attributes(), **self._bound})
        run_state = JobRunState(
            job_id,
            job_type,
            **options,
            envelope=pb.LogRecord(source=self._settings.source, attributes_json=attributes_json),
            on_news=lambda: self._engine.events.news(ticker),
        )
        ticker = JobTicker(run_state, self._settings.tick_interval)
        return ticker
