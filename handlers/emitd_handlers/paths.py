"""The paths in a configuration."""

import os
from pathlib import Path


class SettingInvalid(ValueError):
    """A setting's text cannot be used. The message shows nothing of the text, so that it may be a secret."""


def resolve_path(text: str, base_dir: Path) -> Path:
    """Return the path that a text names: `~` is a home folder, a relative path begins at `base_dir`.

    Raises SettingInvalid.
    """
    path = os.path.expanduser(text)
    if not path or "\0" in path:
        raise SettingInvalid("it is empty or has the character U+0000; expected a path")
    if path.startswith("~"):
        raise SettingInvalid("it begins with a ~ whose home folder is not known; expected a path, or ./~NAME")
    return base_dir / path
