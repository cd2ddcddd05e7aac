"""`ClientStats`: what became of the records of one process, by fate: a client's `stats`."""

import threading
from collections import Counter
from collections.abc import Mapping

from emitd.sending.at_risk import Confirmations
from emitd.settings import ClientSettings
from emitd.transport.reply import Reply

__all__ = ["ClientStats"]


class ClientStats:
    """For any thread. What the fates mean stands in docs/client.md."""

    def __init__(self, settings: ClientSettings) -> None:
        # Reentrant: a finalizer that logs may run in a thread that is in here already.
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter(sent=0, unconfirmed=0)
        self._confirmations = Confirmations(settings.unconfirmed_seconds, settings.unconfirmed_records)
        self._has_one_server = "," not in settings.address and ":///" not in settings.address

    def add(self, fate: str, records: int) -> None:
        """Count records."""
        if records:
            with self._lock:
                self._counts[fate] += records

    def add_accepted_lines(self, lines: int) -> None:
        """Count lines that the service has, but may have in a queue only."""
        if lines:
            with self._lock:
                self._counts["sent"] += lines
                self._confirmations.accepted(lines)

    def note(self, reply: Reply, records: int) -> None:
        """Count what the answer to a call of so many records, or its failure, says of earlier ones."""
        with self._lock:
            if reply.is_broken:
                at_risk = self._confirmations.broke()
            else:
                at_risk = self._confirmations.answered(reply.server_id, has_one_server=self._has_one_server)
            if reply.may_have_arrived:
                self._counts["resent"] += records
            self._counts["sent"] -= at_risk
            self._counts["unconfirmed"] += at_risk

    def counts(self) -> Mapping[str, int]:
        """Return all counts, by fate."""
        with self._lock:
            return dict(self._counts)
