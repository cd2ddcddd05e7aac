"""The configuration: every problem at once, each with its place; and the handlers that entries name."""

from pathlib import Path

import pytest
from emitd_handlers.record import Level
from emitd_handlers.settings import Delivery
from emitd_server.config import Config, ConfigError, load_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path


def load(folder: Path, text: str, **environ: str) -> Config:
    file = folder / "c.yml"
    file.write_text(text)
    return load_config(file, environ=environ)


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environ)
    return [str(problem).removeprefix(str(folder) + "/") for problem in caught.value.problems]


GOOD = "handlers: {d: {type: discard}}\n"


def test_all_problems_are_told_at_once(folder: Path) -> None:
    """Each with file, line, path, what was found, what was expected and the nearest known key."""
    text = """\
server:
  listn: 127.0.0.1:1
  idempotency_window: many
  limits: {max_labels: 0, max_json_depth: -1}
servr: {}
handlers:
  a: {type: consol}
  b: {type: discard, levels: [INFOO, INFO], enabld: true}
  c: {levels: [INFO]}
  d: {type: discard, delivery: maybe}
"""
    known = (
        "type, enabled, levels, delivery, timeout_seconds, max_in_flight, queue_size, overflow, block_seconds, "
        "batch_size, max_retries, retry_initial_seconds, retry_max_seconds"
    )
    assert problems(folder, text) == [
        "c.yml:2: server.listn: unknown key 'listn'; expected one of listen, idempotency_window, "
        "watchdog_seconds, limits, watch, shutdown; did you mean 'listen'?",
        "c.yml:3: server.idempotency_window: found 'many'; expected int",
        "c.yml:4: server.limits.max_labels: found 0; expected int >= 1",
        "c.yml:4: server.limits.max_json_depth: found -1; expected int >= 1",
        "c.yml:5: servr: unknown key 'servr'; expected one of server, handler_paths, handlers; "
        "did you mean 'server'?",
        "c.yml:7: handlers.a.type: unknown handler type 'consol'; it is neither built in nor 'module.Class'; "
        "did you mean 'console'?",
        f"c.yml:8: handlers.b.enabld: unknown key 'enabld'; expected one of {known}; did you mean 'enabled'?",
        "c.yml:8: handlers.b.levels[0]: found 'INFOO'; expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, "
        "AUDIT, JOB_STATUS; did you mean 'INFO'?",
        "c.yml:9: handlers.c.type: is missing; expected a handler's type, such as console",
        "c.yml:10: handlers.d.delivery: found 'maybe'; expected one of committed, queued",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("handlers: {d: {type: discard}}\nhandlers: {}\n", "handlers: the key 'handlers' stands here again"),
        ("handlers: [\n", "not YAML"),
        ("- a\n", "found a list"),
        ("handlers: 7\n", "handlers: found 7; expected a mapping"),
        ("handlers: {d: 7}\n", "handlers.d: found 7; expected a mapping"),
        ("handlers: {'a b': {type: discard}}\n", "the name 'a b' will not do"),
        ("handlers: {d: {type: discard, levels: INFO}}\n", "found 'INFO'; expected a list of levels"),
        ("handlers: {d: {type: discard, levels: []}}\n", "handlers.d.levels: is empty"),
        ("handlers: {d: {type: discard, enabled: false}}\n", "no handler is active"),
        ("handlers: {}\n", "no handler is active"),
        ("", "no handler is active"),
        (GOOD + "server: {listen: nowhere}\n", "found 'nowhere'; expected HOST:PORT"),
        (GOOD + "server: {listen: '127.0.0.1:99999'}\n", "expected HOST:PORT"),
        (GOOD + "server: 7\n", "server: found 7; expected a mapping"),
        (GOOD + "server: {watch: {heartbeat_seconds: 0}}\n", "found 0; expected float > 0"),
        (GOOD + "handler_paths: [nowhere]\n", "handler_paths[0]: there is no folder"),
        (GOOD + "handler_paths: here\n", "found 'here'; expected a list of folders"),
        ("handlers: {c: {type: console, timezone: Nowhere/City}}\n", "Nowhere/City"),
        ("handlers: {j: {type: database_job, database: 'mysql://x'}}\n", "handlers.j.database"),
        ("handlers: {a: {type: json_audit, path: 7}}\n", "handlers.a.path: found 7; expected text"),
        ("handlers: {d: {type: discard, queue_size: '${NO}'}}\n", "the environment has no variable 'NO'"),
    ],
)
def test_a_problem_is_told_in_one_line(folder: Path, text: str, expected: str) -> None:
    """Whatever is wrong, one line says what and where."""
    (line,) = problems(folder, text)
    assert line.startswith("c.yml:")
    assert expected in line


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    """A missing file and one that is not UTF-8 are problems, not tracebacks."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(folder / "none.yml", environ={})
    (folder / "latin.yml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 3"):
        load_config(folder / "latin.yml", environ={})


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    """Wherever the service is started."""
    config = load(folder, "handlers: {a: {type: json_audit, path: logs/a.log}}\n")
    assert config.handlers[0].settings.path == folder / "logs" / "a.log"  # type: ignore[attr-defined]


def test_without_a_file_paths_are_relative_to_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The built-in defaults have the three handlers."""
    monkeypatch.chdir(folder)
    config = load_config(None, environ={})
    assert [entry.name for entry in config.handlers] == ["console", "audit", "jobs"]
    assert config.handlers[1].settings.path == folder / "logs" / "audit.json.log"  # type: ignore[attr-defined]


def test_the_address_is_overridden_in_order(folder: Path) -> None:
    """The command line over the environment over the file; each is checked."""
    file = folder / "c.yml"
    file.write_text(GOOD + "server: {listen: '127.0.0.1:1'}\n")
    assert load_config(file, environ={}).server.listen == "127.0.0.1:1"
    environ = {"EMITD_LISTEN": "[::1]:2"}
    assert load_config(file, environ=environ).server.listen == "[::1]:2"
    assert load_config(file, environ=environ, listen="unix:/tmp/x").server.listen == "unix:/tmp/x"
    with pytest.raises(ConfigError, match="--listen: found 'x'; expected HOST:PORT"):
        load_config(file, environ={}, listen="x")


def test_the_environment_fills_values_and_stays_secret(folder: Path) -> None:
    """`${NAME}` is replaced, `$${` is not, and what came from there is never shown."""
    text = "handlers: {a: {type: json_audit, log_id: 'x-${NAME}-$${NAME}'}}\n"
    settings = load(folder, text, NAME="hush").handlers[0].settings
    assert settings.log_id == "x-hush-${NAME}"  # type: ignore[attr-defined]
    (line,) = problems(folder, "handlers: {j: {type: database_job, database: '${NAME}'}}\n", NAME="hush")
    assert "hush" not in line
    assert "a value from the environment" in line


def test_common_keys_reach_the_handler(folder: Path) -> None:
    """Levels by name, delivery by value; a disabled entry stays out."""
    text = """\
handlers:
  a: {type: discard, levels: [INFO, AUDIT], delivery: committed}
  b: {type: discard, enabled: false}
"""
    (entry,) = load(folder, text).handlers
    handler = entry.build()
    assert handler.name == "a"
    assert handler.levels == {Level.INFO, Level.AUDIT}
    assert handler.settings.delivery is Delivery.COMMITTED


def test_a_second_source_of_jobs_is_a_problem(folder: Path) -> None:
    """Exactly one active handler may serve jobs."""
    one = "{type: database_job, database: 'sqlite:///a.db'}"
    (line,) = problems(folder, f"handlers:\n  a: {one}\n  b: {one}\n")
    assert line == "c.yml:3: handlers.b: serves jobs, as 'a' does; only one active handler may"


HANDLER = """\
from emitd_handlers import BaseLogHandler, HandlerSettings

class MineSettings(HandlerSettings, frozen=True, kw_only=True):
    url: str

class Mine(BaseLogHandler):
    Settings = MineSettings

    def emit(self, record):
        pass

class Abstract(BaseLogHandler):
    pass

class Picky(BaseLogHandler):
    def __init__(self):
        super().__init__()

    def emit(self, record):
        pass

class Loose(Mine):
    Settings = dict

NoHandler = int
"""


def test_a_handler_is_a_file_and_an_entry(folder: Path) -> None:
    """No import, no registration call."""
    (folder / "mine" / "my.py").write_text(HANDLER)
    config = load(folder, "handler_paths: [mine]\nhandlers: {m: {type: my.Mine, url: 'http://x'}}\n")
    assert type(config.handlers[0].build()).__name__ == "Mine"


def test_a_handler_by_dotted_path(folder: Path) -> None:
    """Whatever can be imported."""
    config = load(folder, "handlers: {m: {type: emitd_handlers.testing.InMemoryHandler}}\n")
    assert config.handlers[0].handler_class.__name__ == "InMemoryHandler"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{type: my.Mine}", "handlers.m.url: is missing; expected str"),
        ("{type: my.Mine, url: x, speed: 3}", "handlers.m.speed: unknown key 'speed'"),
        ("{type: my.Mien, url: x}", "my.py has no class 'Mien'; did you mean 'Mine'?"),
        ("{type: my.Abstract}", "my.py is abstract: it does not define emit"),
        ("{type: my.NoHandler}", "my.py is no BaseLogHandler"),
        ("{type: my.Loose}", "does not derive from HandlerSettings"),
        ("{type: my.Picky}", "Picky(settings, name='m') failed: TypeError"),
        (
            "{type: broken.X}",
            "broken.py:2: cannot be imported: ModuleNotFoundError: No module named 'nothing'",
        ),
        ("{type: syntax.X}", "syntax.py:1: cannot be imported: SyntaxError"),
        ("{type: mye.Mine}", "there is no module 'mye'"),
    ],
)
def test_a_handler_that_will_not_do_is_named_with_its_file(folder: Path, entry: str, expected: str) -> None:
    """The problem names the file and the entry."""
    (folder / "mine" / "my.py").write_text(HANDLER)
    (folder / "mine" / "broken.py").write_text("x = 1\nimport nothing\n")
    (folder / "mine" / "syntax.py").write_text("def (\n")
    (line,) = problems(folder, f"handler_paths: [mine]\nhandlers: {{m: {entry}}}\n")
    assert line.startswith("c.yml:2: handlers.m")
    assert expected in line


def test_two_files_of_one_name_are_ambiguous(folder: Path) -> None:
    """Neither is taken by chance."""
    (folder / "yours").mkdir()
    for name in ("mine", "yours"):
        (folder / name / "my.py").write_text(HANDLER)
    (line,) = problems(folder, "handler_paths: [mine, yours]\nhandlers: {m: {type: my.Mine, url: x}}\n")
    assert "'my.Mine' is ambiguous" in line


def test_a_file_is_loaded_once(folder: Path) -> None:
    """Two entries of one file share its module."""
    (folder / "mine" / "my.py").write_text(HANDLER)
    entry = "{type: my.Mine, url: x}"
    config = load(folder, f"handler_paths: [mine]\nhandlers: {{a: {entry}, b: {entry}}}\n")
    assert config.handlers[0].handler_class is config.handlers[1].handler_class
