"""The same server with a launcher whose launches have something to remove.

    python -m cleanup_server

Stands for launchers that make something elsewhere. Each removal appends "1" to
the file that the run's variable TRACE names; the third one succeeds.
"""

from collections.abc import Mapping

from codex_serve import modes
from codex_serve.cli import main
from codex_serve.config import Config
from codex_serve.launchers import Launch, Launcher, Removal, RunInfo
from codex_serve.model import RunRequest

REMOVE = 'sleep 60 & printf 1 >>"$TRACE"; test "$(cat "$TRACE")" = 111'


def make_launcher(config: Config, environ: Mapping[str, str], instance: str) -> Launcher:
    def launch(request: RunRequest, run: RunInfo) -> Launch:
        return Launch(
            argv=(request.cli, *request.args),
            env={"PATH": "/usr/bin:/bin", **request.env},
            removal=Removal(("sh", "-c", REMOVE)),
        )

    return launch


if __name__ == "__main__":
    setattr(modes, "make_launcher", make_launcher)  # noqa: B010 - mypy sees a function of the module
    main()
