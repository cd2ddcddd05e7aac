"""Variables of the environment in the texts of a configuration: `${NAME}` and `${NAME:-default}`."""

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"(\$)?\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")
_MALFORMED = (
    "found ${ that begins no variable; expected ${NAME}, ${NAME:-default}, or $${ for the characters ${"
)


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return a text with its variables replaced, and how messages name them, since their values may be secret.

    The default counts if the variable is unset or empty, as in a shell. `$${` stands for `${`. No value is expanded
    again. Raises ValueError, which shows no value.
    """
    names: list[str] = []
    missing: list[str] = []

    def value_of(match: re.Match[str]) -> str:
        escape, name, default = match.groups()
        if escape:
            return match[0][1:]
        if name is None:
            raise ValueError(_MALFORMED)
        value = environ.get(name, "")
        if name not in environ and default is None:
            missing.append(f"'{name}'")
        origin = f"${{{name}}}"
        names.append(
            origin if value else f"the default of {origin}" if default else f"{origin}, which is empty"
        )
        return value or default or ""

    expanded = _REFERENCE.sub(value_of, text)
    if missing:
        raise ValueError(f"the environment has no variable {', '.join(missing)}")
    return expanded, ", ".join(names)
