"""`emitd handlers`: every handler that an entry can name, its origin, and the keys of its entry."""

import argparse
import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import msgspec

from emitd_cli.errors import ExitCode
from emitd_cli.operate.config import config_file
from emitd_cli.operate.setting_text import SettingText, describe_settings
from emitd_cli.terminal.output import one_line, print_result
from emitd_handlers.base import BaseLogHandler
from emitd_handlers.record import Level
from emitd_handlers.settings import HandlerSettings
from emitd_server.config.discovery import DiscoveryError, FoundHandler
from emitd_server.config.loader import ConfigSurvey, survey_config
from emitd_server.errors import describe

#: The greatest width of the text.
PLAIN_WIDTH = 110


class Listed(msgspec.Struct, frozen=True):
    """A handler in the list, as `--json` prints it."""

    type: str
    origin: str
    class_name: str = msgspec.field(default="", name="class")
    summary: str = ""
    problem: str = ""
    note: str = ""
    default_levels: tuple[str, ...] = ()
    default_delivery: str = ""
    settings: tuple[SettingText, ...] = ()
    #: Names of entries.
    used_by: tuple[str, ...] = ()


def run(options: argparse.Namespace) -> int:
    """Print the list; return 0, or 1 if the configuration, a file or an entry point is wrong."""
    path = config_file(options)
    with redirect_stdout(sys.stderr):  # files of handlers may print while they are loaded
        survey = survey_config(path)
        found = [*survey.finder.find_all()]
        found += _found_by_path(survey, {handler.type_name for handler in found})
        listed = [_list(handler, survey) for handler in found]
    common = describe_settings(HandlerSettings)
    if options.json:
        fields = {
            "configuration": None if path is None else str(path),
            "problems": [str(problem) for problem in survey.problems],
            "handlers": msgspec.to_builtins(listed),
            "common_settings": msgspec.to_builtins(common),
        }
        print_result(json.dumps(fields))
    else:
        print_result("\n".join(_lines(listed, common, survey, path)))
    # A built-in handler may lack the packages of an extra: that is no fault.
    faulty = any(handler.problem and handler.origin != "built in" for handler in listed)
    return ExitCode.BAD if survey.problems or faulty else ExitCode.GOOD


def _found_by_path(survey: ConfigSurvey, known: set[str]) -> Iterator[FoundHandler]:
    """Yield the classes that only the configuration names, by their dotted paths."""
    in_use = {type_name for name, type_name in survey.types.items() if name not in survey.off}
    for type_name in dict.fromkeys(survey.types.values()):
        if type_name in known:
            continue
        if type_name not in in_use:
            yield FoundHandler(type_name, "dotted path", note="not loaded, because its entries are off")
            continue
        try:
            yield FoundHandler(type_name, "dotted path", survey.finder.find(type_name))
        except DiscoveryError as error:
            yield FoundHandler(type_name, "not found", problem=str(error))


def _list(found: FoundHandler, survey: ConfigSurvey) -> Listed:
    entries = (
        [] if found.is_hidden else [name for name, kind in survey.types.items() if kind == found.type_name]
    )
    uses = tuple(f"{name} (off)" if name in survey.off else name for name in entries)
    cls = found.handler_class
    if cls is None:
        return Listed(found.type_name, found.origin, problem=found.problem, note=found.note, used_by=uses)
    common = {item.name: item for item in describe_settings(HandlerSettings)}
    try:
        every = describe_settings(cls.Settings)
        own = [item for item in every if item.name not in common]
        # A common key gets a line if the class changes its default.
        changed = [
            item for item in every if item.name in common and item.default != common[item.name].default
        ]
        settings = (*own, *changed)
        problem = ""
    except Exception as error:  # annotations of others may raise anything
        settings, problem = (), f"its settings cannot be read: {describe(error)}"
    return Listed(
        type=found.type_name,
        origin=found.origin,
        class_name=_class_path(cls),
        summary=(inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " "),
        problem=problem,
        default_levels=_names(cls.default_levels),
        default_delivery=cls.default_delivery.value,
        settings=settings,
        used_by=uses,
    )


def _class_path(cls: type[BaseLogHandler]) -> str:
    """Return a class's dotted path; only its name if it comes from a file, whose module has a private name."""
    private = cls.__module__.startswith("emitd_handler_file_")
    return cls.__qualname__ if private else f"{cls.__module__}.{cls.__qualname__}"


def _names(levels: Iterable[Level]) -> tuple[str, ...]:
    return tuple(level.name for level in sorted(levels))


def _lines(
    listed: Sequence[Listed], common: Sequence[SettingText], survey: ConfigSurvey, path: Path | None
) -> Iterator[str]:
    """Yield the list, wrapped to PLAIN_WIDTH, or to a narrower terminal."""
    width = min(PLAIN_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else PLAIN_WIDTH
    for handler in listed:
        yield one_line(f"{handler.type}  ({handler.origin})")
        for label, text in _rows(handler):
            start = f"  {label:<10}"
            yield textwrap.fill(
                one_line(text), max(width, 40), initial_indent=start, subsequent_indent=" " * 14
            )
        yield ""
    keys = ", ".join(setting.name for setting in common)
    yield textwrap.fill(f"Every entry also takes {keys}; --json describes them.", width)
    yield one_line(f"Entries are those of {path or 'the built-in defaults'}.")
    yield from map(str, survey.problems)


def _rows(handler: Listed) -> Iterator[tuple[str, str]]:
    """Yield the rows of a handler: a label and a text."""
    rows = {
        "": handler.summary,
        "problem": handler.problem,
        "note": handler.note,
        "class": handler.class_name,
        "used by": ", ".join(handler.used_by) or ("no entry" if handler.class_name else ""),
    }
    yield from ((label, text) for label, text in rows.items() if text)
    if handler.class_name:
        yield "levels", f"{' '.join(handler.default_levels)} by default"
        yield "delivery", f"{handler.default_delivery} by default"
        if not handler.settings:
            yield "settings", "none of its own"
    for index, setting in enumerate(handler.settings):
        shown = json.dumps(setting.default, ensure_ascii=False)
        default = "required" if setting.required else f"default {shown}"
        comment = f": {setting.comment}" if setting.comment else ""
        yield "" if index else "settings", f"{setting.name} ({setting.type}; {default}){comment}"
