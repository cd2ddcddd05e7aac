"""Draws the picture of docs/performance.md from the first table of `make bench-quick`, read from standard input.

grep audit output | python tests/benchmarks/cost_picture.py > docs/images/cost.svg
"""

import re
import sys
from collections.abc import Iterable
from itertools import groupby

_ROW = re.compile(r"\s*(\d+) (bare|emitd|asyncio|uvloop) (console|audit|jobs) +([\d.]+) ")
_LABELS = {"bare": "bare grpc.aio", "asyncio": "emitd, asyncio", "uvloop": "emitd, uvloop"}
_LINE, _LEFT, _WIDTH = 17, 150, 400
_STYLE = """<style>
text { font: 12px sans-serif; fill: #24292f } .title { font-weight: bold } .value { font-size: 11px }
.bare { fill: #8c959f } .asyncio, .emitd { fill: #0969da } .uvloop { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .bare { fill: #6e7681 } .asyncio, .emitd { fill: #2f81f7 } .uvloop { fill: #3fb950 } }
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
            parts.append(f'<text x="10" y="{y}">{_LABELS.get(server, server)}</text>')
            parts.append(f'<rect class="{server}" x="{_LEFT}" y="{y - 10}" width="{width:.0f}" height="11"/>')
            parts.append(f'<text class="value" x="{_LEFT + width + 6:.0f}" y="{y}">{cost:g} µs</text>')
    size = f'width="{_LEFT + _WIDTH + 70}" height="{y + 12}"'
    title = "<title>CPU of the server for each record</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, title, _STYLE, *parts, "</svg>\n"])


if __name__ == "__main__":
    sys.stdout.write(picture(rows_of(sys.stdin)))
