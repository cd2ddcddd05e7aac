"""The configuration of a service: `logging_config.yml` read, checked, and made into typed settings.

Parsing, validating and constructing are three steps: `read_yaml`, `load_config`, `HandlerEntry.build`. All
problems of a file are reported at once.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from emitd_handlers.base import BaseLogHandler
from emitd_handlers.jobs.source import JobSource
from emitd_handlers.settings import CommittedSettings, Delivery, HandlerSettings, QueuedSettings, flat_keys
from emitd_handlers.text.address import shown
from emitd_server.config.discovery import BUILT_IN, DiscoveryError, HandlerFinder, HandlerFolder
from emitd_server.config.listeners import address_problem, at_home, read_listen
from emitd_server.config.settings_reader import SettingsReader, convert
from emitd_server.config.yaml_document import Value, read_text, read_yaml
from emitd_server.errors import ConfigError, Problem, describe
from emitd_server.settings import ListenEntry, LoopKind, ServerSettings

#: The configuration of a service without a file; paths are relative to the working directory.
BUILT_IN_DEFAULTS = """\
handlers:
  console: {type: console,      levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL]}
  audit:   {type: json_audit,   levels: [AUDIT],      path: logs/audit.json.log}
  jobs:    {type: database_job, levels: [JOB_STATUS], database: sqlite:///logs/jobs.db}
"""
_SECTIONS = ("server", "handler_paths", "handlers")
_ENTRY_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_TYPE_EXPECTED = "a handler's type, such as console"


class HandlerEntry(msgspec.Struct, frozen=True):
    """An active handler of the configuration."""

    name: str
    handler_class: type[BaseLogHandler]
    settings: HandlerSettings

    def build(self) -> BaseLogHandler:
        """Make the handler; it does no I/O before it is started."""
        return self.handler_class(self.settings, name=self.name)


class Config(msgspec.Struct, frozen=True):
    """A checked configuration."""

    #: The file; None: the built-in defaults.
    source: Path | None
    server: ServerSettings
    #: The enabled entries, in the order of the file.
    handlers: tuple[HandlerEntry, ...]
    #: What still works but should be changed, each in one line.
    notes: tuple[str, ...] = ()
    #: What set `server.listen`: that key, `EMITD_LISTEN` or `--listen`.
    listen_key: str = "server.listen"


class ConfigSurvey(msgspec.Struct, frozen=True):
    """A configuration that may have problems, and everything known about it."""

    #: None if there are problems.
    config: Config | None
    problems: Sequence[Problem]
    #: The active entries without a problem.
    entries: tuple[HandlerEntry, ...]
    #: Finds handlers as the entries do.
    finder: HandlerFinder
    #: The type of each entry that has one, also of those that are off or wrong, by the entry's name.
    types: Mapping[str, str]
    #: The names of the entries with `enabled: false`.
    off: frozenset[str]


def load_config(
    path: Path | None = None, *, environ: Mapping[str, str] | None = None, listen: str | None = None
) -> Config:
    """Read a configuration file; None: the built-in defaults.

    `listen` overrides `EMITD_LISTEN` of `environ` (default: the process's), which overrides `server.listen`.
    An entry with `enabled: false` is checked without loading its handler's file, so that a broken handler can be
    switched off. Raises ConfigError with every problem.
    """
    survey = survey_config(path, environ=environ, listen=listen)
    if survey.config is None:
        raise ConfigError(survey.problems)
    return survey.config


def survey_config(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    listen: str | None = None,
    text: str | None = None,
    only_type: str = "",
) -> ConfigSurvey:
    """Read a configuration file as `load_config` does; `text` replaces the file's content.

    With `only_type`, a built-in type, only entries of that are made; no other code is loaded or run.
    """
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    if text is None:
        text = BUILT_IN_DEFAULTS if path is None else read_text(path, problems)
    loader = _Loader(path, environ, problems)
    loader.only_type = only_type
    overrides = {"EMITD_LISTEN": environ.get("EMITD_LISTEN") or None, "--listen": listen}
    config = None if text is None else loader.load(text, overrides)
    return ConfigSurvey(
        None if problems else config,
        ConfigError(problems).problems,
        loader.entries,
        loader.finder,
        loader.types,
        frozenset(loader.off),
    )


class _Loader:
    def __init__(self, path: Path | None, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._path = path
        self._environ = environ
        self._problems = problems
        self._base_dir = Path.cwd() if path is None else path.absolute().parent
        self._file = "built-in defaults" if path is None else str(path)
        self._reader = SettingsReader(self._file, self._base_dir, problems)
        self._notes: list[str] = []
        self._listen_key = "server.listen"
        #: The names of the active entries whose class serves jobs.
        self._job_sources: list[str] = []
        self.only_type = ""
        #: As in ConfigSurvey.
        self.finder = HandlerFinder([])
        self.entries: tuple[HandlerEntry, ...] = ()
        self.types: dict[str, str] = {}
        self.off: set[str] = set()

    def load(self, text: str, overrides: Mapping[str, str | None]) -> Config | None:
        document = read_yaml(text, self._file, self._problems, self._environ)
        if document is None or document.unreadable:
            return None
        if not self._reader.is_a(dict, document, "", f"the sections {', '.join(_SECTIONS)}"):
            return None
        self._reader.refuse_unknown(document, "", _SECTIONS)
        server = self._server(document.content.get("server", Value({}, 0)), overrides)
        self.finder = HandlerFinder(self._folders(document.content.get("handler_paths", Value([], 0))))
        line = document.key_lines.get("handlers", document.line)
        self.entries = self._handlers(document.content.get("handlers", Value({}, line)), line)
        if server is None:
            return None
        return Config(self._path, server, self.entries, tuple(self._notes), self._listen_key)

    def _server(self, section: Value, overrides: Mapping[str, str | None]) -> ServerSettings | None:
        content = section.content if isinstance(section.content, dict) else {}
        rest = {key: value for key, value in content.items() if key != "listen"}
        server = self._reader.read(
            ServerSettings, msgspec.structs.replace(section, content=rest) if content else section, "server"
        )
        if server is not None and server.loop is LoopKind.UVLOOP and not find_spec("uvloop"):
            found, expected = "found 'uvloop', which is not installed", "emitd[uvloop]"
            self._reader.add(content["loop"].line, "server.loop", found, expected)
        listen = read_listen(self._reader, content["listen"], self._base_dir) if "listen" in content else None
        if isinstance(listen, tuple) and server and not (server.access.tokens_file or server.access.jwt):
            for index, item in enumerate(content["listen"].content):
                key = item.content.get("identity") if isinstance(item.content, dict) else None
                if key is not None and key.content == "token":
                    path, found = f"server.listen[{index}].identity", "found 'token', and no token is known"
                    self._reader.add(key.line, path, found, "server.access.tokens_file or jwt")
        for name, address in overrides.items():
            if address is None:
                continue
            why, expected = address_problem(ListenEntry(address=address))
            if why:
                found = f"found {shown(address)}, which {why}"
                self._problems.append(Problem(file="", line=0, path=name, found=found, expected=expected))
            listen, self._listen_key = at_home(address, Path()), name
        if server is None or not section.is_whole():
            return None
        return server if listen is None else msgspec.structs.replace(server, listen=listen)

    def _folders(self, section: Value) -> list[HandlerFolder]:
        folders: list[HandlerFolder] = []
        if section.content is None or not self._reader.is_a(
            list, section, "handler_paths", "a list of folders"
        ):
            return folders
        for index, item in enumerate(section.content):
            path = f"handler_paths[{index}]"
            folder = self._reader.field(Path, item, path)
            if folder is None:
                continue
            shown = item.spelling if item.variables else str(folder)
            if folder.is_dir():
                folders.append(HandlerFolder(folder, shown))
            else:
                self._reader.add(item.line, path, f"there is no folder {shown}")
        return folders

    def _handlers(self, section: Value, line: int) -> tuple[HandlerEntry, ...]:
        if section.content is None and not section.unreadable:
            section = Value({}, line)
        if not self._reader.is_a(dict, section, "handlers", "a mapping of names to handlers", line):
            return ()
        content = section.content
        entries = [self._entry(name, value, section.key_lines[name]) for name, value in content.items()]
        if all(_is_off(value) for value in content.values()):
            self._reader.add(line, "handlers", "no handler is active", "at least one enabled entry")
        for name in self._job_sources[1:]:
            found = f"serves jobs, as '{self._job_sources[0]}' does; only one active handler may"
            self._reader.add(section.key_lines[name], f"handlers.{name}", found)
        return tuple(entry for entry in entries if entry is not None)

    def _entry(self, name: str, value: Value, line: int) -> HandlerEntry | None:
        """Return an active entry; None if it is off or has a problem."""
        path = f"handlers.{name}"
        type_ = value.content.get("type") if isinstance(value.content, dict) else None
        if type_ is not None and isinstance(type_.content, str) and not type_.variables:
            self.types[name] = type_.content
        if _is_off(value):
            self.off.add(name)
        if not _ENTRY_NAME.fullmatch(name):
            expected = "letters, digits, '_', '.' and '-'"
            self._reader.add(line, path, f"the name {name!r} will not do", expected)
        if not self._reader.is_a(dict, value, path, "a mapping with the key 'type'"):
            return None
        levels = value.content.get("levels")
        if levels is not None and levels.content == [] and not _is_off(value):
            self._reader.add(levels.line, f"{path}.levels", "is empty", "at least one level")
        handler_class = self._class(value, line, path)
        if handler_class is None:
            # Only the class knows which other keys there are; the common ones are checked.
            self._settings(HandlerSettings, Delivery.QUEUED, value, path, besides=value.content)
            return None
        delivery = handler_class.default_delivery
        settings = self._settings(handler_class.Settings, delivery, value, path, besides=["type"])
        if _is_off(value):
            return None
        if issubclass(handler_class, JobSource):
            self._job_sources.append(name)
        if settings is None or not value.is_whole():
            return None
        entry = HandlerEntry(name, handler_class, settings)
        return entry if self._can_be_built(entry, value) else None

    def _class(self, entry: Value, line: int, path: str) -> type[BaseLogHandler] | None:
        """Return the entry's class; None if it has a problem or should not be loaded."""
        type_ = entry.content.get("type")
        if type_ is None:
            self._reader.add(line, f"{path}.type", "is missing", _TYPE_EXPECTED)
            return None
        path = f"{path}.type"
        if not self._reader.is_a(str, type_, path, _TYPE_EXPECTED):
            return None
        if _is_off(entry) and type_.content not in BUILT_IN:
            return None
        if self.only_type and type_.content not in (self.only_type, BUILT_IN[self.only_type]):
            return None
        try:
            return self.finder.find(type_.content)
        except DiscoveryError as error:
            if type_.variables:
                self._reader.add(type_.line, path, f"found {type_.shown()}", _TYPE_EXPECTED)
            else:
                self._reader.add(type_.line, path, str(error), error.expected, error.nearest)
            return None

    def _settings(
        self,
        struct: type[HandlerSettings],
        default: Delivery,
        entry: Value,
        path: str,
        *,
        besides: Iterable[str],
    ) -> HandlerSettings | None:
        try:
            flat = _flat_keys(struct, entry)
            settings = self._reader.read(struct, entry, path, besides=[*besides, *flat])
            return self._with_flat(settings, default, entry, path, flat) if flat else settings
        except Exception as error:  # annotations and types of others may raise anything
            if not entry.is_whole():
                return None
            self._reader.add(entry.line, path, f"{struct.__name__} cannot be read: {_describe(error, entry)}")
            return None

    def _with_flat(
        self,
        settings: HandlerSettings | None,
        default: Delivery,
        entry: Value,
        path: str,
        flat: Sequence[str],
    ) -> HandlerSettings | None:
        """Return the settings with the keys of `delivery:` that are written next to it, the old form."""
        given = default if settings is None else settings.delivery or default
        kind = given if isinstance(given, Delivery) else given.kind
        form = ""
        for struct in (CommittedSettings, QueuedSettings):
            spelt = {new: old for old, new in flat_keys(struct).items() if old in flat}
            values = {new: entry.content[old] for new, old in spelt.items()}
            base = given if isinstance(given, struct) else None
            read: Any = self._reader.read(struct, Value(values, entry.line), path, base=base, spelt=spelt)
            if struct.kind is kind and settings is not None and read is not None:
                settings = msgspec.structs.replace(settings, delivery=read)
                form = ", ".join(f"{key}: {value.written()}" for key, value in values.items())
        if settings is not None:
            self._notes.append(
                f"{self._file}:{entry.line}: {path}: {', '.join(flat)} belong in `delivery:` now; "
                f"write `delivery: {{kind: {kind.value}{form and ', '}{form}}}`"
            )
        return settings

    def _can_be_built(self, entry: HandlerEntry, value: Value) -> bool:
        """Build the handler once: its constructor does no I/O, so a failure is a problem of the entry or the class."""
        try:
            entry.build()
        except (Exception, SystemExit) as error:
            call = f"{entry.handler_class.__name__}(settings, name={entry.name!r})"
            found = f"{call} failed: {_describe(error, value)}"
            self._reader.add(value.content["type"].line, f"handlers.{entry.name}", found)
            return False
        return True


def _flat_keys(struct: type[HandlerSettings], entry: Value) -> Sequence[str]:
    """Return the keys of `delivery` that are written next to it; none if it is a mapping."""
    delivery = entry.content.get("delivery")
    if delivery is not None and isinstance(delivery.content, dict):
        return []
    known = {**flat_keys(CommittedSettings), **flat_keys(QueuedSettings)}
    return [key for key in known if key in entry.content and key not in struct.__struct_fields__]


def _is_off(entry: Value) -> bool:
    if not isinstance(entry.content, dict):
        return False
    try:
        return "enabled" in entry.content and convert(bool, entry.content["enabled"]) is False
    except msgspec.ValidationError:
        return False


def _describe(error: BaseException, entry: Value) -> str:
    """Describe an exception; only by its type if the entry has values of the environment."""
    hidden = f"{type(error).__name__}, whose message may show a value from {entry.variables}"
    return hidden if entry.variables else describe(error)
