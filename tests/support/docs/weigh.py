"""Count what the project consists of, and compare with an earlier revision.

    python tests/support/docs/weigh.py                the last tag against the files as they are now
    python tests/support/docs/weigh.py --tag v0.1.*   the last commit whose tag matches
    python tests/support/docs/weigh.py --since REV    any revision

It needs git and the standard library. The commands are counted from the parser of the tree in question; everything else
is read from the files.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[3]
PRODUCT = ("server", "handlers", "clients/python/emitd")
TESTS = ("tests",)
SETTINGS = {"server": "server", "handlers": "handlers", "client": "clients/python/emitd"}
GENERATED = re.compile(r"_pb2(_grpc)?\.py$")
#: Prints how many commands the tree in the working folder has. The argument parser needs nothing installed.
COUNT_COMMANDS = """
import argparse, sys
sys.path[:0] = ["server", "handlers", "clients/python"]
from emitd_cli.arguments import make_parser
def count(parser):
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return sum(count(command) for group in groups for command in group.choices.values()) if groups else 1
print(count(make_parser()))
"""


def weigh(root: Path, files: Iterable[str]) -> dict[str, int]:
    """Return the counts of a tree by name; `files` are its paths below `root`, with slashes."""
    files = sorted(files)
    product, tests = (_python_below(files, folders) for folders in (PRODUCT, TESTS))
    protos = [path for path in files if path.startswith("protos/") and path.endswith(".proto")]
    return {
        "product lines": sum(_lines(root / path) for path in product),
        "product files": len(product),
        "test lines": sum(_lines(root / path) for path in tests),
        "test files": len(tests),
        **{
            f"settings, {name}": count_settings(
                [(root / path).read_text() for path in _python_below(files, [folder])]
            )
            for name, folder in SETTINGS.items()
        },
        "commands": count_commands(root),
        "RPCs": sum(len(re.findall(r"(?m)^\s*rpc\s", (root / path).read_text())) for path in protos),
        **_dependencies((root / "pyproject.toml").read_text()),
    }


def count_settings(sources: Iterable[str]) -> int:
    """Return how many keys the classes named `...Settings` have, and listeners.

    A section (a key whose type is another such class, and nothing else) counts as its keys. An inherited key counts
    once, also if a class gives it another default.
    """
    classes = {
        node.name: node
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
        and node.name.endswith(("Settings", "ListenEntry"))
        and "TypedDict" not in _bases(node)
    }
    keys = {name: _keys(node) for name, node in classes.items()}
    return sum(
        annotation not in classes and not any(key in keys.get(base, {}) for base in _bases(classes[name]))
        for name, annotations in keys.items()
        for key, annotation in annotations.items()
    )


def count_commands(root: Path) -> int:
    """Return how many commands a tree has, not counting those that only group others."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", COUNT_COMMANDS], cwd=root, stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout)


def table(before: Mapping[str, int], now: Mapping[str, int], revision: str) -> str:
    """Return the counts side by side with their difference. Without `before` only those of now."""
    lines = [f"{'':24}{revision[:12]:>14}{'now':>10}{'change':>10}" if before else f"{'':24}{'now':>10}"]
    for name in {**before, **now}:
        old, new = before.get(name, 0), now.get(name, 0)
        lines.append(f"{name:24}{old:14,}{new:10,}{new - old:+10,}" if before else f"{name:24}{new:10,}")
    return "\n".join(lines)


def _python_below(files: Iterable[str], folders: Iterable[str]) -> list[str]:
    starts = tuple(f"{folder}/" for folder in folders)
    return [
        path
        for path in files
        if path.startswith(starts) and path.endswith(".py") and not GENERATED.search(path)
    ]


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).rpartition(".")[2] for base in node.bases]


def _keys(node: ast.ClassDef) -> dict[str, str]:
    """Return a class's own keys with their types as written."""
    return {
        item.target.id: ast.unparse(item.annotation)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
    }


def _dependencies(pyproject: str) -> dict[str, int]:
    project = tomllib.loads(pyproject)["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    return {f"dependencies, {name}": len(packages) for name, packages in groups.items()}


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout


def _weigh_now() -> dict[str, int]:
    """Weigh the files as they are, committed or not, but without those that git ignores."""
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    return weigh(ROOT, {name for name in names if name and (ROOT / name).is_file()})


def _weigh_revision(revision: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="emitd-weigh-") as folder:
        with zipfile.ZipFile(io.BytesIO(_git("archive", "--format=zip", revision))) as archive:
            archive.extractall(folder)
            files = [name for name in archive.namelist() if not name.endswith("/")]
        return weigh(Path(folder), files)


def _last_tag(pattern: str) -> str:
    """Return the name of the last tag that matches; empty: there is none."""
    done = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", pattern],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return done.stdout.strip()


def main(arguments: list[str]) -> int:
    """Print the table; return 1 if there is nothing to compare with although it was asked for."""
    parser = argparse.ArgumentParser(description="Count what the project consists of.")
    parser.add_argument("--tag", default="", help="the last commit with this tag; it may have * and ?")
    parser.add_argument("--since", default="", metavar="REV", help="any revision, instead of a tag")
    options = parser.parse_args(arguments)
    revision = options.since or _last_tag(options.tag or "*")
    if not revision:
        missing = f"no tag matches {options.tag}" if options.tag else "there are no tags"
        print(f"{missing}; SINCE=REV compares with a revision", file=sys.stderr)
    print(table(_weigh_revision(revision) if revision else {}, _weigh_now(), revision))
    return int(not revision and bool(options.tag))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
