"""`ClientSettings`: what can be set of a client, by argument or by environment."""

import inspect
import math
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from emitd.base_client import MoreSettings
from emitd.runtime.backoff import Backoff
from emitd.settings import ClientSettings, Overflow, expand_home
from emitd.transport.channel import target_of

#: Another value than the default for each setting, as an argument and as a text of the environment.
VALUES: dict[str, tuple[Any, str]] = {
    "address": ("logs:1234", "logs:1234"),
    "tls": (True, "true"),
    **dict.fromkeys(("ca_file", "cert_file", "key_file", "token_file"), ("/x", "/x")),
    "token": ("secret", "secret"),
    "source": ("shop", "shop"),
    "level": ("WARNING", "WARNING"),
    "timeout": (2.5, "2.5"),
    "call_timeout": (3, "3"),
    "close_timeout": (0, "0"),
    "fork_wait": (0.25, "0.25"),
    "max_queue_records": (7, "7"),
    "max_queue_bytes": (8, "8"),
    "overflow": ("block(3)", "block(3)"),
    "batch_records": (9, "9"),
    "batch_bytes": (10, "10"),
    "linger": (0.5, "0.5"),
    "max_in_flight": (3, "3"),
    "backoff_initial": (0.2, "0.2"),
    "backoff_max": (30.0, "30"),
    "tick_interval": (0.5, "0.5"),
    "spool": ("/var/spool/shop", "/var/spool/shop"),
    "spool_records": ("all", "all"),
    "max_spool_bytes": (11, "11"),
    "unconfirmed_seconds": (12.0, "12"),
    "unconfirmed_records": (13, "13"),
    "report_interval": (14.0, "14"),
}
#: What they need besides: in `test_credentials` they are read.
FILES = ("ca_file", "cert_file", "key_file", "token_file")
FIELDS = ClientSettings.__struct_fields__
NUMBERS = [
    field.name for field in msgspec.structs.fields(ClientSettings) if isinstance(field.default, int | float)
]
SECONDS = [name for name in NUMBERS if isinstance(getattr(ClientSettings(), name), float)]
COUNTS = [name for name in NUMBERS if name not in SECONDS]


CLIENT_PAGE = Path(__file__).parents[3] / "docs" / "client.md"


def written(name: str) -> str:
    """Return a setting's default as the documentation writes it."""
    default = getattr(ClientSettings(), name)
    if name in FILES or name == "token":
        return "none"
    if name in ("source", "spool", "tls"):  # made out on the spot
        tls = "if `ca_file` or `cert_file` is set"
        return {"source": "the program's name", "spool": "in the user's state folder", "tls": tls}[name]
    if name in SECONDS:
        return f"{default:g} s"
    if name.endswith("_bytes"):
        return f"{default // 1024**2} MiB"
    return f"{default:,}" if name in COUNTS else f"`{default}`"


def read(environ: dict[str, str] | None = None, **given: Any) -> ClientSettings:
    return ClientSettings.read(given, environ or {})


EXPECTED = "; expected HOST:PORT, [IPV6]:PORT, unix:PATH, dns:///NAME:PORT, or several HOST:PORT with commas"


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all files of certificates and tokens be good, and none be missing."""
    monkeypatch.setattr(ClientSettings, "_credential_problems", lambda _: ())


@pytest.mark.usefixtures("no_files")
class TestReading:
    def test_every_setting_has_a_default(self) -> None:
        """So that a client needs no setting at all."""
        assert [field.name for field in msgspec.structs.fields(ClientSettings) if field.required] == []
        assert read(source="shop") == ClientSettings(source="shop")

    @pytest.mark.parametrize("name", FIELDS)
    def test_each_can_be_given_by_argument(self, name: str) -> None:
        """As what it is."""
        value, _ = VALUES[name]
        assert getattr(read(**{name: value}), name) == value != getattr(ClientSettings(), name)

    @pytest.mark.parametrize("name", FIELDS)
    def test_each_can_stand_in_the_environment(self, name: str) -> None:
        """As a text, under its name in capitals."""
        value, text = VALUES[name]
        assert getattr(read({f"EMITD_{name.upper()}": text}), name) == value

    @pytest.mark.parametrize("name", FIELDS)
    def test_an_argument_wins_over_the_environment(self, name: str) -> None:
        """And None is no argument, nor is an empty variable a setting."""
        value, text = VALUES[name]
        variable = f"EMITD_{name.upper()}"
        others = {
            "tls": "false",
            "address": "other:1",
            "level": "ERROR",
            "overflow": "block",
            "spool_records": "audit",
        }
        other = others.get(name, "5")
        assert getattr(read({variable: other}, **{name: value}), name) == value
        assert getattr(read({variable: text}, **{name: None}), name) == value
        assert getattr(read({variable: ""}, source="x"), name) == getattr(read(source="x"), name)

    def test_the_process_s_own_environment_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As it is when the client is made, not when the module was loaded."""
        monkeypatch.setenv("EMITD_LINGER", "0.75")
        assert ClientSettings.read({}).linger == 0.75

    def test_a_folder_may_be_a_path(self, tmp_path: Path) -> None:
        """That of the spool."""
        assert read(spool=tmp_path).spool == str(tmp_path)

    def test_a_home_folder_that_is_not_known_is_refused(self) -> None:
        """A folder of that name in the working one would be a wrong answer; so would one with a NUL."""
        for spool in ("~nobody-of-this-name/spool", "a\0b"):
            with pytest.raises(
                ValueError, match=r"^spool: '.*' is no path, or its home folder is not known$"
            ):
                read(spool=spool)
        assert read({"EMITD_SPOOL": "~/spool"}).spool == "~/spool"

    def test_they_cannot_be_changed(self) -> None:
        """A client reads them once."""
        with pytest.raises(AttributeError):
            read().linger = 1.0  # type: ignore[misc]


class TestRefusal:
    @pytest.mark.parametrize("name", ["tokn", "Address", "source "])
    def test_an_unknown_setting_is_refused_by_name(self, name: str) -> None:
        """Also without a value: a misspelt one must not pass for one that is not given."""
        for value in (1, None):
            with pytest.raises(TypeError, match=f"there is no setting '{name}'"):
                read(**{name: value})

    def test_an_unknown_variable_is_none_of_ours(self) -> None:
        """The server's begin with the same letters."""
        assert read({"EMITD_LISTEN": "127.0.0.1:0"}, source="x") == read(source="x")

    @pytest.mark.parametrize("name", FIELDS)
    def test_a_value_of_the_wrong_kind_names_the_setting(self, name: str) -> None:
        """And says what it was."""
        shown = "" if name == "token" else r", not \[1\]"
        with pytest.raises(ValueError, match=rf"^{name}: Expected .*{shown}$"):
            read(**{name: [1]})

    @pytest.mark.parametrize("name", NUMBERS)
    def test_a_text_that_is_no_number_names_the_variable(self, name: str) -> None:
        """It may be set far away from the program."""
        with pytest.raises(ValueError, match=f"^EMITD_{name.upper()}: Expected .*, not 'many'$"):
            read({f"EMITD_{name.upper()}": "many"})

    @pytest.mark.parametrize("name", NUMBERS)
    @pytest.mark.parametrize("value", ["5", True])
    def test_an_argument_is_not_read_as_a_text(self, name: str, value: object) -> None:
        """A number in quotes, or a truth value, is a mistake of the program's."""
        with pytest.raises(ValueError, match=f"^{name}: "):
            read(**{name: value})

    @pytest.mark.parametrize("name", SECONDS)
    @pytest.mark.parametrize("value", [-0.001, math.nan, math.inf])
    def test_no_time_is_negative_nor_endless(self, name: str, value: float) -> None:
        """Threads cannot be told to wait for ever in seconds, and would die of it in the middle of a batch."""
        with pytest.raises(ValueError, match=f"^{name}: "):
            read(**{name: value})
        with pytest.raises(ValueError, match=f"^EMITD_{name.upper()}: "):
            read({f"EMITD_{name.upper()}": str(value)})

    @pytest.mark.parametrize("name", SECONDS)
    def test_which_times_may_be_none(self, name: str) -> None:
        """Nothing can be awaited in no time, and nothing repeated without a pause; but one need not linger."""
        may_be_none = name in {"linger", "close_timeout", "fork_wait", "unconfirmed_seconds"}
        if may_be_none:
            assert getattr(read(**{name: 0}), name) == 0
        else:
            with pytest.raises(ValueError, match=f"^{name}: "):
                read(**{name: 0})

    @pytest.mark.parametrize("name", SECONDS)
    def test_the_longest_time_can_be_waited_for(self, name: str) -> None:
        """Exactly what threads can."""
        longest = getattr(read(**{name: threading.TIMEOUT_MAX}), name)
        assert threading.Lock().acquire(timeout=longest)
        with pytest.raises(ValueError, match=name):
            read(**{name: longest * 1.001})

    @pytest.mark.parametrize("name", COUNTS)
    def test_every_count_is_at_least_1(self, name: str) -> None:
        """With room for nothing a client could do nothing."""
        assert getattr(read(**{name: 1}), name) == 1
        with pytest.raises(ValueError, match=f"^{name}: "):
            read(**{name: 0})

    @pytest.mark.parametrize(
        ("name", "value", "why"),
        [
            ("overflow", "drop", "'drop' is not drop_newest, drop_oldest or block(SECONDS)"),
            ("level", "LOUD", "'LOUD' is not DEBUG, INFO, WARNING, ERROR or CRITICAL"),
            ("level", "30", "'30' is not DEBUG, INFO, WARNING, ERROR or CRITICAL"),
            ("spool_records", "some", "'some' is not audit or all"),
            ("address", "localhost", "'localhost' has no port" + EXPECTED),
            ("address", ":50051", "':50051' has no host" + EXPECTED),
            ("address", " , ", "is empty" + EXPECTED),
            ("address", "http://h:1", "'http://h:1' is a URL" + EXPECTED),
            ("address", "https://u:p,w@h", "'…@h' is a URL" + EXPECTED),
            (
                "address",
                "h:109861",
                "'h:109861' has the port '109861', which is no number from 1 to 65535" + EXPECTED,
            ),
            (
                "address",
                "::1:5",
                "'::1:5' has an IPv6 address without brackets" + EXPECTED,
            ),
            ("address", "a:1,b", "'b' has no port" + EXPECTED),
            ("address", "a:1,:2", "':2' has no host" + EXPECTED),
            ("address", "a:1,b:x", "'b:x' has the port 'x', which is no number from 1 to 65535" + EXPECTED),
            ("address", "a:1,b:٣", "'b:٣' has the port '٣', which is no number from 1 to 65535" + EXPECTED),
            ("address", "a:1,dns:///b:2", "'dns:///b:2' is a URL" + EXPECTED),
            ("address", "dns:///b", "'b' has no port" + EXPECTED),
            ("address", "a:1,unix:/b", "'a:1,unix:/b' has a socket among several" + EXPECTED),
        ],
    )
    def test_what_no_type_shows_is_refused_too(self, name: str, value: str, why: str) -> None:
        """When the client is made, by the name that it was set by."""
        for given, environ, known_as in (
            ({name: value}, {}, name),
            ({}, {f"EMITD_{name.upper()}": value}, f"EMITD_{name.upper()}"),
        ):
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                read(environ, **given)
            assert str(caught.value) == f"{known_as}: {why}"

    def test_an_empty_address_is_refused(self) -> None:
        """As an argument; an empty variable is none."""
        with pytest.raises(ValueError, match=r"^address: is empty; expected HOST:PORT, "):
            read(address="")

    @pytest.mark.parametrize(
        "address",
        [
            "a:1",
            "[::1]:1",
            "[fe80::1%eth0]:1",
            "dns:///a:1",
            "dns:a:1",
            "ipv4:10.0.0.1:1,10.0.0.2:1",
            "unix:run/emitd.sock",
            "unix:///run/emitd.sock",
            "my_service.:1",
            "unix:/run/emitd.sock",
            "a:1,b:2",
            " a:1 , [::1]:2,",
            "10.0.0.1:1",
        ],
    )
    def test_addresses_of_every_form_are_taken(self, address: str) -> None:
        """As they are: `emitd.transport.channel` makes something of them."""
        assert read(address=address).address == address


@hypothesis.given(st.text(st.characters(exclude_characters="~")))
def test_only_a_home_folder_at_the_beginning_is_expanded(text: str) -> None:
    """Of a path, and of a socket's address; all other texts stay as they are."""
    home = os.path.expanduser("~")
    assert expand_home(text) == text
    assert expand_home(f"x~{text}") == f"x~{text}"
    assert expand_home(f"~/{text}") == f"{home}/{text}"
    assert expand_home(f"unix:~/{text}") == f"unix:{home}/{text}"
    assert target_of("unix:~/run/x") == f"unix:{home}/run/x"


class TestSource:
    @pytest.mark.parametrize(
        ("argv", "source"),
        [
            (["/srv/shop.py"], "shop"),
            (["/usr/bin/gunicorn"], "gunicorn"),
            (["/srv/shop/__main__.py"], "shop"),
            (["-c"], "-c"),
            ([""], "python"),
            ([], "python"),
        ],
    )
    def test_it_is_the_program_s_name(
        self, argv: list[str], source: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That of its file; of a package run by `python -m`, the package's."""
        monkeypatch.setattr(sys, "argv", argv)
        assert read().source == source

    def test_a_name_that_is_no_utf_8_is_escaped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files can have such names; no record could be made with it."""
        monkeypatch.setattr(sys, "argv", ["/srv/caf\udce9.py"])
        assert read().source == "caf\\udce9"
        assert read({"EMITD_SOURCE": "caf\udce9"}).source == "caf\\udce9"
        assert read(source="caf\udce9").source == "caf\\udce9"


class TestMeaning:
    @pytest.mark.parametrize(
        ("level", "threshold"), [("DEBUG", 10), ("warning", 30), ("Critical", 50), (25, 25), (0, 0), (99, 99)]
    )
    def test_a_level_is_a_threshold(self, level: str | int, threshold: int) -> None:
        """A name in letters of any size, or any number."""
        assert read(level=level).threshold == threshold

    def test_the_pauses_are_those_set(self) -> None:
        """From the first to the longest."""
        assert read(backoff_initial=0.5, backoff_max=7.0).backoff == Backoff(0.5, 7.0)

    @pytest.mark.parametrize(
        ("text", "overflow"),
        [
            ("drop_newest", Overflow()),
            ("drop_oldest", Overflow(drops_oldest=True)),
            ("block", Overflow(block_seconds=1)),
            ("block(0.25)", Overflow(block_seconds=0.25)),
            ("block( 30 )", Overflow(block_seconds=30)),
            ("block(0)", Overflow()),
        ],
    )
    def test_an_overflow_policy(self, text: str, overflow: Overflow) -> None:
        """One of three; `block` without a number waits for a second."""
        assert Overflow.parse(text) == overflow

    @pytest.mark.parametrize(
        "text",
        ["", "block()", "block(-1)", "block(x)", "block(1", "drop_oldest ", "block(99999999999999999)"],
    )
    def test_what_is_no_overflow_policy(self, text: str) -> None:
        """The error says what there is; nobody can wait for ages."""
        with pytest.raises(ValueError, match="is not drop_newest, drop_oldest or block"):
            Overflow.parse(text)


class TestDescription:
    def test_each_setting_says_what_it_means(self) -> None:
        """In a comment of its own, or in one that it shares with those right before it."""
        source = inspect.getsource(ClientSettings).splitlines()
        lines = [line.strip() for line in source[: source.index("    @classmethod")]]
        for name in FIELDS:
            place = next(index for index, line in enumerate(lines) if line.startswith(f"{name}: "))
            while not lines[place].startswith("#:"):
                assert lines[place].split(":")[0] in FIELDS, f"{name} has no comment"
                place -= 1

    def test_the_documentation_has_each_with_its_default(self) -> None:
        """In the order of the code, and nothing that there is not."""
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ", CLIENT_PAGE.read_text(), re.MULTILINE)
        found = [(name, default) for name, default in rows if name in FIELDS]
        assert found == [(name, written(name)) for name in FIELDS]

    def test_a_client_s_type_has_each_of_them(self) -> None:
        """By name, so that an editor knows them; the first three stand in the signature."""
        assert MoreSettings.__annotations__.keys() == set(FIELDS) - {"address", "source", "level"}
        assert MoreSettings.__total__ is False
