"""The same server with a launcher whose launches have something to clean up.

    python -m cleanup_server

Stands for launchers that start something elsewhere, such as a container.
Each run appends "1" and then "2" to the file that its variable TRACE names.
"""

from codex_serve import server
from codex_serve.cli import main
from codex_serve.config import Config
from codex_serve.launchers import Launch, Launcher
from codex_serve.model import RunRequest


def make_launcher(config: Config) -> Launcher:
    def launch(request: RunRequest) -> Launch:
        return Launch(
            argv=(request.cli, *request.args),
            env={"PATH": "/usr/bin:/bin", **request.env},
            cleanup=(
                ("no-such-command",),
                ("sh", "-c", 'printf 1 >>"$TRACE"'),
                ("sh", "-c", 'printf 2 >>"$TRACE"; sleep 60 & exit 1'),
            ),
        )

    return launch


if __name__ == "__main__":
    setattr(server, "_launcher", make_launcher)  # noqa: B010 - mypy sees a function of the module
    main()
