"""`Principal`: who made a call, as the service found out; a record carries it to its handlers."""

from typing import Literal, TypeAlias

import msgspec

PrincipalKind: TypeAlias = Literal["anonymous", "socket", "token", "jwt", "certificate"]


class Principal(msgspec.Struct, frozen=True):
    """Who made a call."""

    #: Empty: the listener asks nobody for a name.
    name: str
    kind: PrincipalKind
    groups: tuple[str, ...] = ()
