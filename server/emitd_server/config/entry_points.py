"""Handlers that installed distributions offer: their entry points of the group `emitd.handlers`.

A distribution says in its `pyproject.toml`

    [project.entry-points."emitd.handlers"]
    slack = "acme_slack.handler:SlackHandler"

and `type: slack` is that class wherever the distribution is installed.
"""

import importlib.metadata
from collections.abc import Sequence
from functools import reduce

import msgspec

__all__ = ["GROUP", "OfferedHandler", "offered_handlers"]

GROUP = "emitd.handlers"


class OfferedHandler(msgspec.Struct, frozen=True):
    """An entry point, not loaded."""

    name: str
    #: What it stands for, as the distribution spells it, such as `acme_slack.handler:SlackHandler`.
    value: str
    #: The distribution's name and version, such as `acme-slack 1.2`.
    distribution: str

    def load(self) -> object:
        """Import and return what it stands for; may raise anything that the import of the module does."""
        point = importlib.metadata.EntryPoint(self.name, self.value, GROUP)
        if not point.pattern.match(self.value) or not point.attr:
            raise ValueError(f"'{self.value}' is no 'module:Class'")
        # Not `point.load()`, which knows no better, and whose frames would stand in the message.
        module = importlib.import_module(point.module)
        return reduce(getattr, point.attr.split("."), module)


def offered_handlers() -> Sequence[OfferedHandler]:
    """Return what the installed distributions offer, by name; reads the metadata of each of them."""
    found = [
        OfferedHandler(point.name, point.value, _distribution(point.dist))
        for point in importlib.metadata.entry_points(group=GROUP)
    ]
    return sorted(found, key=lambda offered: (offered.name, offered.distribution))


def _distribution(distribution: importlib.metadata.Distribution | None) -> str:
    if distribution is None:
        return "an unknown distribution"
    fields = distribution.metadata  # of a damaged one either may be missing
    return (
        " ".join(str(fields[key]) for key in ("Name", "Version") if key in fields)
        or "an unnamed distribution"
    )
