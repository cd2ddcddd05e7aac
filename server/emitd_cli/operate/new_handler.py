"""`emitd new-handler`: a handler to start from, its test, and its entry in the configuration."""

import argparse
import keyword
import os
import re
import unicodedata
from importlib import resources
from pathlib import Path
from string import Template

import msgspec
import yaml

from emitd_cli.errors import CommandError, Misuse
from emitd_cli.exit_codes import ExitCode
from emitd_cli.operate.config_text import CannotInsert, add_entry, add_folder
from emitd_server.config.discovery import BUILT_IN
from emitd_server.config.loader import BUILT_IN_DEFAULTS, ConfigSurvey, survey_config

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Plan(msgspec.Struct, frozen=True):
    """What is to be written, and where."""

    name: str
    class_name: str
    config: Path
    folder: Path
    #: The folder as the configuration names it.
    folder_in_config: str

    @property
    def handler(self) -> Path:
        """The handler's file."""
        return self.folder / f"{self.name}.py"

    @property
    def test(self) -> Path:
        """The test's file: in `tests`, beside the configuration."""
        return self.config.parent / "tests" / f"test_{self.name}_handler.py"

    def fill(self, template: str) -> str:
        """Return the text of a template for this handler."""
        text = (resources.files("emitd_cli") / "templates" / template).read_text(encoding="utf-8")
        return Template(text).substitute(
            name=self.name,
            class_name=self.class_name,
            settings_name=f"{self.class_name.removesuffix('Handler')}Settings",
            file=f"{self.folder_in_config}/{self.handler.name}",
            test=f"tests/{self.test.name}",
            folder_expression=_expression(self.folder, self.test.parent),
        )


def run(options: argparse.Namespace) -> int:
    """Write the files and the entry; return 0, or 1 where the entry could only be printed."""
    plan = _plan(options)
    _refuse_what_is_there(plan)
    texts = {plan.handler: plan.fill("handler.py.txt"), plan.test: plan.fill("test_handler.py.txt")}
    entry = plan.fill("entry.yml.txt")
    for file, text in texts.items():
        _write(file, text)
        print(f"wrote {file}")
    try:
        print(_configure(plan, entry))
    except CannotInsert as error:
        print(f"\n{plan.config} is as it was: {error}\nAdd this to it:\n")
        print(_section_text(plan, entry))
        return ExitCode.BAD
    print(f"\nTry it:  emitd check-config {plan.config}\n         pytest {plan.test}")
    return ExitCode.GOOD


def _plan(options: argparse.Namespace) -> Plan:
    name: str = options.name
    _check_name(name)
    config = Path(options.config)
    folder = Path(options.folder) if options.folder else config.parent / "handlers"
    inside = os.path.relpath(folder.absolute(), config.absolute().parent)
    shown = str(folder.absolute()) if inside.startswith("..") else inside
    return Plan(name, _class_name(name), config, folder, shown.replace(os.sep, "/"))


def _check_name(name: str) -> None:
    """Raise Misuse for a name that cannot be the name of a module, a class and an entry."""
    if not _NAME.fullmatch(name):
        raise Misuse(
            f"NAME: '{name}' will not do; use lower-case letters, digits and '_', beginning with a letter, "
            f"such as '{_similar(name)}'",
            field="NAME",
        )
    if keyword.iskeyword(name):
        raise Misuse(
            f"NAME: '{name}' is a word of Python's own; use another, such as '{name}_log'", field="NAME"
        )
    if name.startswith("test"):
        raise Misuse(
            f"NAME: '{name}' begins as tests do, and pytest would take the handler for one; use another, such as "
            f"'my_{name}'",
            field="NAME",
        )
    if name in BUILT_IN:
        raise Misuse(
            f"NAME: '{name}' is a built-in handler; use another name, such as 'my_{name}'", field="NAME"
        )


def _similar(name: str) -> str:
    """Return a name that will do and is like `name`; where there is none, any."""
    plain = (
        unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    )  # letters without their dots
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()).strip("_")
    return words if _NAME.fullmatch(words) else "slack"


def _class_name(name: str) -> str:
    words = name.removesuffix("_handler").split("_")
    return "".join(word.capitalize() for word in words) + "Handler"


def _refuse_what_is_there(plan: Plan) -> None:
    for file in (plan.handler, plan.test):
        if file.exists() or file.is_symlink():
            raise CommandError(f"{file} is there already; nothing was written. Choose another name")
    if plan.config.exists() and plan.name in survey_config(plan.config).types:
        raise CommandError(
            f"{plan.config} has an entry '{plan.name}' already; nothing was written. Choose another name"
        )


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}") from error


def _configure(plan: Plan, entry: str) -> str:
    """Add the entry to the configuration; return what was done. Raises CannotInsert, and then changes nothing."""
    if not plan.config.exists():
        defaults = (
            "# What emitd runs on without a configuration, and a handler of your own.\n" + BUILT_IN_DEFAULTS
        )
        _write(plan.config, _with_entry(plan, defaults, entry))
        return f"wrote {plan.config}: the built-in defaults, and the entry '{plan.name}'"
    try:
        # Bytes, so that line ends stay as they are.
        text = plan.config.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotInsert(f"it cannot be read: {error}") from error
    changed = _with_entry(plan, text, entry)
    try:
        plan.config.write_bytes(changed.encode("utf-8"))
    except OSError as error:
        raise CannotInsert(f"it cannot be written: {error.strerror}") from error
    return f"added the entry '{plan.name}' to {plan.config}"


def _with_entry(plan: Plan, text: str, entry: str) -> str:
    """Return the configuration with the entry; checked, so that it says what it said before and the entry."""
    before = survey_config(plan.config, text=text)
    if before.problems:
        more = f" (and {len(before.problems) - 1} more)" if len(before.problems) > 1 else ""
        raise CannotInsert(f"it has a problem of its own{more}: {before.problems[0]}")
    changed = text.replace("\r\n", "\n")
    try:
        if plan.folder.resolve() not in {folder.path.resolve() for folder in before.finder.folders}:
            changed = add_folder(changed, plan.folder_in_config)
        changed = add_entry(changed, entry)
    except yaml.YAMLError as error:
        raise CannotInsert("it cannot be read as YAML") from error
    if "\r\n" in text:
        changed = changed.replace("\n", "\r\n")
    after = survey_config(plan.config, text=changed)
    if after.problems:
        raise CannotInsert(f"with the entry it would have a problem: {after.problems[0]}")
    if plan.name not in after.types or _said(after, besides=plan.name) != _said(before):
        raise CannotInsert("the entry cannot be put in without changing what else it says")
    return changed


def _said(survey: ConfigSurvey, besides: str = "") -> object:
    """Return what a configuration says beside one entry. As values: a file that is loaded anew has new classes."""
    server = survey.config and survey.config.server
    settings = [(entry.name, msgspec.structs.asdict(entry.settings)) for entry in survey.entries]
    types = {name: type_name for name, type_name in survey.types.items() if name != besides}
    return server, types, survey.off, [said for said in settings if said[0] != besides]


def _section_text(plan: Plan, entry: str) -> str:
    return add_entry(add_folder("", plan.folder_in_config), entry)


def _expression(folder: Path, test_folder: Path) -> str:
    """Return the Python expression by which a test in `test_folder` names `folder`."""
    steps = Path(os.path.relpath(folder.absolute(), test_folder.absolute())).parts
    ups = sum(1 for step in steps if step == "..")
    path = "/".join(steps[ups:])
    return f'Path(__file__).parents[{ups}] / "{path}"' if path else f"Path(__file__).parents[{ups}]"
