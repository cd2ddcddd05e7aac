"""From YAML values to a settings struct: each bad field is told, and no exception comes through."""

from enum import IntEnum
from pathlib import Path

import msgspec
import pytest

from emitd_handlers.settings import HandlerSettings
from emitd_server.config.settings_reader import SettingsReader
from emitd_server.config.yaml_document import read_yaml
from emitd_server.errors import Problem


class Colour(IntEnum):
    RED = 1
    BLUE = 2


class PaintSettings(HandlerSettings, frozen=True, kw_only=True):
    colour: Colour = Colour.RED
    folder: Path = Path("paint")
    names: tuple[str, ...] = ()
    limit: int = 3

    def __post_init__(self) -> None:
        if len(self.names) > self.limit:
            raise ValueError(f"names: {', '.join(self.names)} are more than {self.limit}")


def read(text: str, **environ: str) -> tuple[PaintSettings | None, list[str]]:
    problems: list[Problem] = []
    value = read_yaml(text, "", problems, environ)
    assert value is not None
    settings = SettingsReader("", Path("/base"), problems).read(PaintSettings, value, "p")
    return settings, [f"{problem.path}: {problem.found}; {problem.expected}" for problem in problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colour: 7", "p.colour: found 7; one of 1, 2"),
        ("levels: [[INFO]]", "p.levels[0]: found a list; one of DEBUG"),
        ("levels: [7, ~]", "p.levels[0]: found 7; one of DEBUG"),
        ("limit: many", "p.limit: found 'many'; int"),
    ],
)
def test_a_bad_field_does_not_hide_the_next(text: str, expected: str) -> None:
    """Whatever is in it, it is one problem at its own key, and the other fields are read."""
    settings, problems = read(f"{text}\ndelivery: {{kind: queued, max_records: 0}}\n")
    assert settings is None
    assert any(problem.startswith(expected) for problem in problems)
    assert "p.delivery.max_records: found 0; int >= 1" in problems


def test_an_unknown_home_is_refused() -> None:
    """A folder of that name in the configuration's would be a wrong answer."""
    settings, (problem,) = read("folder: ~nobody-of-this-name/x")
    assert settings is None
    assert problem.startswith("p.folder: it begins with a ~ whose home folder is not known; expected a path")
    settings, _ = read("folder: ./~nobody-of-this-name/x")
    assert settings is not None
    assert settings.folder == Path("/base/~nobody-of-this-name/x")


def test_a_struct_s_own_check_shows_no_secret() -> None:
    """Its message may hold any of the values."""
    assert read("names: [a, b, c, d]")[1] == ["p: names: a, b, c, d are more than 3; "]
    settings, (problem,) = read("names: [a, b, c, '${S}']", S="hush")
    assert settings is None
    assert problem == "p: found a value from ${S}: PaintSettings refuses it; "


def test_a_struct_is_not_made_of_what_could_not_be_read() -> None:
    """Its own check never sees a stand-in."""
    settings, problems = read("limit: .inf\nnames: [a, b]\n")
    assert settings is None
    assert len(problems) == 1


def test_settings_are_read() -> None:
    """Each field by its own rule."""
    settings, problems = read("colour: 2\nfolder: x\nnames: [a]\nlevels: [INFO]\n")
    assert problems == []
    assert settings is not None
    assert (settings.colour, settings.folder, settings.names) == (Colour.BLUE, Path("/base/x"), ("a",))
    assert msgspec.structs.asdict(settings)["limit"] == 3
