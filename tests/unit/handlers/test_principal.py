"""`Principal`: the names that it can have."""

from typing import get_args

import pytest

from emitd_handlers.principal import MAX_NAME_BYTES, Principal, PrincipalKind


@pytest.mark.parametrize(
    "name", ["shop", "system:serviceaccount:prod:shop", "spiffe://a.example/b", "Zoë", "a b", "é" * 128]
)
def test_names_for_people_and_machines_are_good(name: str) -> None:
    """Up to 256 bytes."""
    assert Principal(name, "token", (name,)).groups == (name,)


@pytest.mark.parametrize(
    "name", ["", " ", " a", "a ", "a\nb", "a\x00", "\u202ea", "a\u200b", "\ud800", "é" * 129, "a" * 257]
)
def test_other_names_are_refused_and_not_shown(name: str) -> None:
    """As the name, and as a group's."""
    for make in (lambda: Principal(name, "token"), lambda: Principal("a", "token", (name,))):
        with pytest.raises(ValueError, match=f"{MAX_NAME_BYTES} bytes|cannot be printed") as caught:
            make()
        assert len(name) < 3 or name not in str(caught.value)


def test_no_principal_is_named_like_a_group() -> None:
    """Grants and the owners of jobs would take it for the group; a group may have any name."""
    for kind in get_args(PrincipalKind):
        with pytest.raises(ValueError, match="begins with 'group:'"):
            Principal("group:web", kind)
    assert Principal("group", "jwt", ("group:web",)).groups == ("group:web",)
