"""The configuration of a service: `logging_config.yml` read, checked, and made into typed settings.

Parsing, validating and constructing are three steps: `read_yaml`, `load_config`, `HandlerEntry.build`. All
problems of a file are reported at once.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.job import JobSource
from emitd_handlers.settings import HandlerSettings

from emitd_server.config_problems import ConfigError, Problem, nearest
from emitd_server.discovery import DiscoveryError, HandlerFinder
from emitd_server.settings import ServerSettings
from emitd_server.settings_reader import SettingsReader
from emitd_server.yaml_document import Value, read_text, read_yaml

__all__ = ["BUILT_IN_DEFAULTS", "Config", "ConfigError", "HandlerEntry", "Problem", "load_config"]

#: What a service without a configuration file runs on; paths are relative to the working directory.
BUILT_IN_DEFAULTS = """\
handlers:
  console: {type: console,      levels: [DEBUG, INFO, WARNING, ERROR, CRITICAL]}
  audit:   {type: json_audit,   levels: [AUDIT],      path: logs/audit.json.log}
  jobs:    {type: database_job, levels: [JOB_STATUS], database: sqlite:///logs/jobs.db}
"""
_SECTIONS = ("server", "handler_paths", "handlers")
_ENTRY_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_VARIABLE = re.compile(r"\$(\$)?\{([^}]*)\}")
_ADDRESS = re.compile(r"unix:.+|(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):(\d{1,5})")
_ADDRESS_EXPECTED = "HOST:PORT, [IPV6]:PORT or unix:PATH"


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


def load_config(
    path: Path | None = None, *, environ: Mapping[str, str] | None = None, listen: str | None = None
) -> Config:
    """Read a configuration file; None: the built-in defaults.

    `listen` overrides `EMITD_LISTEN` of `environ` (default: the process's), which overrides `server.listen`.
    Raises ConfigError with every problem.
    """
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    text = BUILT_IN_DEFAULTS if path is None else read_text(path, problems)
    config = None
    if text is not None:
        loader = _Loader(path, environ, problems)
        config = loader.load(text, {"EMITD_LISTEN": environ.get("EMITD_LISTEN"), "--listen": listen})
    if config is None or problems:
        raise ConfigError(problems)
    return config


class _Loader:
    def __init__(self, path: Path | None, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._path = path
        self._environ = environ
        self._problems = problems
        self._base_dir = Path.cwd() if path is None else path.absolute().parent
        self._file = "built-in defaults" if path is None else str(path)
        self._reader = SettingsReader(self._file, self._base_dir, problems)

    def load(self, text: str, overrides: Mapping[str, str | None]) -> Config | None:
        document = read_yaml(text, self._file, self._problems, self._expand)
        if document is None:
            return None
        if not isinstance(document.content, dict):
            self._reader.add(
                document.line, "", f"found {document.shown()}", f"the sections {', '.join(_SECTIONS)}"
            )
            return None
        for key, line in document.key_lines.items():
            if key not in _SECTIONS:
                known = ", ".join(_SECTIONS)
                self._reader.add(
                    line, key, f"unknown key '{key}'", f"one of {known}", nearest(key, _SECTIONS)
                )
        server = self._server(document.content.get("server", Value({}, 0)), overrides)
        finder = HandlerFinder(self._folders(document.content.get("handler_paths", Value([], 0))))
        handlers = self._handlers(document, finder)
        return Config(self._path, server, handlers) if server is not None else None

    def _server(self, section: Value, overrides: Mapping[str, str | None]) -> ServerSettings | None:
        server = self._reader.read(ServerSettings, section, "server")
        if server is None:
            return None
        line = (
            section.content["listen"].line
            if isinstance(section.content, dict) and "listen" in section.content
            else 0
        )
        self._check_address(server.listen, line, "server.listen")
        for name, address in overrides.items():
            if address:
                self._check_address(address, 0, name)
                server = msgspec.structs.replace(server, listen=address)
        return server

    def _check_address(self, address: str, line: int, path: str) -> None:
        match = _ADDRESS.fullmatch(address)
        if match is None or int(match[2] or 0) > 65_535:
            self._reader.add(line, path, f"found {address!r}", _ADDRESS_EXPECTED)

    def _folders(self, section: Value) -> list[Path]:
        items = section.content
        if not isinstance(items, list) or not all(isinstance(item.content, str) for item in items):
            self._reader.add(section.line, "handler_paths", f"found {section.shown()}", "a list of folders")
            return []
        folders: list[Path] = []
        for index, item in enumerate(items):
            folder = self._base_dir / Path(item.content).expanduser()
            folders.append(folder)
            if not folder.is_dir():
                self._reader.add(item.line, f"handler_paths[{index}]", f"there is no folder {folder}")
        return folders

    def _handlers(self, document: Value, finder: HandlerFinder) -> tuple[HandlerEntry, ...]:
        section = document.content.get("handlers", Value({}, document.line))
        if not isinstance(section.content, dict):
            self._reader.add(
                section.line, "handlers", f"found {section.shown()}", "a mapping of names to handlers"
            )
            return ()
        before = len(self._problems)
        entries = [
            self._entry(name, value, section.key_lines[name], finder)
            for name, value in section.content.items()
        ]
        active = [entry for entry in entries if entry is not None and entry.settings.enabled]
        if not active and len(self._problems) == before:
            self._reader.add(section.line, "handlers", "no handler is active", "at least one enabled entry")
        self._refuse_two_job_sources(active, section)
        return tuple(active)

    def _entry(self, name: str, value: Value, line: int, finder: HandlerFinder) -> HandlerEntry | None:
        path = f"handlers.{name}"
        if not _ENTRY_NAME.fullmatch(name):
            self._reader.add(
                line, path, f"the name {name!r} will not do", "letters, digits, '_', '.' and '-'"
            )
        if not isinstance(value.content, dict):
            self._reader.add(value.line, path, f"found {value.shown()}", "a mapping with the key 'type'")
            return None
        type_value = value.content.get("type")
        if type_value is None:
            self._reader.add(line, f"{path}.type", "is missing", "a handler's type, such as console")
            return None
        try:
            handler_class = finder.find(str(type_value.content))
        except DiscoveryError as error:
            self._reader.add(type_value.line, f"{path}.type", str(error), near=error.nearest)
            return None
        settings = self._reader.read(handler_class.Settings, value, path, besides={"type": str})
        if settings is None:
            return None
        if settings.levels == ():
            self._reader.add(value.content["levels"].line, f"{path}.levels", "is empty", "at least one level")
        entry = HandlerEntry(name, handler_class, settings)
        return entry if self._can_be_built(entry, type_value.line) else None

    def _can_be_built(self, entry: HandlerEntry, line: int) -> bool:
        """Constructors do no I/O: one that fails does so because of the entry or of itself."""
        try:
            entry.build()
        except Exception as error:
            name = entry.handler_class.__name__
            found = f"{name}(settings, name={entry.name!r}) failed: {type(error).__name__}: {error}"
            self._reader.add(line, f"handlers.{entry.name}", found)
            return False
        return True

    def _refuse_two_job_sources(self, active: list[HandlerEntry], section: Value) -> None:
        sources = [entry for entry in active if issubclass(entry.handler_class, JobSource)]
        for entry in sources[1:]:
            found = f"serves jobs, as '{sources[0].name}' does; only one active handler may"
            self._reader.add(section.key_lines[entry.name], f"handlers.{entry.name}", found)

    def _expand(self, text: str) -> tuple[str, bool]:
        """Replace `${NAME}` by the environment's value; `$${` stands for `${`."""
        secret = False

        def value_of(match: re.Match[str]) -> str:
            nonlocal secret
            if match[1]:
                return match[0][1:]
            if match[2] not in self._environ:
                raise ValueError(f"the environment has no variable '{match[2]}'")
            secret = True
            return self._environ[match[2]]

        return _VARIABLE.sub(value_of, text), secret
