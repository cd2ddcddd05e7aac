"""`emitd token`: making, listing and revoking."""

from pathlib import Path

import pytest

from emitd_server.access.tokens import Digest, read_tokens
from support.processes.run_main import run_main


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "tokens.yml")


def test_new_prints_the_token_alone(file: str) -> None:
    """So that it can go to a file; the note says how to revoke it."""
    done = run_main(
        "token", "new", "--name", "shop", "--group", "a", "--group", "b", "--expires", "90d", file
    )
    token = done.stdout.strip()
    (entry,) = read_tokens(Path(file))
    assert done.returncode == 0
    assert entry.sha256 == Digest.of(token)
    assert (entry.name, entry.groups) == ("shop", ("a", "b"))
    assert entry.expires is not None
    assert entry.short_digest in done.stderr
    assert token not in done.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--name", ""], "--name, --group: the name is empty"),
        (["--name", "a\n"], "--name, --group: the name has characters"),
        (["--name", "a", "--group", " "], "--name, --group: a group's name has characters"),
        (["--name", "a", "--expires", "2020-01-01"], "--expires: '2020-01-01' is not ahead"),
        (["--name", "a", "--expires", "0s"], "--expires: '0s' is not ahead"),
        (["--name", "a", "--expires", "soon"], "--expires: 'soon' is neither a time"),
        ([], "--name"),
    ],
)
def test_what_new_cannot_use_is_misuse(file: str, flags: list[str], said: str) -> None:
    """And makes no file."""
    done = run_main("token", "new", *flags, file)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not Path(file).exists()


def test_list_shows_no_whole_digest(file: str) -> None:
    """Names, groups, ends, and the beginnings of digests."""
    run_main("token", "new", "--name", "shop", "--group", "a", "--group", "b", file)
    run_main("token", "new", "--name", "till", "--expires", "2030-01-01", file)
    shop, till = read_tokens(Path(file))
    done = run_main("token", "list", file)
    assert done.stdout.splitlines() == [
        "NAME  GROUPS  EXPIRES                    DIGEST",
        f"shop  a b     never                      {shop.short_digest}",
        f"till          2030-01-01T00:00:00+00:00  {till.short_digest}",
    ]


def test_revoke_says_what_is_gone(file: str) -> None:
    """Or exits with 1."""
    run_main("token", "new", "--name", "shop", file)
    digest = read_tokens(Path(file))[0].short_digest
    assert digest in run_main("token", "revoke", "shop", file).stdout
    done = run_main("token", "revoke", "shop", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no token with the name or digest 'shop'" in done.stderr
    assert "has no tokens" in run_main("token", "list", file).stderr


def test_files_that_cannot_be_used(file: str, tmp_path: Path) -> None:
    """A bad one is 1, with its line; one that is not there is 4, and so is a folder."""
    assert run_main("token", "list", file).returncode == 4
    Path(file).write_text("- name: x")
    done = run_main("token", "new", "--name", "a", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{file}:1: [0].sha256: is missing" in done.stderr
    done = run_main("token", "new", "--name", "a", str(tmp_path / "none" / "tokens.yml"))
    assert (done.returncode, done.stdout) == (4, "")
    assert "No such file" in done.stderr
