"""The file of static tokens: what it may hold, and how it is changed."""

import os
import stat
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from emitd_handlers.principal import Principal
from emitd_server.access import tokens
from emitd_server.access.tokens import (
    Digest,
    TokenEntry,
    Tokens,
    find_token,
    new_token,
    read_tokens,
    revoke_tokens,
    watched_tokens,
)
from emitd_server.errors import ConfigError

HEX = Digest.of("secret-token").hex()
OTHER = Digest.of("other").hex()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.yml"


def problems(file: Path, text: str) -> Sequence[str]:
    """The problems of a file with this text, each without the file's name."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_tokens(file)
    return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]


def load(file: Path) -> Tokens:
    watched = watched_tokens(file)
    watched.start()
    return watched.value


def test_tokens_are_found_by_their_digests(file: Path) -> None:
    """Several may have one name, with other groups and ends."""
    file.write_text(
        f"# ours\n- name: shop\n  sha256: {HEX.upper()}\n  groups: [writers, 'a b']\n"
        f"- {{name: shop, sha256: {OTHER}, expires: 2027-03-01T00:00:00+01:00}}\n"
    )
    file.chmod(0o600)
    found = load(file)
    first, second = (find_token(found, Digest.of(token)) for token in ("secret-token", "other"))
    assert first == Principal("shop", "token", ("writers", "a b"))
    assert second == Principal("shop", "token")
    assert found[Digest.of("other")][0].expires == datetime(2027, 2, 28, 23, tzinfo=UTC)
    assert find_token(found, Digest.of("third")) is None


def test_the_digest_that_is_found_is_compared(file: Path) -> None:
    """Though no dict gives another."""
    file.write_text(f"- {{name: shop, sha256: {HEX}}}")
    found = load(file)
    assert find_token({Digest.of("x"): found[Digest.of("secret-token")]}, Digest.of("x")) is None


@pytest.mark.parametrize("text", ["", "# none\n", "[]", "---\n"])
def test_a_file_may_have_no_tokens(file: Path, text: str) -> None:
    """Then all are refused."""
    file.write_text(text)
    assert read_tokens(file) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: shop", "1: found a mapping; expected a list of settings"),
        ("- shop", "1: [0]: found 'shop'; expected a mapping of settings"),
        (f"\n- sha256: {HEX}", "2: [0].name: is missing; expected str"),
        ("- name: shop", "1: [0].sha256: is missing; expected Digest"),
        (f"- {{name: '', sha256: {HEX}}}", "1: [0]: the name is empty or has more than 256 bytes"),
        (f'- {{name: "a\\n", sha256: {HEX}}}', "1: [0]: the name has characters that cannot be printed"),
        (f"- {{name: a, sha256: {HEX}, groups: ['']}}", "1: [0]: a group's name is empty"),
        (f"- {{name: a, sha256: {HEX}, group: [b]}}", "1: [0].group: unknown key 'group'; expected one of"),
        (f"- {{name: a, sha256: {HEX}, expires: 2027-03-01T00:00:00}}", "1: [0].expires: found"),
        (f"- {{name: a, sha256: {HEX}, expires: 2027-03-01}}", "1: [0].expires: found"),
        (f"- {{name: a, sha256: {HEX}, expires: soon}}", "1: [0].expires: Invalid RFC3339"),
        (
            f"- {{name: a, sha256: {HEX}}}\n- name: b\n  sha256: {HEX.upper()}",
            "2: [1].sha256: stands in an entry before",
        ),
        (f"- {{name: '${{HOME}}', sha256: {HEX}}}", "1: [0].name: the environment has no variable 'HOME'"),
        ("- [", "1: not YAML"),
    ],
)
def test_a_bad_entry_is_named_with_its_line(file: Path, text: str, problem: str) -> None:
    """As in the configuration."""
    (found,) = problems(file, text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    "token", ["secret-token", "emitd_" + "x" * 43, "0" * 63, HEX + "0", "ä" * 64, " " * 64]
)
def test_a_token_in_place_of_its_digest_is_not_shown(file: Path, token: str) -> None:
    """Nor any other text that stands there."""
    (found,) = problems(file, f"- name: a\n  sha256: '{token}'")
    assert found == "2: [0].sha256: it is not a SHA-256 in 64 hexadecimal digits"


def test_a_file_that_is_not_there_is_a_problem(file: Path) -> None:
    """Like any other."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_tokens(file)


def test_the_watched_file_says_who_came_and_went(file: Path) -> None:
    """By names and short digests, and stops a revoked token at the next look."""
    changes: list[str] = []
    token, entry = new_token(file, "shop", (), None)
    watched = watched_tokens(file, changes.append)
    watched.start()
    assert find_token(watched.value, Digest.of(token)) is not None
    revoke_tokens(file, "shop")
    _, other = new_token(file, "shop", ["a"], None)
    watched.look()
    assert find_token(watched.value, Digest.of(token)) is None
    assert changes == [
        f"server.access.tokens_file: added shop ({other.short_digest}); removed shop ({entry.short_digest})"
    ]


def test_a_new_token_is_added_and_only_its_digest_is_kept(file: Path) -> None:
    """256 bits with a prefix that scanners know; the file is for its owner."""
    token, entry = new_token(file, "shop", ["writers"], datetime(2027, 3, 1, tzinfo=UTC))
    assert token.startswith("emitd_")
    assert len(token) == 6 + 43
    assert read_tokens(file) == [entry]
    assert entry.sha256 == Digest.of(token)
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == [file.name]


def test_a_new_token_leaves_the_others(file: Path) -> None:
    """Whatever form the list has. The group's bits stay, those of others go."""
    file.write_text(f"[{{name: shop, sha256: {HEX}}}]  # ours")
    file.chmod(0o644)
    _, entry = new_token(file, "Zoë", (), None)
    assert [each.name for each in read_tokens(file)] == ["shop", "Zoë"]
    assert file.read_text().endswith(entry.line())
    assert "Zoë" in entry.line()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_revoking_takes_all_of_a_name_or_one_by_its_digest(file: Path) -> None:
    """And says which; an unknown one changes nothing."""
    entries = [new_token(file, name, (), None)[1] for name in ("a", "b", "a", "c")]
    assert revoke_tokens(file, "x") == []
    assert revoke_tokens(file, "a") == [entries[0], entries[2]]
    assert revoke_tokens(file, entries[3].short_digest) == [entries[3]]
    assert read_tokens(file) == [entries[1]]
    revoke_tokens(file, "b")
    assert read_tokens(file) == []


def test_a_bad_file_is_not_changed(file: Path) -> None:
    """An editor may be at work on it."""
    file.write_text("- name: shop")
    for change in (lambda: new_token(file, "a", (), None), lambda: revoke_tokens(file, "shop")):
        with pytest.raises(ConfigError):
            change()
    assert file.read_text() == "- name: shop"


def test_a_device_is_not_replaced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though root may do so: `/dev/null` reads as a file without tokens."""
    monkeypatch.setattr(tokens, "replace_file", lambda *_, **__: pytest.fail("it replaces the device"))
    file.symlink_to("/dev/null")
    with pytest.raises(OSError, match="is not a regular file"):
        new_token(file, "a", (), None)


def test_a_link_stays_a_link(file: Path) -> None:
    """The file that it leads to is changed."""
    real = file.with_name("real.yml")
    real.write_text("")
    file.symlink_to(real)
    new_token(file, "a", (), None)
    assert file.is_symlink()
    assert len(read_tokens(real)) == 1


def test_edits_at_the_same_time_lose_nothing(file: Path) -> None:
    """Neither a new token nor that one is gone."""
    old = [new_token(file, f"old{number}", (), None)[1] for number in range(8)]

    def work(number: int) -> None:
        for _ in range(4):
            new_token(file, f"new{number}", (), None)
        revoke_tokens(file, old[number].name)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.name for entry in read_tokens(file)) == sorted(
        f"new{n}" for n in range(8) for _ in range(4)
    )


def test_an_entry_reads_back(file: Path) -> None:
    """Whatever is in its names."""
    entry = TokenEntry(
        name="'\"\\#: - é",
        sha256=Digest.of("x"),
        groups=("[a]", "null"),
        expires=datetime(2030, 1, 1, tzinfo=UTC),
    )
    file.write_text(entry.line())
    assert read_tokens(file) == [entry]
