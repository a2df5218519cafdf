"""Run all benchmarks and write what they show.

    python benchmarks/run.py

Writes ``benchmarks/results.md`` and ``docs/benchmarks.svg``. Takes about four
minutes. Needs ``pip install -r benchmarks/peers/requirements.txt``; webhook and
websocketd, which Debian has, are measured where they are installed.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from chart import draw
from measuring import Curve, Results, Row, number, read_results

FOLDER = Path(__file__).parent
SCRIPTS = (
    *("throughput", "small_writes", "stdin", "partial_line", "stalled_reader"),
    *("latency", "models", "burst", "thousand", "start", "curves"),
)
PEERS = ("FastAPI", "webhook", "websocketd")


@dataclass(frozen=True)
class Measured:
    """What one script found, under which load average."""

    results: Results
    load: tuple[float, float]


def run(script: str) -> Measured:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py"), "--json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    data = json.loads(done.stdout)
    before, after = data["load"]
    return Measured(read_results(data), (before, after))


def table(measured: list[Measured]) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| what | unit | goal | ours | FastAPI | ours / FastAPI | webhook | websocketd "
        "| the limit | load | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in measured:
        lines += [_line(row, each.load) for row in each.results.rows]
    return "\n".join(lines)


def _line(row: Row, load: tuple[float, float]) -> str:
    peers = [str(row.others[name]) if name in row.others else "–" for name in PEERS]
    limits = [str(figures) for name, figures in row.others.items() if name.startswith("limit")]
    fastapi = row.others.get("FastAPI")
    relation = f"{number(row.ours.median / fastapi.median)} ×" if fastapi else "–"
    cells = (
        *(row.what, row.unit, row.goal, f"**{row.ours}**", peers[0], relation, *peers[1:]),
        *(limits[0] if limits else "–", f"{load[0]:.1f} – {load[1]:.1f}"),
        "holds" if row.holds else "**does not hold**",
    )
    return "| " + " | ".join(cells) + " |"


def curve_table(curves: list[Curve]) -> str:
    """The curves as a table in Markdown."""
    lines = ["| what | cost, by work |", "|---|---|"]
    for curve in curves:
        points = ", ".join(
            f"{number(cost)} {curve.cost} at {number(work)}" for work, cost in curve.points
        )
        lines.append(f"| {curve.what} ({curve.work}) | {points} |")
    return "\n".join(lines)


def main() -> None:
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        sys.exit("the peer is missing: pip install -r benchmarks/peers/requirements.txt")
    measured = []
    for script in SCRIPTS:
        print(f"{script} …", file=sys.stderr, flush=True)
        measured.append(run(script))
        for line in (*measured[-1].results.rows, *measured[-1].results.curves):
            print(f"  {line}", file=sys.stderr, flush=True)
    rows = [row for each in measured for row in each.results.rows]
    curves = [curve for each in measured for curve in each.results.curves]
    loads = [load for each in measured for load in each.load]
    kernel, _, _ = platform.release().partition("-")
    machine = (
        f"{os.cpu_count()} processors ({platform.machine()}), Linux {kernel}, "
        f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}; "
        f"load average {min(loads):.1f} to {max(loads):.1f}"
    )
    (FOLDER / "results.md").write_text(
        f"""# What the benchmarks showed

Written by `python benchmarks/run.py`; each row's script says what it does.
{machine}, the benchmarks' own load included.

Figures are medians, and in brackets the range of the middle 80 %. All servers of a row were
measured in turn in the same run. *FastAPI* is `peers/fastapi_server.py`, the usual way to do this
with asyncio; it and *webhook* and *websocketd* (Debian's) do not see to it that nothing outlives a
run. *The limit* is what the same command does without any server.

{table(measured)}

## As the work grows

{curve_table(curves)}
"""
    )
    (FOLDER.parent / "docs" / "benchmarks.svg").write_text(draw(rows, curves, machine))


if __name__ == "__main__":
    main()
