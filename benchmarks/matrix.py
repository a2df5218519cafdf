"""The battery as a table: cells with a process left, by way of starting and event.

    python benchmarks/matrix.py

Takes some minutes. ``tests/processes/test_cleanup.py`` asserts the column that counts.
"""

import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent.parent)]

from battery import EVENTS, Battery, kill_everybody, let_exit, settings_for
from codex_serve.processes.linux import become_subreaper
from serving import Server

WAYS = {
    "plain": {},
    "process-group": {"RUN_ISOLATION": "process-group"},
    "subreaper": {"RUN_ISOLATION": "subreaper"},
    "pidns": {"RUN_ISOLATION": "pidns"},
}


def main() -> None:
    become_subreaper()
    print("| event | " + " | ".join(WAYS) + " |")
    for event, usual in [*EVENTS.items(), (kill_everybody, False)]:
        results = []
        for way, settings in WAYS.items():
            if not usual and way in ("plain", "process-group"):
                results.append("–")
                continue
            module = "plain_server" if way == "plain" else "codex_serve"
            env = {"CLI_LIST": "python3", **settings_for(event), **settings}
            with (
                tempfile.TemporaryDirectory() as folder,
                ExitStack() as stack,
                Server(env, command=[sys.executable, "-m", module]) as server,
            ):
                places = ("nested",) if event is let_exit else ("direct", "nested")
                cells = Battery(server, Path(folder), places)
                stack.callback(cells.kill)
                cells.start(stack)
                with suppress(AssertionError):
                    event(cells)
                results.append(f"{len(cells.wait_for_nothing())} of {len(cells.cells)}")
                cells.kill()
        print(f"| {event.__name__} | " + " | ".join(results) + " |", flush=True)


if __name__ == "__main__":
    main()
