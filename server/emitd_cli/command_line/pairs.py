"""Flags of the form KEY=VALUE that may repeat."""

from collections.abc import Sequence

from emitd_cli.errors import Misuse


def pairs_from_flag(flag: str, pairs: Sequence[str]) -> dict[str, str]:
    """Return what the flag was given, by key. Raises Misuse for what is no pair, and for a key that comes twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Misuse(f"{flag}: '{pair}' is not KEY=VALUE", field=flag)
        if key in found:
            raise Misuse(f"{flag}: '{key}' is given twice", field=flag)
        found[key] = value
    return found
