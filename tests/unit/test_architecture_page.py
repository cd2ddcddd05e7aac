"""`docs/architecture.md` has a line for each folder of the product."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("server/emitd_server", "handlers/emitd_handlers", "server/emitd_cli", "clients/python/emitd")


def test_every_folder_has_its_line() -> None:
    """The table names each folder with modules, once, and no other; the contract has a line too."""
    table = (ROOT / "docs/architecture.md").read_text().partition("## Where things are")[2]
    named = re.findall(r"^\| `([\w/]+)` \|", table, re.MULTILINE)
    folders = {
        path.parent.relative_to((ROOT / package).parent).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert sorted(named) == sorted({*folders, "protos/emitd/v1"})
