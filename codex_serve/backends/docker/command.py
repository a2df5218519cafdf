"""Docker mode: every run is a ``docker run`` of one image.

The rule this file guards: nothing that a request holds is read by the docker
client as an option or as a setting of its own, and no value is on its command
line but those of the operator.

So the variables whose names a request chooses do not pass through the client's
environment, where ``DOCKER_HOST`` or ``LD_PRELOAD`` would be obeyed by the
client, its loader or, where it is a script, its shell, and a list of such names
is never whole. They are in a file for its ``--env-file``, in memory.

That carries all but the values with a line feed, or a carriage return at
their end, those that make a line of 64 KiB, and names that begin like a comment
or hold a blank (tried with docker 20.10 and 28.2). For these there is only
``--env=NAME``, and a list: a value on the command line can be read by
everybody, and a wrapper in the container would have to be in every image.
"""

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from codex_serve.backends.variables import PASS, overlay, passed
from codex_serve.core.config import DockerConfig
from codex_serve.core.errors import ApiError
from codex_serve.core.execution import RunInfo
from codex_serve.core.request import RunRequest
from codex_serve.processes.command import FILE_PATH, Launch, Removal

INSTANCE_LABEL = "codex-serve.instance"
RUN_LABEL = "codex-serve.run"
EXPIRY_LABEL = "codex-serve.expires"
"""Seconds since the epoch after which no run can be alive in a container, or ``never``."""

EXPIRY_SLACK_S = 3600.0
"""For the end of a run, and for clocks that differ."""

_OURS = ("LITELLM_BASE_URL", "LITELLM_API_KEY", "LITELLM_MODEL", "CLI_PROVIDER_NAME", PASS)
"""Variables for a container that mean nothing to the client, and that nothing else
is to set: they pass by name, behind all others."""

_CLIENTS_OWN = re.compile(
    r"PATH|HOME|TMPDIR|HOSTALIASES|LOCALDOMAIN|RES_OPTIONS|GCONV_PATH|LOCPATH|NLSPATH"
    r"|(?i:(ALL|FTP|HTTP|HTTPS|NO)_PROXY)"
    r"|GO(DEBUG|GC|MAXPROCS|MEMLIMIT|TRACEBACK|COVERDIR)"
    r"|(BUILDKIT|BUILDX|COMPOSE|DOCKER|DYLD|GLIBC|LD|MALLOC|OTEL|SSH|SSL|XDG)_.*"
    r"|ENV|IFS|CDPATH|SHELLOPTS|(BASH|PERL|PYTHON|RUBY|NODE).*",
    re.DOTALL,
)
"""Variables that the docker client, its runtime or its loader reads, or where it is a
script, its interpreter. For what a file cannot carry only, see above."""

_LONGEST_LINE = 65_535
_NAME_IN_FILE = re.compile(r"[^\s#\ufeff\ud800-\udfff][^\s\ud800-\udfff]*")
_VALUE_IN_FILE = re.compile(r"([^\n\ud800-\udfff]*[^\n\r\ud800-\udfff])?")
"""What a line of a file can carry. Before a name the client drops blanks of all sorts and
the mark of the byte order, at the end of a line one ``\\r``; and it wants UTF-8, which
the server's own variables (here with surrogates) need not be."""


@dataclass(frozen=True, slots=True)
class DockerClient:
    """The docker client of this machine.

    Attributes:
      path: absolute, so that no variable tells where it is.
      environ: its own environment, of which no request is a part.
    """

    path: str
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> "DockerClient | None":
        """Return the client that the server's own environment finds, if any, with that."""
        path = shutil.which("docker", path=environ.get("PATH"))
        return cls(os.path.abspath(path), environ) if path else None


@dataclass(frozen=True, slots=True)
class DockerLauncher:
    """A ``Launcher`` for the containers of one server.

    Attributes:
      docker: the operator's settings.
      client: starts the containers, and removes them.
      inherited: variables for every container, unless the request sets them.
      models: the models that the server lists; ``auto`` is the first real one.
      instance: the server's id, on every container.
      timeout_s: the longest that a run may take, or ``None``.
      env_pass: names of variables that the operator lets through to the CLI.
    """

    docker: DockerConfig
    client: DockerClient
    inherited: Mapping[str, str]
    models: Sequence[str]
    instance: str
    timeout_s: float | None
    env_pass: Sequence[str] = ()

    def __call__(self, request: RunRequest, run: RunInfo) -> Launch:
        """Return the ``docker run`` for ``request``.

        Raises:
          ApiError: 422 for a variable that reaches a container only through the
            docker client's environment, where the client would obey it.
        """
        model, args = split_model(request.args)
        if request.cli != "opencode":  # which takes its model from LITELLM_MODEL only
            args = request.args
        if model is None or model == "auto":
            model = next((name for name in self.models if name != "auto"), None)
        variables = {
            **({"LITELLM_MODEL": model} if model else {}),
            **overlay(self.inherited, request.env),
            "CLI_PROVIDER_NAME": request.cli,
            PASS: passed(self.env_pass, request.env),
        }
        ours = {variable: variables.pop(variable) for variable in _OURS if variable in variables}
        lines, others = _split(variables)
        for variable in others:
            if _CLIENTS_OWN.fullmatch(variable):
                raise ApiError(
                    422,
                    "invalid_request",
                    f"env[{variable[:64]!r}] must be shorter than 64 KiB and without a line feed "
                    "where runs take place in containers: else the docker client would obey it.",
                )
        name = container_name(self.instance, run)
        return Launch(
            argv=(
                *(self.client.path, "run", *([f"--env-file={FILE_PATH}"] if lines else [])),
                *(f"--env={variable}" for variable in others),
                *(*_defaults(self.docker), *self.docker.run_args),
                *(f"--env={variable}" for variable in ours),
                *("--rm", "-i", "--detach=false", f"--name={name}"),
                *(f"--label={label}" for label in self._labels(run)),
                *(self.docker.image, request.cli, *args),
            ),
            env={**self.client.environ, **others, **ours},
            removal=Removal(("container", self.client.path, name), awaited=True),
            file=lines or None,
        )

    def _labels(self, run: RunInfo) -> tuple[str, ...]:
        expiry = "never"
        if self.timeout_s is not None:
            expiry = str(math.ceil(run.started_at + self.timeout_s + EXPIRY_SLACK_S))
        return (
            f"{INSTANCE_LABEL}={self.instance}",
            f"{RUN_LABEL}={run.id}",
            f"{EXPIRY_LABEL}={expiry}",
        )


def _split(variables: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Return the lines of a file for ``--env-file``, and the variables that it cannot carry.

    Of two values the client takes that of the last ``--env``, and that of any before
    one in a file: what the operator sets by ``DOCKER_RUN_ARGS`` comes before a request.
    """
    lines = []
    others = {}
    for name, value in variables.items():
        line = f"{name}={value}".encode("utf-8", "surrogateescape")
        if (
            len(line) <= _LONGEST_LINE
            and _NAME_IN_FILE.fullmatch(name)
            and _VALUE_IN_FILE.fullmatch(value)
        ):
            lines += [line, b"\n"]
        else:
            others[name] = value
    return b"".join(lines), others


def _defaults(docker: DockerConfig) -> list[str]:
    """Return what ``DOCKER_RUN_ARGS`` can override: of two values the client takes the last."""
    options = [
        "--init",  # a CLI that is process 1 would ignore SIGTERM and reap no orphans
        f"--pull={docker.pull}",
        f"--memory={docker.memory}",
        f"--memory-swap={docker.memory}",  # else as much again in swap
        f"--pids-limit={docker.pids}",
        f"--cpus={docker.cpus:g}",
        f"--user={docker.user}",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--log-driver=none",  # else the engine writes every answer to its disk
    ]
    if docker.network:
        options.append(f"--network={docker.network}")
    if docker.read_only:
        options += ["--read-only", "--tmpfs=/tmp"]
    return options


def container_name(instance: str, run: RunInfo) -> str:
    """Return the name of a run's container. Nobody else's: it has two random parts."""
    return f"codex-serve-{instance}-{run.id}"


def split_model(args: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Take the model out of a CLI's arguments.

    ``--model X``, ``--model=X`` and ``-m X`` count, up to ``--``, and the last wins.

    Returns:
      The model, ``None`` where none is named, and the other arguments.
    """
    model: str | None = None
    rest: list[str] = []
    waiting = iter(args)
    for arg in waiting:
        if arg == "--":
            rest += [arg, *waiting]
        elif arg in ("--model", "-m"):
            model = next(waiting, model)
        elif arg.startswith("--model="):
            model = arg.removeprefix("--model=")
        else:
            rest.append(arg)
    return model, tuple(rest)
