"""What this process has open below one folder: a count of all its descriptors changes with what other tests left."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

_DESCRIPTORS = Path("/proc/self/fd")


def open_under(folder: Path) -> list[str]:
    """Return the files and folders that are open, the folder's own too; what is open twice is there twice.

    Where the system does not tell the path of a descriptor, as on macOS, the test is skipped.
    """
    if not _DESCRIPTORS.is_dir():
        pytest.skip("needs /proc/self/fd")
    found = []
    for descriptor in os.listdir(_DESCRIPTORS):
        with suppress(FileNotFoundError):  # another thread has closed it since
            found.append(os.readlink(_DESCRIPTORS / descriptor))
    return sorted(path for path in found if Path(path).is_relative_to(folder.resolve()))
