"""The command reference in `docs/commands.md`: each command's help text, as the command prints it.

`python tests/support/docs/command_reference.py --write` writes it.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "commands.md"
BEGIN = "<!-- command reference: written by `python tests/support/docs/command_reference.py --write` -->\n"
END = "<!-- end of the command reference -->\n"


def command_reference() -> str:
    """Return the blocks of all commands, each with a comment that says of which."""
    return "\n".join(
        f"<!-- help: {name} -->\n```console\n$ {name} --help\n{text}```\n" for name, text in help_texts()
    )


def help_texts() -> Iterator[tuple[str, str]]:
    """Every command, in the order of `emitd --help`, with its help text."""
    if (
        str(ROOT / "server") not in sys.path
    ):  # run as a program, perhaps by a Python that has nothing installed
        sys.path.insert(0, str(ROOT / "server"))
    from emitd_cli.arguments import make_parser

    yield from _texts(make_parser())


def on_page(text: str) -> str:
    """Return the reference in the text of the page."""
    _, begin, rest = text.partition(BEGIN)
    reference, end, _ = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no section between {BEGIN.strip()} and {END.strip()}")
    return reference


def _texts(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _texts(command)


def main(arguments: list[str]) -> int:
    """Print the reference, or with `--write` put it into the page."""
    if arguments != ["--write"]:
        sys.stdout.write(command_reference())
        return 0
    text = PAGE.read_text()
    PAGE.write_text(text.replace(BEGIN + on_page(text) + END, BEGIN + command_reference() + END))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
