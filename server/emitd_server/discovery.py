"""From the `type:` of a handler's entry to its class."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.settings import HandlerSettings

from emitd_server.config_problems import nearest

__all__ = ["BUILT_IN", "DiscoveryError", "HandlerFinder"]

#: The short names of the handlers that come with emitd. Imported when they are asked for.
BUILT_IN: Mapping[str, str] = {
    "console": "emitd_handlers.console.ConsoleHandler",
    "json_audit": "emitd_handlers.json_audit.JsonAuditHandler",
    "database_job": "emitd_handlers.database_job.DatabaseJobHandler",
    "discard": "emitd_handlers.discard.DiscardHandler",
}


class DiscoveryError(ValueError):
    """There is no usable handler class of that name. `nearest` is the name probably meant, or empty."""

    def __init__(self, message: str, nearest: str = "") -> None:
        super().__init__(message)
        self.nearest = nearest


class HandlerFinder:
    """Finds handler classes: built-in short names, files in `folders`, dotted paths, in this order.

    A file is loaded at most once, under a private module name; `sys.path` is left alone.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._loaded: dict[Path, ModuleType] = {}

    def find(self, type_name: str) -> type[BaseLogHandler]:
        """Return the class. Raises DiscoveryError, whose message names the file at fault."""
        dotted = BUILT_IN.get(type_name, type_name)
        module_name, _, class_name = dotted.rpartition(".")
        if not module_name:
            names = [*BUILT_IN, *self._names_in_folders()]
            raise DiscoveryError(
                f"unknown handler type '{type_name}'; it is neither built in nor 'module.Class'",
                nearest(type_name, names),
            )
        files = [file for folder in self._folders if (file := folder / f"{module_name}.py").is_file()]
        if len(files) > 1:
            both = " and ".join(map(str, files))
            raise DiscoveryError(f"'{type_name}' is ambiguous: both {both} would serve")
        module = self._load(files[0]) if files else self._import(module_name, type_name)
        place = str(files[0]) if files else f"module '{module_name}'"
        return _handler_class(module, class_name, place)

    def _names_in_folders(self) -> list[str]:
        return [file.stem for folder in self._folders for file in sorted(folder.glob("*.py"))]

    def _load(self, file: Path) -> ModuleType:
        file = file.resolve()
        if file not in self._loaded:
            name = f"emitd_handler_file_{len(self._loaded)}_{file.stem}"
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # as an import would: dataclasses and pickle look there
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                del sys.modules[name]
                raise DiscoveryError(_import_failure(file, error)) from error
            self._loaded[file] = module
        return self._loaded[file]

    def _import(self, module_name: str, type_name: str) -> ModuleType:
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise DiscoveryError(
                    f"module '{module_name}' cannot be imported: it needs '{error.name}'"
                ) from error
            places = ", ".join(map(str, self._folders)) or "no folder (see handler_paths)"
            raise DiscoveryError(
                f"there is no module '{module_name}' for '{type_name}', neither to import nor in {places}",
                nearest(module_name, self._names_in_folders()),
            ) from error
        except Exception as error:
            raise DiscoveryError(f"module '{module_name}' cannot be imported: {error!r}") from error


def _import_failure(file: Path, error: Exception) -> str:
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
    return f"{file}:{line}: cannot be imported: {type(error).__name__}: {error}"


def _handler_class(module: ModuleType, class_name: str, place: str) -> type[BaseLogHandler]:
    found = getattr(module, class_name, None)
    if found is None:
        own = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, BaseLogHandler)
        ]
        raise DiscoveryError(f"{place} has no class '{class_name}'", nearest(class_name, own))
    if not inspect.isclass(found) or not issubclass(found, BaseLogHandler):
        raise DiscoveryError(f"'{class_name}' in {place} is no BaseLogHandler")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise DiscoveryError(f"'{class_name}' in {place} is abstract: it does not define {missing}")
    if not (inspect.isclass(found.Settings) and issubclass(found.Settings, HandlerSettings)):
        raise DiscoveryError(f"'{class_name}.Settings' in {place} does not derive from HandlerSettings")
    return found
