"""The same server with a launcher whose launches have something to remove.

    python -m cleanup_server

Stands for launchers that make something elsewhere, and hand something to a command by a
file, here the run's variable TRACE. Its docker client appends "1"
to the file that the run's variable TRACE names; the third time it has nothing left
to remove. It leaves a process behind that holds its output.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from codex_serve.backends import select
from codex_serve.cli.main import main
from codex_serve.core.config import Config
from codex_serve.core.execution import RunInfo
from codex_serve.core.request import RunRequest
from codex_serve.processes.command import Launch, Launcher, Removal

CLIENT = """#!/bin/sh
test "$1 $2 $3" = "rm --force --volumes" || exit
sleep 60 &
printf 1 >>"$4"
test "$(cat "$4")" != 111 || echo "Error: No such container: $4" >&2
exit 1
"""


def launcher(client: Path) -> Launcher:
    def launch(request: RunRequest, run: RunInfo) -> Launch:
        return Launch(
            argv=(request.cli, *request.args),
            env={"PATH": "/usr/bin:/bin", **request.env},
            removal=Removal(("container", str(client), request.env["TRACE"])),
            file=request.env["TRACE"].encode(),
        )

    return launch


def serve(folder: Path) -> None:
    client = folder / "docker"
    client.write_text(CLIENT)
    client.chmod(0o755)

    def make_launcher(config: Config, environ: Mapping[str, str], instance: str) -> Launcher:
        return launcher(client)

    setattr(select, "make_launcher", make_launcher)  # noqa: B010 - mypy sees a function of the module
    main()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        serve(Path(folder))
