"""The chart: bars for the rows, lines for the curves, as an SVG that stands for itself.

It follows the reader's choice of a light or a dark page.
"""

from collections.abc import Sequence
from math import log10
from xml.sax.saxutils import escape

from measuring import Curve, Figures, Row, number

WIDTH = 860
BARS_LEFT, BARS_WIDTH = 360, 330
BAR, GAP = 13, 16
PLOT_WIDTH, PLOT_HEIGHT, PLOTS_A_LINE = 232, 90, 3
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .small { font-size: 11px; fill: #59636e }
  .title { font-size: 15px; font-weight: 600 }
  .paper { fill: #ffffff }
  .axis { stroke: #afb8c1; fill: none }
  .ours { fill: #0969da } .line { stroke: #0969da; stroke-width: 2; fill: none }
  .peer { fill: #bc8c5f } .limit { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 } .paper { fill: #0d1117 }
    .axis { stroke: #3d444d } .ours { fill: #4493f8 } .line { stroke: #4493f8 }
    .peer { fill: #c69a6d } .limit { fill: #656c76 }
  }
"""


def draw(rows: Sequence[Row], curves: Sequence[Curve], machine: str) -> str:
    """Return the SVG; ``machine`` is a line about where it was measured."""
    parts = [
        _text(20, 30, "codex.serve beside its peers", "title"),
        _text(20, 50, machine, "small"),
    ]
    y = 78
    for row in rows:
        y += _draw_row(parts, row, y)
    parts.append(_text(20, y + 10, "As the work grows tenfold and tenfold: flat is good", "title"))
    y += 40
    for index, curve in enumerate(curves):
        line, column = divmod(index, PLOTS_A_LINE)
        x = 20 + column * (PLOT_WIDTH + 50)
        _draw_curve(parts, curve, x, y + line * (PLOT_HEIGHT + 80))
    height = y + (len(curves) + PLOTS_A_LINE - 1) // PLOTS_A_LINE * (PLOT_HEIGHT + 80)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="Benchmarks of codex.serve">\n'
        f'<style>{STYLE}</style>\n<rect class="paper" width="100%" height="100%"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _draw_row(parts: list[str], row: Row, y: int) -> int:
    """Append a row's bars to ``parts``; return its height."""
    direction = "more is better" if row.more_is_better else "less is better"
    parts.append(_text(20, y + 11, _plain(row.what)))
    parts.append(_text(20, y + 26, f"{row.unit}, {direction}; goal {row.goal}", "small"))
    figures: dict[str, Figures] = {"codex.serve": row.ours, **row.others}
    longest = max(each.median for each in figures.values())
    for index, (name, each) in enumerate(figures.items()):
        kind = "ours" if index == 0 else "limit" if name.startswith("limit") else "peer"
        length = max(1.0, each.median / longest * BARS_WIDTH)
        top = y + index * GAP
        parts.append(
            f'<rect class="{kind}" x="{BARS_LEFT}" y="{top}" width="{length:.1f}" height="{BAR}"/>'
        )
        label = f"{number(each.median)}  {name}"
        parts.append(_text(BARS_LEFT + length + 6, top + 11, label, "" if index == 0 else "small"))
    return max(2, len(figures)) * GAP + 18


def _draw_curve(parts: list[str], curve: Curve, x: int, y: int) -> None:
    parts.append(_text(x, y + 4, curve.what))
    top, bottom = y + 16, y + 16 + PLOT_HEIGHT
    highest = max(cost for _, cost in curve.points) * 1.2
    first, last = (log10(curve.points[end][0]) for end in (0, -1))
    points = [
        (
            x + (log10(work) - first) / (last - first) * PLOT_WIDTH,
            bottom - cost / highest * PLOT_HEIGHT,
        )
        for work, cost in curve.points
    ]
    parts.append(f'<path class="axis" d="M{x} {top}V{bottom}H{x + PLOT_WIDTH}"/>')
    path = "L".join(f"{across:.1f} {up:.1f}" for across, up in points)
    parts.append(f'<path class="line" d="M{path}"/>')
    for (across, up), (work, cost) in zip(points, curve.points, strict=True):
        parts.append(f'<circle class="ours" cx="{across:.1f}" cy="{up:.1f}" r="3"/>')
        parts.append(_text(across - 8, up - 7, number(cost), "small"))
        parts.append(_text(across - 8, bottom + 14, number(work), "small"))
    parts.append(_text(x, bottom + 28, f"{curve.cost}, by {curve.work}", "small"))


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attribute}>{escape(text)}</text>'


def _plain(markdown: str) -> str:
    return markdown.replace("`", "")
