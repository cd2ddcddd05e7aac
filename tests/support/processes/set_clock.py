"""`SetClock`: a wall clock that can be set, for a process under test alone; its steady clock stays as it is."""

from collections.abc import Mapping
from pathlib import Path

#: Read by Python at its start.
SITE = """
import time
from pathlib import Path

def shifted(read, unit, path=Path({path!r})):
    return lambda: read() + int(path.read_text()) * unit

time.time_ns, time.time = shifted(time.time_ns, 10**9), shifted(time.time, 1)
"""
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class SetClock:
    """A process gets it with `environ`: from Debian's libfaketime, or by a replacement inside of Python."""

    def __init__(self, folder: Path, *, library: Path | None = None) -> None:
        self._library = library
        self._folder = folder / "set-clock"
        self._folder.mkdir()
        self._offset = self._folder / "offset"
        self.set(0)
        (self._folder / "sitecustomize.py").write_text(SITE.format(path=str(self._offset)))

    def set(self, seconds: int) -> None:
        """Let the wall clock be that far ahead of the machine's."""
        new = self._folder / "new"
        new.write_text(f"{seconds:+}\n")
        new.replace(self._offset)

    def environ(self) -> Mapping[str, str]:
        """Return what the process needs in its environment."""
        if self._library is None:
            return {"PYTHONPATH": str(self._folder)}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
