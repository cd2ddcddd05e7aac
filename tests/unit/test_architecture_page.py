"""`docs/architecture.md` gives each module its place."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("server/emitd_server", "handlers/emitd_handlers", "server/emitd_cli", "clients/python/emitd")


def test_every_module_has_its_place_on_the_page() -> None:
    """The table names every module of the four packages, and none that is not there."""
    table = (ROOT / "docs/architecture.md").read_text().partition("## Where things are")[2]
    named = set(re.findall(r"`(\w+)`", table)) - {
        "emitd_server",
        "emitd_handlers",
        "emitd_cli",
        "emitd",
        "v1",
        "tlog",
    }
    modules = {
        path.stem
        for package in PACKAGES
        for path in (ROOT / package).rglob("[!_]*.py")
        if path.parent.name != "v1"
    }
    assert named == modules
