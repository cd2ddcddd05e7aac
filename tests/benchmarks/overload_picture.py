"""Draws the curve of docs/performance.md from the output of bench_overload.py that the page has.

    python tests/benchmarks/bench_overload.py > FILE; python tests/benchmarks/overload_picture.py FILE

With a file, that output first takes the place of the one in the page.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"
_PAGE, _PICTURE = _DOCS / "performance.md", _DOCS / "images" / "overload.svg"
_OUTPUT = re.compile(r"(?<=^```text\n)batch  load.*?(?=^```$)", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"\s*(\d+) +(\d+)x +[\d,]+ +[\d,]+ +(\d+)% +[\d.]+ +([\d.]+) ", re.MULTILINE)
_LEFT, _WIDTH, _HEIGHT, _GAP = 60, 240, 150, 100
_STYLE = """<style>
text { font: 12px sans-serif; fill: #24292f } .title { font-weight: bold } .axis { stroke: #8c959f }
polyline { fill: none; stroke-width: 2 } .limit { stroke: #cf222e; stroke-dasharray: 4 3 }
.b1 { stroke: #0969da } .b64 { stroke: #1a7f37 } .b512 { stroke: #9a6700 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .axis { stroke: #6e7681 } }
</style>"""


def panel(
    title: str, left: int, rows: Sequence[tuple[int, int, float]], top: float, limit: float, unit: str
) -> list[str]:
    """Return one diagram: a line for each batch size over the load that is offered."""

    def x(factor: float) -> float:
        return left + _WIDTH * factor / 4

    def y(value: float) -> float:
        return 30 + _HEIGHT * (1 - min(value, top) / top)

    parts = [f'<text class="title" x="{left}" y="14">{title}</text>']
    parts.append(f'<path class="axis" fill="none" d="M{left} 30 V{30 + _HEIGHT} H{left + _WIDTH}"/>')
    parts.append(f'<path class="limit" d="M{left} {y(limit):.0f} H{left + _WIDTH}"/>')
    for value in (0.0, limit, top):
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.0f}" text-anchor="end">{value:g}{unit}</text>')
    for factor in (1, 2, 4):
        parts.append(f'<text x="{x(factor):.0f}" y="{_HEIGHT + 46}" text-anchor="middle">{factor}×</text>')
    for batch in sorted({batch for batch, *_ in rows}):
        points = [(x(factor), y(value)) for size, factor, value in rows if size == batch]
        line = " ".join(f"{across:.0f},{down:.0f}" for across, down in points)
        parts.append(f'<polyline class="b{batch}" points="{line}"/>')
        across, down = points[-1]
        parts.append(f'<text x="{across + 6:.0f}" y="{down + 4:.0f}">{batch}</text>')
    return parts


def main() -> None:
    """Put the output into the page if there is one, and draw."""
    page = _PAGE.read_text()
    for name in sys.argv[1:]:
        output = Path(name).read_text()
        page = _OUTPUT.sub(lambda _: output.rstrip() + "\n", page, count=1)  # noqa: B023
        _PAGE.write_text(page)
    found = _ROW.findall(_OUTPUT.findall(page)[0])
    shares = [(int(batch), int(factor), float(share)) for batch, factor, share, _ in found]
    waits = [(int(batch), int(factor), float(wait) / 1e3) for batch, factor, _, wait in found]
    parts = panel("accepted, % of the best", _LEFT, shares, 120, 80, "%")
    parts += panel("p99 of accepted calls, s", _LEFT + _WIDTH + _GAP, waits, 1.5, 1, "")
    size = f'width="{_LEFT + 2 * _WIDTH + _GAP + 50}" height="{_HEIGHT + 60}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    title = "<title>What a server accepts of more than it can take, by records in a call</title>"
    _PICTURE.write_text("\n".join([head, title, _STYLE, *parts, "</svg>\n"]))


if __name__ == "__main__":
    main()
