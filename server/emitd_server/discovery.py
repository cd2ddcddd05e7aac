"""From the `type:` of a handler's entry to its class."""

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import ModuleType

import msgspec

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.settings import HandlerSettings
from emitd_server.config_problems import describe, nearest

__all__ = ["BUILT_IN", "DiscoveryError", "HandlerFinder", "HandlerFolder"]

#: The short names of the handlers that come with emitd. Imported when they are asked for.
BUILT_IN: Mapping[str, str] = {
    "console": "emitd_handlers.console.ConsoleHandler",
    "json_audit": "emitd_handlers.json_audit.JsonAuditHandler",
    "database_job": "emitd_handlers.database_job.DatabaseJobHandler",
    "discard": "emitd_handlers.discard.DiscardHandler",
}

_DOTTED = re.compile(r"[\w-]+(\.[\w-]+)+")
#: Tells modules loaded from files apart, also those of an earlier configuration.
_numbers = count()


class DiscoveryError(ValueError):
    """There is no usable handler class of that name."""

    def __init__(self, found: str, expected: str = "", nearest: str = "") -> None:
        super().__init__(found)
        #: As `Problem.expected`.
        self.expected = expected
        #: The name that was probably meant, or empty.
        self.nearest = nearest


class HandlerFolder(msgspec.Struct, frozen=True):
    """A folder whose `*.py` files hold handlers."""

    path: Path
    #: How messages name it.
    shown: str


class HandlerFinder:
    """Finds handler classes: built-in short names, files in `folders`, dotted paths, in this order.

    A file is loaded at most once, under a private module name; `sys.path` is left alone.
    """

    def __init__(self, folders: Sequence[HandlerFolder]) -> None:
        self._folders = folders
        self._loaded: dict[Path, ModuleType | DiscoveryError] = {}

    def find(self, type_name: str) -> type[BaseLogHandler]:
        """Return the class. Raises DiscoveryError, whose message names the file at fault."""
        dotted = BUILT_IN.get(type_name, type_name)
        if not _DOTTED.fullmatch(dotted):
            expected = f"{', '.join(BUILT_IN)} or 'module.Class'"
            raise DiscoveryError(
                f"unknown handler type '{type_name}'", expected, nearest(type_name, BUILT_IN)
            )
        module_name, _, class_name = dotted.rpartition(".")
        files = self._files(module_name)
        if not files:
            module = self._import(module_name, class_name)
            return _handler_class(module, class_name, f"module '{module_name}'")
        modules = {shown: self._load(file, shown) for file, shown in files.items()}
        holders = [shown for shown, module in modules.items() if hasattr(module, class_name)]
        if len(holders) > 1:
            raise DiscoveryError(f"'{type_name}' is ambiguous: it is in {' and in '.join(holders)}")
        shown = holders[0] if holders else next(iter(modules))
        return _handler_class(modules[shown], class_name, shown)

    def _files(self, module_name: str) -> Mapping[Path, str]:
        """Return the files of that name in the folders, each with how messages name it."""
        name = f"{module_name}.py"
        places = {(folder.path / name).resolve(): f"{folder.shown}/{name}" for folder in self._folders}
        return {file: shown for file, shown in places.items() if file.is_file()}

    def _load(self, file: Path, shown: str) -> ModuleType:
        if file not in self._loaded:
            self._loaded[file] = _load_file(file, shown)
        loaded = self._loaded[file]
        if isinstance(loaded, DiscoveryError):
            raise loaded
        return loaded

    def _import(self, module_name: str, class_name: str) -> ModuleType:
        try:
            return importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is None or not f"{module_name}.".startswith(f"{missing}."):
                raise DiscoveryError(
                    f"module '{module_name}' cannot be imported: {describe(error)}{_origin(error)}"
                ) from error
        places = ", ".join(folder.shown for folder in self._folders) or "no folder (see handler_paths)"
        near = nearest(module_name, self._modules_in_folders())
        raise DiscoveryError(
            f"there is no module '{module_name}', neither to import nor in {places}",
            nearest=f"{near}.{class_name}" if near else "",
        )

    def _modules_in_folders(self) -> list[str]:
        return [file.stem for folder in self._folders for file in sorted(folder.path.glob("*.py"))]


def _load_file(file: Path, shown: str) -> ModuleType | DiscoveryError:
    name = f"emitd_handler_file_{next(_numbers)}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import would: dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a handler's file must not end the process
        sys.modules.pop(name, None)
        line = _line_in(file, error)
        place = f"{shown}:{line}" if line else shown
        return DiscoveryError(f"{place}: cannot be imported: {describe(error)}")
    return module


def _line_in(file: Path, error: BaseException) -> int | None:
    """Return the line of `file` that an import ended in, if it can be told."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(file)), None)


def _origin(error: BaseException) -> str:
    """Return ` (FILE:LINE)` for the code that an import ended in, Python's own machinery left out."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    machinery = (__file__, importlib.__file__)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename not in machinery and not frame.filename.startswith("<frozen importlib"):
            return f" ({frame.filename}:{frame.lineno})"
    return ""


def _handler_class(module: ModuleType, class_name: str, place: str) -> type[BaseLogHandler]:
    found = getattr(module, class_name, None)
    if found is None:
        own = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, BaseLogHandler)
        ]
        raise DiscoveryError(f"{place} has no class '{class_name}'", nearest=nearest(class_name, own))
    if not inspect.isclass(found) or not issubclass(found, BaseLogHandler):
        raise DiscoveryError(f"'{class_name}' in {place} is no BaseLogHandler")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise DiscoveryError(f"'{class_name}' in {place} is abstract: it does not define {missing}")
    if not (inspect.isclass(found.Settings) and issubclass(found.Settings, HandlerSettings)):
        raise DiscoveryError(f"'{class_name}.Settings' in {place} does not derive from HandlerSettings")
    return found
