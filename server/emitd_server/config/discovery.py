"""Finds the class that the `type:` of a handler's entry names, and lists every class that an entry could name.

A type is looked up in this order: built-in short names, files in the folders of `handler_paths`, names of entry
points, dotted paths. The first match wins, so that installing a distribution never changes the meaning of a
configuration.

A distribution offers a handler by an entry point of the group `emitd.handlers` in its `pyproject.toml`:

    [project.entry-points."emitd.handlers"]
    slack = "acme_slack.handler:SlackHandler"
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, reduce
from importlib.metadata import EntryPoint
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

import msgspec

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.settings import HandlerSettings
from emitd_server.errors import describe, nearest

#: The short names of the handlers that come with emitd. Imported when they are asked for.
BUILT_IN: Mapping[str, str] = {
    "console": "emitd_handlers.console.ConsoleHandler",
    "json_audit": "emitd_handlers.audit.handler.JsonAuditHandler",
    "database_job": "emitd_handlers.jobs.handler.DatabaseJobHandler",
    "file": "emitd_handlers.file.handler.FileHandler",
    "discard": "emitd_handlers.discard.DiscardHandler",
    "webhook": "emitd_handlers.webhook.handler.WebhookHandler",
}

#: The group of entry points by which a distribution offers handlers.
GROUP = "emitd.handlers"

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


class FoundHandler(msgspec.Struct, frozen=True):
    """A handler that an entry could name by its `type:`, or the reason why it cannot."""

    type_name: str
    #: Its origin: `built in`, `file FOLDER/FILE.py`, or `entry point of DISTRIBUTION VERSION`.
    origin: str
    handler_class: type[BaseLogHandler] | None = None
    #: Why it cannot be used, or empty.
    problem: str = ""
    #: Why it is not offered although nothing is wrong with it, or empty.
    note: str = ""
    #: Whether an entry of this type names something else.
    is_hidden: bool = False


class HandlerFinder:
    """Finds handler classes. A file is loaded at most once, under a private module name; `sys.path` is left alone.

    The metadata of the installed distributions is read only for a type that is neither built in nor in a file.
    """

    def __init__(self, folders: Sequence[HandlerFolder]) -> None:
        self.folders = folders
        self._loaded: dict[Path, ModuleType | DiscoveryError] = {}

    def find(self, type_name: str) -> type[BaseLogHandler]:
        """Return the class. Raises DiscoveryError, whose message names the file or distribution at fault."""
        if type_name in BUILT_IN:
            return self._find_by_path(BUILT_IN[type_name])
        files = self._files_of(type_name)
        if files:
            return self._find_in_files(type_name, files)
        points = [point for point in self._offered if point.name == type_name]
        if points:
            return _load_offered(type_name, points)
        if _DOTTED.fullmatch(type_name):
            return self._find_by_path(type_name)
        known = dict.fromkeys([*BUILT_IN, *(point.name for point in self._offered)])
        expected = f"{', '.join(known)} or 'module.Class'"
        raise DiscoveryError(f"unknown handler type '{type_name}'", expected, nearest(type_name, known))

    def find_all(self) -> Sequence[FoundHandler]:
        """Load and return every handler that an entry could name, except those by dotted paths.

        One that cannot be loaded is listed with its problem.
        """
        built_in = [self._found(name, "built in") for name in BUILT_IN]
        files = [found for file, shown in self._all_files().items() for found in self._in_file(file, shown)]
        return [*built_in, *files, *map(self._found_offered, self._offered)]

    @cached_property
    def _offered(self) -> Sequence[EntryPoint]:
        return _offered_handlers()

    def _find_by_path(self, dotted: str) -> type[BaseLogHandler]:
        module_name, _, class_name = dotted.rpartition(".")
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is None or not f"{module_name}.".startswith(f"{missing}."):
                found = f"module '{module_name}' cannot be imported: {describe(error)}{_origin(error)}"
                raise DiscoveryError(found) from error
            places = ", ".join(folder.shown for folder in self.folders) or "no folder (see handler_paths)"
            found = f"there is no module '{module_name}', neither to import nor in {places}"
            raise DiscoveryError(found) from None
        return _handler_class(module, class_name, f"module '{module_name}'")

    def _find_in_files(self, type_name: str, files: Mapping[Path, str]) -> type[BaseLogHandler]:
        class_name = type_name.rpartition(".")[2]
        modules = {shown: self._load(file, shown) for file, shown in files.items()}
        holders = [shown for shown, module in modules.items() if hasattr(module, class_name)]
        if len(holders) > 1:
            raise DiscoveryError(f"'{type_name}' is ambiguous: it is in {' and in '.join(holders)}")
        shown = holders[0] if holders else next(iter(modules))
        return _handler_class(modules[shown], class_name, shown)

    def _found(self, type_name: str, origin: str) -> FoundHandler:
        try:
            return FoundHandler(type_name, origin, self.find(type_name))
        except DiscoveryError as error:
            return FoundHandler(type_name, origin, problem=str(error))

    def _found_offered(self, point: EntryPoint) -> FoundHandler:
        origin = f"entry point of {_distribution(point)}"
        hidden_by = "the built-in type" if point.name in BUILT_IN else ""
        hidden_by = hidden_by or " and ".join(self._files_of(point.name).values())
        if hidden_by:
            note = f"hidden by {hidden_by} of the same name"
            return FoundHandler(point.name, origin, note=note, is_hidden=True)
        return self._found(point.name, origin)

    def _in_file(self, file: Path, shown: str) -> Iterator[FoundHandler]:
        origin = f"file {shown}"
        try:
            names = [cls.__name__ for cls in _own_handlers(self._load(file, shown))]
        except DiscoveryError as error:
            yield FoundHandler(file.stem, origin, problem=str(error))
            return
        if not names:
            yield FoundHandler(file.stem, origin, note="defines no class that derives from BaseLogHandler")
        for name in names:
            yield self._found(f"{file.stem}.{name}", origin)

    def _all_files(self) -> Mapping[Path, str]:
        """Return the files of the folders but those with a leading underscore, each as messages name it."""
        files = {
            file.resolve(): f"{folder.shown}/{file.name}"
            for folder in reversed(self.folders)  # so that the first name of a folder listed twice counts
            for file in folder.path.glob("[!_]*.py")
        }
        return dict(sorted(files.items(), key=lambda item: item[1]))

    def _files_of(self, type_name: str) -> Mapping[Path, str]:
        """Return the files that a type of the form `module.Class` may mean, each as messages name it."""
        if not _DOTTED.fullmatch(type_name):
            return {}
        name = f"{type_name.rpartition('.')[0]}.py"
        places = {(folder.path / name).resolve(): f"{folder.shown}/{name}" for folder in self.folders}
        return {file: shown for file, shown in places.items() if file.is_file()}

    def _load(self, file: Path, shown: str) -> ModuleType:
        if file not in self._loaded:
            self._loaded[file] = _load_file(file, shown)
        loaded = self._loaded[file]
        if isinstance(loaded, DiscoveryError):
            raise loaded
        return loaded


def _offered_handlers() -> Sequence[EntryPoint]:
    """Return the handlers of the installed distributions, by name; reads the metadata of each of them."""
    points = importlib.metadata.entry_points(group=GROUP)
    return sorted(points, key=lambda point: (point.name, _distribution(point)))


def _distribution(point: EntryPoint) -> str:
    """Return the distribution's name and version, such as `acme-slack 1.2`."""
    if point.dist is None:
        return "an unknown distribution"
    fields = point.dist.metadata  # of a damaged one either may be missing
    known = [str(fields[key]) for key in ("Name", "Version") if key in fields]
    return " ".join(known) or "an unnamed distribution"


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


def _load_offered(type_name: str, points: Sequence[EntryPoint]) -> type[BaseLogHandler]:
    if len(points) > 1:
        places = " and of ".join(f"{_distribution(point)} ({point.value})" for point in points)
        raise DiscoveryError(f"'{type_name}' is ambiguous: it is an entry point of {places}")
    (point,) = points
    place = f"entry point '{type_name}' of {_distribution(point)}"
    try:
        if not point.pattern.match(point.value) or not point.attr:
            raise ValueError(f"'{point.value}' is no 'module:Class'")
        # Not `point.load()`, whose frames would stand in the message.
        loaded = reduce(getattr, point.attr.split("."), importlib.import_module(point.module))
    except (Exception, SystemExit) as error:
        raise DiscoveryError(f"{place} cannot be loaded: {describe(error)}{_origin(error)}") from error
    return _usable(loaded, point.value, place)


def _own_handlers(module: ModuleType) -> Sequence[type[BaseLogHandler]]:
    """Return the handlers that a module defines; not those that it imports or that others derive from."""
    return [
        value
        for name, value in vars(module).items()
        if _is_handler(value)
        and value.__module__ == module.__name__
        and value.__name__ == name
        and not name.startswith("_")
        and not inspect.isabstract(value)
    ]


def _is_handler(value: object) -> TypeGuard[type[BaseLogHandler]]:
    return inspect.isclass(value) and issubclass(value, BaseLogHandler)


def _line_in(file: Path, error: BaseException) -> int | None:
    """Return the line of `file` in which an import failed, if it is known."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(file)), None)


def _origin(error: BaseException) -> str:
    """Return ` (FILE:LINE)` for the code in which an import failed, without Python's own frames."""
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
        own = [name for name, value in vars(module).items() if _is_handler(value)]
        raise DiscoveryError(f"{place} has no class '{class_name}'", nearest=nearest(class_name, own))
    return _usable(found, class_name, place)


def _usable(found: object, class_name: str, place: str) -> type[BaseLogHandler]:
    if not _is_handler(found):
        raise DiscoveryError(f"'{class_name}' in {place} is no BaseLogHandler")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise DiscoveryError(f"'{class_name}' in {place} is abstract: it does not define {missing}")
    if not (inspect.isclass(found.Settings) and issubclass(found.Settings, HandlerSettings)):
        raise DiscoveryError(f"'{class_name}.Settings' in {place} does not derive from HandlerSettings")
    return found
