"""docs/client.md: its examples are run from its own text, its tables held against the code."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from emitd.sending.engine import Engine
from emitd.settings import ClientSettings
from support.processes.server_process import ServerProcess

PAGE = (Path(__file__).parents[2] / "docs/client.md").read_text()
CONFIG = """
server: {listen: "127.0.0.1:0"}
handlers:
  console: {type: console}
  audit: {type: json_audit}
  jobs: {type: database_job}
"""
UNITS = {"s": 1, "KiB": 2**10, "MiB": 2**20}


def example(name: str) -> str:
    """The code block that follows the comment `<!-- example: NAME -->`."""
    match = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None, name
    return match[1]


def told_defaults() -> dict[str, str]:
    """The settings of the page's table, each with what stands there as its default."""
    table = PAGE.partition("<!-- settings -->")[2].partition("\n\n##")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", table, re.MULTILINE))


def value(text: str) -> object:
    """The default that a cell means: a name in code, or a number with its unit."""
    if text.startswith("`"):
        return text.strip("`")
    number, _, unit = text.replace(",", "").partition(" ")
    return float(number) * UNITS.get(unit, 1)


@pytest.mark.parametrize("name", ["five_lines", "job"])
def test_the_examples_run(name: str, tmp_path: Path) -> None:
    """Each leaves what the page says, and no word on standard error."""
    with ServerProcess.start(CONFIG, tmp_path) as server:
        program = example(name).replace("127.0.0.1:50051", server.address)
        program += (
            "\nfrom emitd import LogClient\nwith LogClient(address) as c: print(*c.list_jobs(), sep='')"
        )
        program = f"address = {server.address!r}\n{program}"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    if name == "job":
        assert "JOB_STATE_COMPLETED" in done.stdout
        assert '{\\"rows\\":1000}' in done.stdout
    else:
        assert "order taken order=17" in (tmp_path / "stdout").read_text()
        assert '"event_name":"order.create"' in (tmp_path / "logs" / "audit.json.log").read_text()


def test_every_setting_is_told_with_its_default() -> None:
    """The table has the settings in the code's order, each with the default that is in force."""
    fields = msgspec.structs.fields(ClientSettings)
    told = told_defaults()
    assert list(told) == [field.name for field in fields]
    for field in fields:
        if field.default not in ("", None):  # else the page says in words where it comes from
            assert value(told[field.name]) == field.default, field.name


def test_every_fate_in_the_stats_is_told() -> None:
    """What `stats()` can show stands in the page's table of fates."""
    engine = Engine(ClientSettings(source="x", spool="off"))
    engine.close()
    engine.write(20, "late", {})
    table = PAGE.partition("| In `stats()` | |")[2].partition("\n\n")[0]
    assert [fate for fate in engine.stats() if f"`{fate}`" not in table] == []
