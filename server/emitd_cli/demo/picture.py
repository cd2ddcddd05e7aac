"""The picture of `emitd demo`: what its screen shows, as an SVG file.

The file stands alone: rich's own form loads fonts from the network, this one takes what the viewer has. Every
run of letters says how wide it is, so that columns stand whatever font that is.
"""

from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from emitd_cli.errors import CannotTell

#: In characters.
WIDTH, HEIGHT = 100, 80

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


def picture_console() -> Console:
    """Return a console that keeps what is written for `save_picture`, and shows nothing."""
    return Console(
        file=StringIO(),
        width=WIDTH,
        height=HEIGHT,
        force_terminal=True,
        force_interactive=True,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
        record=True,
        highlight=False,
        emoji=False,
    )


def save_picture(console: Console, path: Path) -> None:
    """Write what a `picture_console` has kept. Raises CannotTell if the file cannot be written."""
    svg = console.export_svg(title="make demo", theme=_THEME, code_format=_SVG, unique_id="emitd-demo")
    lines = [line.rstrip() for line in svg.splitlines()]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise CannotTell(f"--picture: {path} cannot be written: {error.strerror}") from error
