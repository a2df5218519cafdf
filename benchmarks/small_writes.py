"""A million 20-byte writes, a ``write`` for each.

    python benchmarks/small_writes.py

The writer is ``dd``. FastAPI and websocketd get 50,000 writes.
"""

from contextlib import ExitStack

from measuring import Results, Row, in_turn, main
from throughput import compare, file_of

LINE = b"0123456789012345678\n"
WRITES = 1_000_000
BRIEF_WRITES = 50_000
ROUNDS = 5


def dd(name: str, writes: int) -> tuple[str, ...]:
    return ("dd", f"if={name}", f"bs={len(LINE)}", f"count={writes}", "status=none")


def measure() -> Results:
    with ExitStack() as stack:
        name = stack.enter_context(file_of(LINE, WRITES * len(LINE)))
        subjects = compare(
            *(stack, dd(name, WRITES), WRITES * len(LINE)),
            *(dd(name, BRIEF_WRITES), BRIEF_WRITES * len(LINE)),
        )
        figures = in_turn(subjects, ROUNDS)
    ours, pipe = figures["ours"], figures["limit: pipe"]
    row = Row(
        what="a million 20-byte writes",
        unit="MB/s",
        goal="≥ half the pipe",
        holds=ours.median >= pipe.median / 2,
        figures=figures,
        more_is_better=True,
    )
    return Results([row])


if __name__ == "__main__":
    main(measure)
