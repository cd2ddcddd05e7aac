"""The shipped logging_config.yml: complete, commented, and in line with the settings structs."""

import re
from pathlib import Path

import msgspec
import yaml

from emitd_handlers.audit.handler import JsonAuditHandler
from emitd_handlers.discard import DiscardHandler
from emitd_handlers.file.handler import FileHandler
from emitd_handlers.jobs.handler import DatabaseJobHandler
from emitd_handlers.settings import CommittedSettings, Delivery, HandlerSettings, QueuedSettings
from emitd_handlers.webhook.handler import WebhookHandler
from emitd_server.config.discovery import BUILT_IN, HandlerFinder
from emitd_server.config.loader import BUILT_IN_DEFAULTS, load_config
from emitd_server.settings import ListenEntry, ServerSettings

FILE = Path(__file__).parents[2] / "logging_config.yml"


def full_text() -> str:
    """The file with every commented-out key switched on."""
    return re.sub(r"(?m)^(\s*)# (\s*[a-z_]+:(?: |$))", r"\1\2", FILE.read_text())


def full() -> dict[str, dict[str, dict[str, object]]]:
    document = yaml.safe_load(full_text())
    assert isinstance(document, dict)
    return document


def defaults_of(struct: type[msgspec.Struct]) -> dict[str, object]:
    fields = msgspec.structs.fields(struct)
    defaults = {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in fields
        if not field.required
    }
    builtins = msgspec.json.decode(msgspec.json.encode(defaults, enc_hook=str))
    assert isinstance(builtins, dict)
    return builtins


def test_it_loads_as_it_is() -> None:
    """The three handlers of the file are active, and nothing is wrong with it."""
    config = load_config(FILE, environ={})
    assert [entry.name for entry in config.handlers] == ["console", "audit", "jobs"]
    assert config.server == ServerSettings()


def test_it_loads_with_everything_switched_on(tmp_path: Path) -> None:
    """Each commented-out key is good as it stands."""
    (tmp_path / "handlers").mkdir()
    file = tmp_path / "full.yml"
    file.write_text(full_text())
    config = load_config(file, environ={})
    assert config.server == ServerSettings()
    assert len(config.handlers) == 6


def test_the_server_section_lists_every_key_with_its_default() -> None:
    """No key of the server is missing, none is made up, and the values are the defaults."""
    assert full()["server"] == defaults_of(ServerSettings)


def test_each_handler_lists_every_key_with_its_default() -> None:
    """Its own keys and the common ones; levels, delivery and required as its class has them."""
    finder = HandlerFinder([])
    for entry in full()["handlers"].values():
        handler_class = finder.find(str(entry.pop("type")))
        expected = defaults_of(handler_class.Settings)
        expected["levels"] = [level.name for level in sorted(handler_class.default_levels)]
        expected["required"] = handler_class in (JsonAuditHandler, DatabaseJobHandler)
        if handler_class is WebhookHandler:  # what it has unlike the common defaults
            expected["delivery"] = {"kind": "queued", "max_retries": 12, "retry_max_seconds": 60.0}
        else:
            is_committed = handler_class.default_delivery is Delivery.COMMITTED
            delivery = CommittedSettings if is_committed else QueuedSettings
            expected["delivery"] = {"kind": delivery.kind.value, **defaults_of(delivery)}
        if handler_class is DiscardHandler:  # the common keys only, and they stand above three times
            assert set(expected) == set(defaults_of(HandlerSettings))
            assert entry == {}
        elif handler_class in (WebhookHandler, FileHandler):  # what it has beyond or unlike the common keys
            mandatory = entry.pop("url" if handler_class is WebhookHandler else "path")
            assert str(mandatory).startswith(("https://", "logs/"))
            alike = ("levels", "required") + (("delivery",) if handler_class is FileHandler else ())
            common = defaults_of(HandlerSettings) | {key: expected[key] for key in alike}
            assert entry == {key: value for key, value in expected.items() if common.get(key, "") != value}
        else:
            assert entry == expected


def test_every_built_in_handler_is_shown() -> None:
    """Each short name stands in the file."""
    assert {entry["type"] for entry in full()["handlers"].values()} == set(BUILT_IN)


def test_every_key_has_a_comment() -> None:
    """One line, beside the key, says what it is."""
    keys = [line for line in full_text().splitlines() if re.match(r"\s*[a-z_]+:", line)]
    assert len(keys) > 60
    assert [line for line in keys if not re.search(r":.*\s# \S", line)] == []


def test_the_built_in_defaults_are_those_of_the_file() -> None:
    """A service without a file behaves as with the shipped one."""
    shipped = yaml.safe_load(FILE.read_text())
    assert yaml.safe_load(BUILT_IN_DEFAULTS)["handlers"] == shipped["handlers"]


def test_its_examples_of_listeners_are_good(tmp_path: Path) -> None:
    """They show every key of an entry."""
    examples = re.findall(r"(?m)^  # (- \{address:.*)$", FILE.read_text())
    file = tmp_path / "c.yml"
    file.write_text(
        "handlers: {d: {type: discard}}\nserver:\n  access: {tokens_file: tokens.yml}\n  listen:\n"
        + "".join(f"    {e}\n" for e in examples)
    )
    assert len(load_config(file, environ={}).server.listeners()) == len(examples) == 5
    keys = {key for example in yaml.safe_load("\n".join(examples)) for key in example}
    assert keys == {*ListenEntry.__struct_fields__}
