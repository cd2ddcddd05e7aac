"""What a word that is not known most probably meant."""

from collections.abc import Iterable, Mapping

_NO_OTHER_NAMES: Mapping[str, str] = {}


def not_one_of(word: str, known: Iterable[str], other_names: Mapping[str, str] = _NO_OTHER_NAMES) -> str:
    """Say that `word` is not one of those known, and which it probably meant.

    `other_names` are words that people know from elsewhere, each with the one that it has here.
    """
    known = tuple(known)
    return f"'{word}' is not one of {', '.join(known)}{did_you_mean(word, known, other_names)}"


def did_you_mean(word: str, known: Iterable[str], other_names: Mapping[str, str] = _NO_OTHER_NAMES) -> str:
    """Return `; did you mean 'X'?`, or nothing where no known word is near. Case does not matter."""
    # Loaded here: a command that is called well does not need it.
    from difflib import get_close_matches

    by_folded = {name.casefold(): name for name in known}
    by_folded |= {name.casefold(): meant for name, meant in other_names.items()}
    near = get_close_matches(word.casefold(), by_folded, n=1)
    return f"; did you mean '{by_folded[near[0]]}'?" if near else ""
