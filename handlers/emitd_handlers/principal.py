"""`Principal`: who calls the service, as the service itself found out. Records and their audit lines carry it."""

from typing import Literal, TypeAlias

import msgspec

PrincipalKind: TypeAlias = Literal["token", "jwt", "certificate", "socket", "relayed", "anonymous"]

MAX_NAME_BYTES = 256
#: Before the name of a group, where there are names of principals too.
GROUP = "group:"


class Principal(msgspec.Struct, frozen=True):
    """Who calls. Raises ValueError for names that `check_name` refuses."""

    name: str
    #: What vouches for the name.
    kind: PrincipalKind
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.name.startswith(GROUP):  # grants and owners of jobs would take it for the group
            raise ValueError(f"the name begins with '{GROUP}', as only groups do")
        for group in self.groups:
            check_name(group, "a group's name")


def check_name(name: str, what: str = "the name") -> None:
    """Raise ValueError, which does not show it, for a name that is empty, too long or cannot be read on a line."""
    if not name.isprintable() or name != name.strip():
        raise ValueError(f"{what} has characters that cannot be printed, or begins or ends with a space")
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        raise ValueError(f"{what} is empty or has more than {MAX_NAME_BYTES} bytes")
