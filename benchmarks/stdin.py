"""10 MB of ``stdin`` to ``cat`` and back, from the request's first byte to the answer's last.

    python benchmarks/stdin.py

The limit is ``cat`` between two bare pipes.
"""

import subprocess
import time
from contextlib import ExitStack

import clients
import servers
from measuring import Results, Row, in_turn, main
from throughput import LINE, discarding

PROMPT = LINE * (10_000_000 // len(LINE))
ROUNDS = 7


def between_pipes() -> float:
    """MB/s."""
    start = time.perf_counter()
    done = subprocess.run(["cat"], input=PROMPT, stdout=subprocess.PIPE, check=True)
    elapsed = time.perf_counter() - start
    assert len(done.stdout) == len(PROMPT)
    return len(PROMPT) / elapsed / 1e6


def measure() -> Results:
    with ExitStack() as stack:
        request = clients.run("cat", stdin=PROMPT.decode())
        figures = in_turn(
            {
                name: discarding(port, request, len(PROMPT))
                for name, port in {
                    "ours": stack.enter_context(servers.ours()).port,
                    "FastAPI": stack.enter_context(servers.fastapi()).port,
                }.items()
            }
            | {"limit: pipes": between_pipes},
            ROUNDS,
        )
    ours, limit = figures["ours"], figures["limit: pipes"]
    row = Row(
        what="10 MB of `stdin` to `cat` and back",
        unit="MB/s",
        goal="≥ 125, or a quarter of the pipes",
        holds=ours.median >= min(125, limit.median / 4),
        figures=figures,
        more_is_better=True,
    )
    return Results([row])


if __name__ == "__main__":
    main(measure)
