"""Draws what `emitd demo` shows on a terminal, as the SVG file docs/images/demo.svg.

    python tests/support/docs/demo_picture.py [FILE] [--fast]

The file stands alone: rich's own form loads fonts from the network, this one takes what the viewer has. Every run of
letters says how wide it is, so that columns stand whatever the font.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

PICTURE = Path(__file__).parents[3] / "docs" / "images" / "demo.svg"
#: In characters.
WIDTH, HEIGHT = 100, 80
#: Frames that were drawn over one another; the last one stays.
FRAMES = re.compile(r"(?:\x1b\[\?2026h(.*?)\x1b\[\?2026l)+", re.DOTALL)
ERASE = re.compile(r"\r?(?:\x1b\[\d*A)?\x1b\[J")

#: Contrast with the background is at least 4.5 to 1 for all but the dark parts of bars.
_THEME = TerminalTheme(
    (22, 27, 34),
    (214, 222, 235),
    [
        (72, 79, 88),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (214, 222, 235),
    ],
    [
        (139, 148, 158),
        (255, 161, 152),
        (126, 231, 135),
        (242, 204, 96),
        (165, 214, 255),
        (226, 197, 255),
        (138, 228, 235),
        (255, 255, 255),
    ],
)

_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
  font-variant-east-asian: full-width;
}}
.{unique_id}-title {{
  font-size: 18px;
  font-weight: bold;
  font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def demo_on_a_terminal(*flags: str) -> str:
    """Run the demo on a terminal; return what stands there at the end, with its colours."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(WIDTH), "LINES": str(HEIGHT)}
    environ.pop("NO_COLOR", None)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    command = [sys.executable, "-m", "emitd_cli", "demo", *flags]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    written = b""
    try:
        while data := os.read(ours, 65536):
            written += data
    except OSError:  # how Linux says that the terminal was closed
        pass
    os.close(ours)
    if process.wait() != 0:
        raise SystemExit(f"the demo failed:\n{written.decode()}")
    text = FRAMES.sub(lambda match: match[1], written.decode().replace("\r\n", "\n"))
    return ERASE.sub("", text)


def draw(screen: str, path: Path) -> None:
    """Write the picture of a screen."""
    console = Console(
        file=StringIO(),
        width=WIDTH,
        height=HEIGHT,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
        record=True,
        highlight=False,
        emoji=False,
    )
    console.print(Text.from_ansi(screen))
    console.print()  # a margin
    svg = console.export_svg(title="make demo", theme=_THEME, code_format=_SVG, unique_id="emitd-demo")
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


def main() -> None:
    """Draw into the file of the first argument, or into the documentation."""
    flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    files = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    draw(demo_on_a_terminal(*flags), Path(files[0]) if files else PICTURE)


if __name__ == "__main__":
    main()
