"""Draws the picture of docs/performance.md from the output of `make bench-quick` that the page has.

    make bench-quick | python tests/benchmarks/cost_picture.py -

With a file, or `-` for standard input, that output first takes the place of the one in the page.
"""

import re
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"
_PAGE, _PICTURE = _DOCS / "performance.md", _DOCS / "images" / "cost.svg"
_OUTPUT = re.compile(r"(?<=^```text\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
#: The first table, of which the picture has the audit events.
_ROW = re.compile(r"\s*(\d+) (bare|asyncio|uvloop) (audit) +([\d.]+) ")
_LABELS = {"bare": "bare grpc.aio", "asyncio": "emitd, asyncio", "uvloop": "emitd, uvloop"}
_LINE, _LEFT, _WIDTH = 17, 150, 400
_STYLE = """<style>
text { font: 12px sans-serif; fill: #24292f } .title { font-weight: bold } .value { font-size: 11px }
.bare { fill: #8c959f } .asyncio { fill: #0969da } .uvloop { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .bare { fill: #6e7681 } .asyncio { fill: #2f81f7 } .uvloop { fill: #3fb950 } }
</style>"""


def rows_of(lines: Iterable[str]) -> list[tuple[int, str, str, float]]:
    """Return the batch size, kind, server and µs of each row."""
    found = [match.groups() for line in lines if (match := _ROW.match(line))]
    return [(int(batch), kind, server, float(cost)) for batch, server, kind, cost in found]


def picture(rows: list[tuple[int, str, str, float]]) -> str:
    """Return the SVG: a group of bars for each batch size and kind, each group with a scale of its own."""
    parts: list[str] = []
    y = 0
    for (batch, kind), group in groupby(rows, key=lambda row: row[:2]):
        bars = list(group)
        longest = max(cost for *_, cost in bars)
        y += _LINE + 6
        calls = "one record a call" if batch == 1 else f"{batch} records a call"
        parts.append(f'<text class="title" x="0" y="{y}">{kind}, {calls}</text>')
        for *_, server, cost in bars:
            y += _LINE
            width = _WIDTH * cost / longest
            parts.append(f'<text x="10" y="{y}">{_LABELS[server]}</text>')
            parts.append(f'<rect class="{server}" x="{_LEFT}" y="{y - 10}" width="{width:.0f}" height="11"/>')
            parts.append(f'<text class="value" x="{_LEFT + width + 6:.0f}" y="{y}">{cost:.3g} µs</text>')
    size = f'width="{_LEFT + _WIDTH + 70}" height="{y + 12}"'
    title = "<title>CPU of the server for each record</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, title, _STYLE, *parts, "</svg>\n"])


def main() -> None:
    """Put the output into the page if there is one, and draw."""
    page = _PAGE.read_text()
    for name in sys.argv[1:]:
        output = sys.stdin.read() if name == "-" else Path(name).read_text()
        page = _OUTPUT.sub(lambda _: output.rstrip() + "\n", page, count=1)  # noqa: B023
        _PAGE.write_text(page)
    rows = rows_of(_OUTPUT.findall(page)[0].splitlines())
    _PICTURE.write_text(picture(rows))


if __name__ == "__main__":
    main()
