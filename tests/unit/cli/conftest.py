"""For tests of commands in this process: each begins as a process does that has not read its arguments."""

import pytest

from emitd_cli.terminal.output import set_json


@pytest.fixture(autouse=True)
def _without_json() -> None:
    set_json(as_json=False)
