"""The same server, with calls that fail when they are told to; see ``faults.py``.

FAULTS=FILE python -m faulty_server
"""

import os
from pathlib import Path

import faults
from codex_serve.cli.main import main
from codex_serve.processes import pool

if __name__ == "__main__":
    path = os.environ["FAULTS"]
    helpers = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
        f"import faults; faults.install({path!r}, 'helpers'); "
    )
    setattr(pool, "_BOOT", helpers + pool._BOOT)  # noqa: B010 - mypy sees a constant
    faults.install(path, "server")
    main()
