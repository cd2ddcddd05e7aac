"""The configuration: every problem at once, each with its place; and the handlers that entries name."""

from pathlib import Path
from typing import Any

import pytest

from emitd_handlers.base import COMMON_LEVELS
from emitd_handlers.record import Level
from emitd_handlers.settings import CommittedSettings, Delivery, OverflowPolicy, QueuedSettings
from emitd_server.config.loader import Config, ConfigError, load_config

FIVE_BLOCK = QueuedSettings(max_records=5, overflow=OverflowPolicy.BLOCK)


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
    known = "type, enabled, required, levels, sources, exclude_sources, delivery"
    assert problems(folder, text) == [
        "c.yml:2: server.listn: unknown key 'listn'; expected one of listen, socket_mode, "
        "idempotency_window, recent_lines_bytes, redact, watchdog_seconds, access, limits, watch, audit, shutdown; "
        "did you mean 'listen'?",
        "c.yml:3: server.idempotency_window: found 'many'; expected int",
        "c.yml:4: server.limits.max_labels: found 0; expected int >= 1",
        "c.yml:4: server.limits.max_json_depth: found -1; expected int >= 1",
        "c.yml:5: servr: unknown key 'servr'; expected one of server, handler_paths, handlers; "
        "did you mean 'server'?",
        "c.yml:7: handlers.a.type: unknown handler type 'consol'; expected console, json_audit, database_job, "
        "file, discard, webhook or 'module.Class'; did you mean 'console'?",
        f"c.yml:8: handlers.b.enabld: unknown key 'enabld'; expected one of {known}; did you mean 'enabled'?",
        "c.yml:8: handlers.b.levels[0]: found 'INFOO'; expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, "
        "AUDIT, JOB_STATUS; did you mean 'INFO'?",
        "c.yml:9: handlers.c.type: is missing; expected a handler's type, such as console",
        "c.yml:10: handlers.d.delivery: found 'maybe'; expected one of committed, queued",
    ]


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        ("queued", QueuedSettings()),
        ("committed", CommittedSettings()),
        ("{kind: queued, max_records: 5, overflow: block}", FIVE_BLOCK),
        ("{kind: committed, timeout_seconds: 2}", CommittedSettings(timeout_seconds=2)),
        ("queued, queue_size: 5, timeout_seconds: 2", QueuedSettings(max_records=5)),
        ("committed, queue_size: 5, timeout_seconds: 2", CommittedSettings(timeout_seconds=2)),
    ],
)
def test_a_delivery_is_a_word_or_a_mapping(
    folder: Path, delivery: str, expected: CommittedSettings | QueuedSettings
) -> None:
    """The keys that stood beside the word in 0.1 still count, and a note says where they belong."""
    config = load(folder, f"handlers: {{d: {{type: discard, delivery: {delivery}}}}}\n")
    assert config.handlers[0].build().delivery == expected
    form = "max_records: 5" if expected.kind is Delivery.QUEUED else "timeout_seconds: 2"
    new = f"write `delivery: {{kind: {expected.kind.value}, {form}}}`"
    old = "handlers.d: timeout_seconds, queue_size belong in `delivery:` now"
    assert list(config.notes) == ([f"{folder}/c.yml:1: {old}; {new}"] if "queue_size" in delivery else [])


def test_the_old_form_is_rewritten_with_its_variable(folder: Path) -> None:
    """As it can be written into the file."""
    config = load(folder, "handlers:\n  d:\n    type: discard\n    queue_size: ${Q}\n", Q="7")
    assert config.handlers[0].build().delivery == QueuedSettings(max_records=7)
    assert config.notes[0].endswith('write `delivery: {kind: queued, max_records: "${Q}"}`')


def test_a_delivery_keeps_what_its_class_has_by_default(folder: Path) -> None:
    """A mapping changes only what it says; a word changes nothing; another kind has its own defaults."""
    for delivery, expected in {
        "queued": QueuedSettings(max_retries=12, retry_max_seconds=60.0),
        "{kind: queued, max_retries: 3}": QueuedSettings(max_retries=3, retry_max_seconds=60.0),
        "committed": CommittedSettings(),
    }.items():
        text = f"handlers: {{w: {{type: webhook, url: 'http://h/', delivery: {delivery}}}}}\n"
        assert load(folder, text).handlers[0].build().delivery == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("handlers: {d: {type: discard, delivery: {max_records: 5}}}\n", "delivery.kind: is missing"),
        (
            "handlers: {d: {type: discard, delivery: {kind: never}}}\n",
            "delivery.kind: found 'never'; expected one of",
        ),
        (
            "handlers: {d: {type: discard, delivery: {kind: committed, overflow: block}}}\n",
            "unknown key 'overflow'",
        ),
        (
            "handlers: {d: {type: discard, delivery: {kind: queued}, queue_size: 5}}\n",
            "unknown key 'queue_size'",
        ),
        (
            "handlers: {d: {type: discard, max_in_flight: 5}}\n",
            "unknown key 'max_in_flight'; expected one of",
        ),
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
        (
            GOOD + "server: {listen: nowhere}\n",
            "found 'nowhere', which has no port; expected HOST:PORT",
        ),
        (
            GOOD + "server: {listen: '127.0.0.1:99999'}\n",
            "which has the port '99999', which is no number from 0 to 65535; expected HOST:PORT",
        ),
        (GOOD + "server: 7\n", "server: found 7; expected a mapping"),
        (GOOD + "server: {watch: {heartbeat_seconds: 0}}\n", "found 0; expected float > 0"),
        (GOOD + "handler_paths: [nowhere]\n", "handler_paths[0]: there is no folder"),
        (GOOD + "handler_paths: here\n", "found 'here'; expected a list of folders"),
        (
            "handlers: {c: {type: console, timezone: Nowhere/City}}\n",
            "c: timezone: is no name of the IANA database",
        ),
        ("handlers: {j: {type: database_job, database: 'mysql://x'}}\n", "handlers.j.database"),
        ("handlers: {a: {type: json_audit, path: 7}}\n", "handlers.a.path: found int; expected text"),
        ("handlers: {d: {type: discard, queue_size: '${NO}'}}\n", "the environment has no variable 'NO'"),
        ("handlers: {d: {type: '${NO}'}}\n", "handlers.d.type: the environment has no variable 'NO'"),
        ("handlers: {c: {type: console, timezone: '${NO}'}}\n", "the environment has no variable 'NO'"),
        ("handlers: {j: {type: database_job, database: '${NO}'}}\n", "the environment has no variable 'NO'"),
        ("handlers: {d: {type: discard, levels: ['${NO}']}}\n", "levels[0]: the environment has no variable"),
        ("handlers: '${NO}'\n", "handlers: the environment has no variable 'NO'"),
        (GOOD + "handler_paths: '${NO}'\n", "handler_paths: the environment has no variable 'NO'"),
        (GOOD + "server: {watch: {max_watchers: '${NO}'}}\n", "the environment has no variable 'NO'"),
        (GOOD + "server: '${NO}'\n", "server: the environment has no variable 'NO'"),
        ("handlers: {d: '${NO}'}\n", "handlers.d: the environment has no variable 'NO'"),
        (GOOD + "handler_paths: ['${NO}']\n", "handler_paths[0]: the environment has no variable 'NO'"),
        (GOOD + "server: {listen: '${A}-${B}-$${C}'}\n", "has no variable 'A', 'B'"),
        ("'${NO}'\n", "the environment has no variable 'NO'"),
        ("handlers:\n", "no handler is active"),
        (
            "handlers: {d: {typ: discard}}\n",
            "handlers.d.type: is missing; expected a handler's type, such as",
        ),
        ("handlers: {d: {type: }}\n", "handlers.d.type: found nothing; expected a handler's type"),
        ("handlers: {d: {type: [discard]}}\n", "handlers.d.type: found a list; expected a handler's type"),
        ("handlers: {d: {type: discard, timeout_seconds: .inf}}\n", "expected a finite number"),
        (GOOD + "handler_paths: [7]\n", "handler_paths[0]: found int; expected text"),
        (
            GOOD + "handler_paths: [~nobody-of-this-name]\n",
            "handler_paths[0]: it begins with a ~ whose home folder",
        ),
        (GOOD + "server: {listen: '127.0.0.1:٣'}\n", "expected HOST:PORT"),
        (GOOD + '"two\\nlines\\e[2J": 1\n', r"unknown key 'two\nlines\u001b[2J'"),
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


def test_a_file_without_end_is_a_problem() -> None:
    """A device is read up to a limit, which the error names."""
    with pytest.raises(ConfigError, match="/dev/zero: has more than 8388608 bytes"):
        load_config(Path("/dev/zero"))


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
    assert load_config(file, environ={}).listen_key == "server.listen"
    environ = {"EMITD_LISTEN": "[::1]:2"}
    assert load_config(file, environ=environ).listen_key == "EMITD_LISTEN"
    assert load_config(file, environ=environ, listen="[::1]:3").listen_key == "--listen"
    assert load_config(file, environ=environ).server.listen == "[::1]:2"
    assert load_config(file, environ=environ, listen="unix:/tmp/x").server.listen == "unix:/tmp/x"
    assert load_config(file, environ={"EMITD_LISTEN": ""}).server.listen == "127.0.0.1:1"


@pytest.mark.parametrize("section", ["{listen: '127.0.0.1:1'}", "{listen: '127.0.0.1:1', listn: 1}"])
def test_an_address_from_outside_is_not_blamed_on_the_file(folder: Path, section: str) -> None:
    """And it is checked whatever else is wrong; an empty option is not the same as none."""
    file = folder / "c.yml"
    file.write_text(GOOD + f"server: {section}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={"EMITD_LISTEN": "x"}, listen="")
    expected = "expected HOST:PORT, [IPV6]:PORT (ports 0 to 65535) or unix:PATH"
    assert [str(problem) for problem in caught.value.problems][:2] == [
        f"EMITD_LISTEN: found 'x', which has no port; {expected}",
        f"--listen: found '', which has no port; {expected}",
    ]


def test_an_address_from_the_environment_stays_secret(folder: Path) -> None:
    """Not even a part of it is shown, though most addresses are no secrets."""
    for value in ("hush", "https://hush:1", "hush:x", "a:hush@b:1"):
        (line,) = problems(folder, GOOD + "server: {listen: '${NAME}'}\n", NAME=value)
        assert "server.listen: found a value from ${NAME}; expected HOST:PORT" in line
        assert "hush" not in line
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "c.yml", environ={"NAME": "h:1"}, listen="user:hush@h:1")
    assert "--listen: found '…@h:1', which has a user's name" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_socket_is_relative_to_the_file(folder: Path) -> None:
    """As every path in the file is; one given from outside is left as it is."""
    file = folder / "c.yml"
    file.write_text(GOOD + "server: {listen: 'unix:run/emitd.sock'}\n")
    assert load_config(file, environ={}).server.listen == f"unix:{folder}/run/emitd.sock"
    assert load_config(file, environ={}, listen="unix:run/x").server.listen == "unix:run/x"
    file.write_text(GOOD + "server: {listen: 'unix:///run/emitd.sock'}\n")
    assert load_config(file, environ={}).server.listen == "unix:///run/emitd.sock"


def test_a_home_folder_stands_in_every_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a log, a database, a folder of handlers, a socket, a key, and what comes from the environment."""
    monkeypatch.setenv("HOME", str(folder))
    text = """\
server: {listen: 'unix:~/e.sock'}
handler_paths: [~/mine]
handlers:
  a: {type: json_audit, path: ~/a.log, key: '${KEY}'}
  j: {type: database_job, database: 'sqlite:///~/j.db'}
  w: {type: webhook, url: 'http://h', ca_file: ~/ca.pem}
"""
    config = load(folder, text, KEY="~/key.pem")
    settings: list[Any] = [entry.settings for entry in config.handlers]
    assert config.server.listen == f"unix:{folder}/e.sock"
    assert (settings[0].path, settings[0].key) == (folder / "a.log", folder / "key.pem")
    assert settings[1].database.path == folder / "j.db"
    assert settings[2].ca_file == folder / "ca.pem"
    for given in ({"EMITD_LISTEN": "unix:~/x"}, {}):
        listen = None if given else "unix:~/x"
        assert load_config(folder / "c.yml", environ={"KEY": "", **given}, listen=listen).server.listen == (
            f"unix:{folder}/x"
        )


def test_a_merge_key_is_refused_by_name(folder: Path) -> None:
    """In an entry and among the entries; an alias as a value is taken."""
    text = "handlers:\n  a: &a {type: discard, delivery: &d {kind: committed}}\n  b: {<<: *a, delivery: *d}\n"
    assert problems(folder, text) == [
        "c.yml:3: handlers.b.<<: << merges nothing here; write the keys out, or use an alias as the value of a key",
        "c.yml:3: handlers.b.type: is missing; expected a handler's type, such as console",
    ]
    (line,) = problems(folder, "handlers:\n  a: &a {type: discard}\n  <<: {b: *a}\n")
    assert line.startswith("c.yml:3: handlers.<<: << merges nothing here")
    text = text.replace("<<: *a", "type: discard")
    assert [entry.build().delivery for entry in load(folder, text).handlers] == [CommittedSettings()] * 2


def test_the_environment_fills_values_and_stays_secret(folder: Path) -> None:
    """`${NAME}` is replaced, `$${` is not, and what came from there is never shown."""
    text = "handlers: {a: {type: json_audit, log_id: 'x-${NAME}-$${NAME}'}}\n"
    settings = load(folder, text, NAME="hush").handlers[0].settings
    assert settings.log_id == "x-hush-${NAME}"  # type: ignore[attr-defined]
    (line,) = problems(folder, "handlers: {j: {type: database_job, database: '${NAME}'}}\n", NAME="hush")
    assert "hush" not in line
    assert line.endswith(
        "database: found a value from ${NAME}; expected sqlite:///PATH or postgresql://USER@HOST:PORT/NAME"
    )


SECRETIVE = """\
from emitd_handlers import BaseLogHandler, HandlerSettings

class Settings(HandlerSettings, frozen=True, kw_only=True):
    token: str

class Secretive(BaseLogHandler):
    Settings = Settings

    def __init__(self, settings=None, *, name=""):
        raise ValueError(f"the token {settings.token} will not do")

    def emit(self, record):
        pass
"""


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "server: {listen: '${NAME}'}\n",
        GOOD + "handler_paths: ['${NAME}']\n",
        "handlers: {d: {type: '${NAME}'}}\n",
        "handlers: {d: {type: '${NAME}.Handler'}}\n",
        "handlers: {d: {type: discard, levels: ['${NAME}']}}\n",
        "handlers: {d: {type: discard, delivery: '${NAME}'}}\n",
        "handlers: {d: {type: discard, queue_size: '${NAME}'}}\n",
        "handlers: {d: {type: discard, enabled: '${NAME}'}}\n",
        "handlers: '${NAME}'\n",
        "handler_paths: [mine]\nhandlers: {m: {type: my.Secretive, token: 'x${NAME}'}}\n",
    ],
)
def test_no_problem_shows_what_the_environment_holds(folder: Path, text: str) -> None:
    """Wherever it stands in the file, and also when the code of a handler repeats it."""
    (folder / "mine" / "my.py").write_text(SECRETIVE)
    lines = problems(folder, text, NAME="hush")
    assert lines
    assert "hush" not in "".join(lines)


def test_no_problem_shows_what_should_be_a_secret(folder: Path) -> None:
    """A header that looks like a number, or a password in a URL that is none."""
    text = "handlers:\n  w: {type: webhook, url: 'http://h', headers: {A: 424242}}\n"
    text += "  j: {type: database_job, database: 'postgresql://u:424242@x@h'}\n"
    first, second = problems(folder, text)
    assert first.endswith("handlers.w.headers: found int; expected text, in quotes")
    assert "handlers.j.database: it is no URL of a database; expected sqlite:///PATH or postgresql" in second
    assert "424242" not in second


def test_a_folder_from_the_environment_is_named_as_it_is_spelt(folder: Path) -> None:
    """So that the file at fault can be found all the same."""
    (folder / "mine" / "my.py").write_text("x\n")
    text = "handler_paths: ['${NAME}']\nhandlers: {m: {type: my.Mine}}\n"
    (line,) = problems(folder, text, NAME=str(folder / "mine"))
    assert "${NAME}/my.py:1: cannot be imported: NameError" in line


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


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ("WARNING+", {Level.WARNING, Level.ERROR, Level.CRITICAL}),
        ("[WARNING+, AUDIT]", {Level.WARNING, Level.ERROR, Level.CRITICAL, Level.AUDIT}),
        ("[ERROR+, DEBUG, ERROR]", {Level.DEBUG, Level.ERROR, Level.CRITICAL}),
        ("DEBUG+", COMMON_LEVELS),
    ],
)
def test_a_level_with_a_plus_stands_for_those_above(folder: Path, levels: str, expected: set[Level]) -> None:
    """Alone or in a list; AUDIT and JOB_STATUS are never meant."""
    (folder / "c.yml").write_text(f"handlers: {{d: {{type: discard, levels: {levels}}}}}")
    (entry,) = load_config(folder / "c.yml", environ={}).handlers
    assert entry.build().levels == expected


def test_no_level_is_above_audit(folder: Path) -> None:
    """AUDIT and JOB_STATUS are kinds, not degrees: with a plus they are refused."""
    assert problems(folder, "handlers: {d: {type: discard, levels: AUDIT+}}\n") == [
        "c.yml:1: handlers.d.levels: found 'AUDIT+'; expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, AUDIT, "
        "JOB_STATUS; did you mean 'AUDIT'?"
    ]


def test_a_second_source_of_jobs_is_a_problem(folder: Path) -> None:
    """Exactly one active handler may serve jobs."""
    one = "{type: database_job, database: 'sqlite:///a.db'}"
    (line,) = problems(folder, f"handlers:\n  a: {one}\n  b: {one}\n")
    assert line == "c.yml:3: handlers.b: serves jobs, as 'a' does; only one active handler may"
    off = one.replace("}", ", enabled: false}")
    assert len(load(folder, f"handlers:\n  a: {one}\n  b: {off}\n").handlers) == 1


def test_problems_of_several_entries_and_within_one_come_together(folder: Path) -> None:
    """One problem does not hide the next: neither in its entry, nor between entries."""
    (folder / "mine" / "my.py").write_text(HANDLER)
    text = """\
handler_paths: [mine, nowhere]
handlers:
  a: {type: consol, queue_size: 0, of_its_own: 1}
  b: {type: database_job, levels: [], batch_size: 0}
  c: {type: database_job}
  d: {type: my.Abstract, overflow: never}
  e: {timeout_seconds: soon}
"""
    places = [line.partition(": ")[2].partition(":")[0] for line in problems(folder, text)]
    assert places == [
        "handler_paths[1]",
        *("handlers.a.type", "handlers.a.queue_size"),
        *("handlers.b.levels", "handlers.b.batch_size"),
        "handlers.c",
        *("handlers.d.type", "handlers.d.overflow"),
        *("handlers.e.type", "handlers.e.timeout_seconds"),
    ]


def test_no_active_handler_is_told_beside_the_rest(folder: Path) -> None:
    """Where every entry is switched off; an entry that cannot be read might be meant to be active."""
    lines = problems(folder, "handlers:\n  a: {type: discard, enabled: false, queue_size: 0}\n")
    assert [line.partition(": ")[2] for line in lines] == [
        "handlers: no handler is active; expected at least one enabled entry",
        "handlers.a.queue_size: found 0; expected int >= 1",
    ]
    (line,) = problems(folder, "handlers:\n  a: {type: discard, enabled: false}\n  b: {type: consol}\n")
    assert "unknown handler type" in line


@pytest.mark.parametrize(
    "entry",
    ["{type: broken.Handler, own: 1}", "{type: nowhere.Handler}", "{type: discard, levels: []}"],
)
def test_a_handler_that_is_switched_off_is_not_loaded(folder: Path, entry: str) -> None:
    """So that one whose file is broken can be switched off; the common keys are checked all the same."""
    (folder / "mine" / "broken.py").write_text("raise SystemExit\n")
    off = entry.replace("}", ", enabled: false}")
    text = f"handler_paths: [mine]\nhandlers:\n  d: {{type: discard}}\n  m: {off}\n"
    assert [entry.name for entry in load(folder, text).handlers] == ["d"]
    (line,) = problems(folder, text.replace("enabled: false", "enabled: false, queue_size: 0"))
    assert line == "c.yml:4: handlers.m.queue_size: found 0; expected int >= 1"


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

class Quitter(Mine):
    def __init__(self, settings=None, *, name=""):
        raise SystemExit(3)

class OddSettings(HandlerSettings, frozen=True, kw_only=True):
    url: "NowhereDefined" = None

class Odd(Mine):
    Settings = OddSettings

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
        ("{type: my.Quitter, url: x}", "Quitter(settings, name='m') failed: SystemExit: 3"),
        ("{type: my.Odd}", "OddSettings cannot be read: NameError: name 'NowhereDefined' is not defined"),
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
