"""What the benchmarks share: figures, rows, and what processes take.

A script measures one subject and has a function ``measure`` that returns its
rows; ``main(measure)`` prints them, and with ``--json`` writes them for
``run.py``. What is compared is measured in turn, within one run, so that the
machine's other work meets all alike.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent.parent)]

from process_tree import descendants


@dataclass(frozen=True)
class Figures:
    """One thing measured several times."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figures":
        """Summarise ``values``: the median, and the range that holds the middle 80 %."""
        ordered = sorted(values)
        tenth = len(ordered) // 10
        return cls(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth])

    def __str__(self) -> str:
        return f"{number(self.median)} [{number(self.low)}, {number(self.high)}]"


def number(value: float) -> str:
    """Write ``value`` with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      what: what was measured, in words.
      unit: of all figures.
      goal: what must hold, in words.
      holds: whether it did.
      figures: those of this server, as ``ours``, of the peers and of the limit, by name.
      more_is_better: as for a throughput; else less is.
    """

    what: str
    unit: str
    goal: str
    holds: bool
    figures: dict[str, Figures]
    more_is_better: bool = False

    @property
    def ours(self) -> Figures:
        """The figures of this server."""
        return self.figures["ours"]

    @property
    def others(self) -> dict[str, Figures]:
        """The figures of all the others."""
        return {name: figures for name, figures in self.figures.items() if name != "ours"}

    def __str__(self) -> str:
        others = "".join(f"; {name} {figures}" for name, figures in self.others.items())
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return f"{self.what}, {self.unit}: {self.ours}{others} (goal: {self.goal}; {verdict})"


@dataclass(frozen=True)
class Curve:
    """How a cost goes as the work grows: ``points`` are pairs of work and cost."""

    what: str
    work: str
    cost: str
    points: list[tuple[float, float]]

    def __str__(self) -> str:
        points = ", ".join(f"{number(work)}: {number(cost)}" for work, cost in self.points)
        return f"{self.what}, {self.cost} by {self.work}: {points}"


@dataclass(frozen=True)
class Results:
    """What a script found out, and the machine's load while it did."""

    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


def main(measure: Callable[[], Results]) -> None:
    """Measure and print, as JSON where the command line says so."""
    before = os.getloadavg()[0]
    results = measure()
    load = (before, os.getloadavg()[0])
    if "--json" in sys.argv[1:]:
        json.dump({**asdict(results), "load": load}, sys.stdout)
        return
    for line in (*results.rows, *results.curves):
        print(line)
    print(f"load {load[0]:.2f} before, {load[1]:.2f} after")


def read_results(data: dict[str, Any]) -> Results:
    """Return what ``main`` has written as JSON."""
    rows = [
        Row(**{**row, "figures": {name: Figures(**each) for name, each in row["figures"].items()}})
        for row in data["rows"]
    ]
    return Results(rows, [Curve(**curve) for curve in data["curves"]])


def in_turn(subjects: Mapping[str, Callable[[], float]], times: int) -> dict[str, Figures]:
    """Measure each of ``subjects`` so many times, one after the other and again."""
    values: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(times):
        for name, measure in subjects.items():
            values[name].append(measure())
    return {name: Figures.of(each) for name, each in values.items()}


def cpu_ms(pid: int) -> float:
    """Milliseconds of processor time that ``pid`` itself, of one thread, has taken."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def memory_mb(pid: int, without: str = "") -> float:
    """Megabytes of ``pid`` and of all below it, shared pages divided among their users.

    Args:
      pid: the server.
      without: the name of the commands that it runs, which are not counted.
    """
    total_kb = 0
    for each in (pid, *descendants(pid)):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if Path(f"/proc/{each}/comm").read_text().strip() == without:
                continue
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            total_kb += int(rollup.partition("\nPss:")[2].split()[0])
    return total_kb * 1024 / 1e6
