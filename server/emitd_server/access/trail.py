"""`AccessTrail`: writes into the audit trail who read it, and who was refused.

The first of several like events is written at once; the others are summed, once a minute.
"""

import asyncio
from collections import Counter
from urllib.parse import unquote

from emitd_handlers.principal import Principal
from emitd_server.dispatch.own_events import OwnEvents

SUM_SECONDS = 60.0
#: Kinds of refused calls that are kept apart in one minute: their senders choose the addresses.
MAX_KINDS = 1000


class AccessTrail:
    """One for the service. Its methods are called in the event loop, and never wait."""

    def __init__(self, events: OwnEvents) -> None:
        self._events = events
        #: Since the last event, by principal and method.
        self._reads: Counter[tuple[str, str]] = Counter()
        #: By principal and address: by method and code.
        self._refused: dict[tuple[str, str], Counter[str]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def read(self, principal: Principal, method: str) -> None:
        """Note that a principal opened a tail, or asked for a page of a list or a line with its proof."""
        if principal.kind == "anonymous":
            return
        key = (principal.name, method)
        if key not in self._reads:
            self._reads[key] = -1  # this one is no repeat
            self._write_read(*key, 1)
        self._reads[key] += 1
        self._sum_later()

    def refused(self, principal: str, address: str, method: str, code: str, count: int = 1) -> None:
        """Note that calls, or records of a call, were refused for want of an identity or a grant."""
        key = (principal, address)
        if len(self._refused) >= MAX_KINDS and key not in self._refused:
            key = ("", "others")
        self._refused.setdefault(key, Counter())[f"{method} {code}"] += count
        self._sum_later()

    def changed(self, what: str) -> None:
        """Note a change of tokens or keys."""
        self._events.add("emitd.access.changed", what, {"change": what})

    def cancelled(self, principal: Principal, job_id: str, reason: str) -> None:
        """Note that a principal asked for the end of a job."""
        if principal.kind != "anonymous":
            details = {"principal": principal.name, "job_id": job_id, "reason": reason}
            self._events.add(
                "emitd.job.cancel_requested", f"'{principal.name}' asked for the end of a job", details
            )

    def close(self) -> None:
        """Write the sums so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._sum()
            self._reads.clear()

    def _sum_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SUM_SECONDS, self._sum)

    def _sum(self) -> None:
        self._timer = None
        repeated = {key: count for key, count in self._reads.items() if count}
        refused, self._refused = self._refused, {}
        self._reads = Counter(dict.fromkeys(repeated, 0))
        for (principal, method), count in repeated.items():
            self._write_read(principal, method, count)
        for (principal, address), calls in refused.items():
            details = {"principal": principal, "address": address, "calls": dict(calls)}
            name = f"'{principal}'" if principal else "a caller without an identity"
            self._events.add("emitd.access.refused", f"{calls.total()} calls of {name} were refused", details)
        if self._reads:
            self._sum_later()

    def _write_read(self, principal: str, method: str, count: int) -> None:
        details = {"principal": principal, "method": method, "count": count}
        self._events.add("emitd.access.read", f"'{principal}' called {method}", details)


def address_of(peer: str) -> str:
    """Return the address in what grpc says of a peer, such as `ipv6:%5B::1%5D:50051`, without the port."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
