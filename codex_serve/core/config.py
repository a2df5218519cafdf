"""Every setting: its variable, its default, its check.

Nothing else reads the environment for settings. ``docs/configuration.md`` is
the same table for people; a test holds the two together.
"""

import math
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from codex_serve.core.errors import ConfigError

MAX_SECONDS = 10_000_000_000.0
"""About 317 years. Above it, sums with a clock would lose their meaning."""


LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Isolation(StrEnum):
    """How it is made sure that nothing outlives a run."""

    SUBREAPER = "subreaper"
    """A supervisor that is the subreaper of the command. Linux."""
    PIDNS = "pidns"
    """The same, and a PID namespace around the command. Linux, where allowed."""
    PROCESS_GROUP = "process-group"
    """A process group; what leaves it is not ended. Any POSIX system."""


DEFAULT_ISOLATION = Isolation.SUBREAPER if sys.platform == "linux" else Isolation.PROCESS_GROUP
"""The strongest that any machine of this system has."""


PULL_POLICIES = ("never", "missing", "always")


@dataclass(frozen=True)
class DockerConfig:
    """How the container of each run is started. The values are those of ``docker run``."""

    image: str
    pull: str = "never"
    memory: str = "2g"
    pids: int = 512
    cpus: float = 1.0
    network: str = ""
    user: str = "1000:1000"
    read_only: bool = True
    run_args: tuple[str, ...] = ()
    lease_dir: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "DockerConfig | None":
        """Read the settings of Docker mode; ``None`` where no image is named.

        Raises:
          ConfigError: a value that cannot work, in one sentence.
        """
        docker = cls(
            image=environ.get("CODEX_DOCKER_IMAGE", "").strip(),
            pull=_choice(environ, "DOCKER_PULL", cls.pull, PULL_POLICIES).lower(),
            memory=_memory(environ, "DOCKER_MEMORY", cls.memory),
            pids=_variable_whole(environ, "DOCKER_PIDS", cls.pids, 0, 4_194_304),
            cpus=_amount(environ, "DOCKER_CPUS", cls.cpus, 10_000, "processors"),
            network=environ.get("DOCKER_NETWORK", "").strip(),
            user=environ.get("DOCKER_USER", "").strip() or cls.user,
            read_only=_boolean(environ, "DOCKER_READ_ONLY", default=cls.read_only),
            run_args=_arguments(environ, "DOCKER_RUN_ARGS"),
            lease_dir=environ.get("DOCKER_LEASE_DIR", "") or _default_lease_dir(environ),
        )
        if docker.image.startswith("-"):
            raise ConfigError(
                f"CODEX_DOCKER_IMAGE must be the name of an image, not {docker.image!r}"
            )
        return docker if docker.image else None


@dataclass(frozen=True)
class Config:
    """The settings of one server, checked. Files they name are read by their users.

    Times are in seconds, sizes in bytes. ``max_connections`` is ``None`` where
    it is left to the limit of open files. ``warnings`` are sentences for the
    log about settings that were ignored.
    """

    host: str = "0.0.0.0"  # noqa: S104 - clients are other machines
    port: int = 8000
    models: tuple[str, ...] = ("auto",)
    clis: tuple[str, ...] = ("codex",)
    demo: bool = False
    run_timeout_s: float | None = None
    max_request_bytes: int = 16 * 1024 * 1024
    kill_grace_s: float = 2.0
    shutdown_grace_s: float = 10.0
    write_timeout_s: float = 30.0
    header_timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    max_connections: int | None = None
    token: str = field(default="", repr=False)
    token_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    isolation: Isolation = DEFAULT_ISOLATION
    cli_entrypoint: str = ""
    env_pass: tuple[str, ...] = ()
    docker: DockerConfig | None = None
    litellm: Mapping[str, str] = field(default_factory=dict, repr=False)
    log_level: str = "INFO"
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        *,
        host: str | None = None,
        port: str | None = None,
        demo: bool = False,
    ) -> "Config":
        """Read the settings from ``environ``; command-line values come before it.

        An empty variable means its default. With ``demo`` the bundled command
        is served beside what ``CLI_LIST`` names, and alone when it names none.

        Raises:
          ConfigError: a value that cannot work, in one sentence.
        """
        clis = _names(environ, "CLI_LIST", default=() if demo else cls.clis)
        if demo:
            clis = tuple(dict.fromkeys(("demo", *clis)))
        run_timeout_s, warnings = _run_timeout(environ)
        docker = DockerConfig.from_environ(environ)
        cli_entrypoint = environ.get("CLI_ENTRYPOINT", "")
        if docker is not None and (cli_entrypoint or demo):
            other = "CLI_ENTRYPOINT" if cli_entrypoint else "--demo"
            raise ConfigError(
                f"CODEX_DOCKER_IMAGE and {other} must not both be given: "
                "with an image every run takes place in a container of it"
            )
        return cls(
            host=host or environ.get("HOST") or cls.host,
            port=_whole("--port", port, 0, 65_535)
            if port is not None
            else _variable_whole(environ, "PORT", cls.port, 0, 65_535),
            models=_names(environ, "MODEL_LIST", default=cls.models),
            clis=clis,
            demo=demo,
            run_timeout_s=run_timeout_s,
            max_request_bytes=_variable_whole(
                environ, "RUN_MAX_REQUEST_BYTES", cls.max_request_bytes, 1, 2**40
            ),
            kill_grace_s=_seconds(environ, "RUN_KILL_GRACE_SECONDS", cls.kill_grace_s),
            shutdown_grace_s=_seconds(environ, "SHUTDOWN_GRACE_SECONDS", cls.shutdown_grace_s),
            write_timeout_s=_seconds(environ, "WRITE_TIMEOUT_SECONDS", cls.write_timeout_s),
            header_timeout_s=_seconds(environ, "HEADER_TIMEOUT_SECONDS", cls.header_timeout_s),
            body_timeout_s=_seconds(environ, "BODY_TIMEOUT_SECONDS", cls.body_timeout_s),
            max_connections=_variable_whole(environ, "MAX_CONNECTIONS", 0, 1, 1_000_000) or None,
            token=environ.get("CODEX_SERVE_TOKEN", "").strip(),
            token_file=environ.get("CODEX_SERVE_TOKEN_FILE", ""),
            tls_cert_file=environ.get("TLS_CERT_FILE", ""),
            tls_key_file=environ.get("TLS_KEY_FILE", ""),
            isolation=_isolation(environ, in_docker=docker is not None),
            cli_entrypoint=cli_entrypoint,
            env_pass=_variables(environ, "CLI_ENV_PASS"),
            docker=docker,
            litellm={
                name: value
                for name in ("LITELLM_BASE_URL", "LITELLM_API_KEY")
                if (value := environ.get(name, ""))
            },
            log_level=_choice(environ, "LOG_LEVEL", cls.log_level, LOG_LEVELS).upper(),
            warnings=warnings,
        )


def _names(environ: Mapping[str, str], variable: str, default: tuple[str, ...]) -> tuple[str, ...]:
    entries = (entry.strip() for entry in environ.get(variable, "").split(","))
    return tuple(dict.fromkeys(entry for entry in entries if entry)) or default


def _variables(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    names = _names(environ, variable, default=())
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ConfigError(
                f"{variable} must be names of variables, of letters, digits and _ "
                f"and with a letter in front, not {name!r}"
            )
    return names


def _run_timeout(environ: Mapping[str, str]) -> tuple[float | None, tuple[str, ...]]:
    """Read the one setting whose invalid value disables it.

    Clients must not lose the service over a typing error in a limit.
    """
    variable = "RUN_RESPONSE_TIMEOUT_SECONDS"
    text = environ.get(variable, "").strip()
    if not text:
        return None, ()
    seconds = _number(text)
    if seconds is None or seconds > MAX_SECONDS:
        return None, (
            f"{variable} must be a number of seconds up to {MAX_SECONDS:.0f}, not {text!r}: "
            "runs have no time limit",
        )
    return (seconds, ()) if seconds > 0 else (None, ())


def _seconds(environ: Mapping[str, str], variable: str, default: float) -> float:
    return _amount(environ, variable, default, MAX_SECONDS, "seconds")


def _amount(
    environ: Mapping[str, str], variable: str, default: float, high: float, unit: str
) -> float:
    text = environ.get(variable, "").strip()
    if not text:
        return default
    number = _number(text)
    if number is None or not 0 <= number <= high:
        raise ConfigError(
            f"{variable} must be a number of {unit} from 0 to {high:.0f}, not {text!r}"
        )
    return number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _variable_whole(
    environ: Mapping[str, str], variable: str, default: int, low: int, high: int
) -> int:
    text = environ.get(variable, "").strip()
    return _whole(variable, text, low, high) if text else default


def _whole(name: str, text: str, low: int, high: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return number


def _choice(
    environ: Mapping[str, str], variable: str, default: str, choices: tuple[str, ...]
) -> str:
    text = environ.get(variable, "").strip() or default
    if text.lower() not in map(str.lower, choices):
        raise ConfigError(f"{variable} must be one of {', '.join(choices)}, not {text!r}")
    return text


def _memory(environ: Mapping[str, str], variable: str, default: str) -> str:
    text = environ.get(variable, "").strip().lower() or default
    if not re.fullmatch(r"[0-9]+[bkmg]?", text):
        raise ConfigError(
            f"{variable} must be a whole number of bytes, or of k, m or g, as 2g, not {text!r}"
        )
    return text


def _boolean(environ: Mapping[str, str], variable: str, *, default: bool) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    text = environ.get(variable, "").strip()
    if text and text.lower() not in words:
        raise ConfigError(f"{variable} must be true or false, not {text!r}")
    return words[text.lower()] if text else default


def _arguments(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(environ.get(variable, "")))
    except ValueError as error:
        reason = str(error).lower()
        raise ConfigError(f"{variable} must be arguments as in a shell: {reason}") from None


def _default_lease_dir(environ: Mapping[str, str]) -> str:
    """Name a folder of this user's own, because a stranger's lease is no lease.

    Not where ``tempfile`` finds room today: every start must look in the same place.
    """
    return str(Path(environ.get("TMPDIR") or "/tmp") / f"codex-serve-{os.getuid()}")  # noqa: S108


def _isolation(environ: Mapping[str, str], *, in_docker: bool) -> Isolation:
    variable = "RUN_ISOLATION"
    text = _choice(environ, variable, DEFAULT_ISOLATION.value, tuple(Isolation))
    isolation = Isolation(text.lower())
    if isolation is not Isolation.PROCESS_GROUP and sys.platform != "linux":
        raise ConfigError(
            f"{variable} must be {Isolation.PROCESS_GROUP} on this system, not {text!r}: "
            "the other ways need Linux"
        )
    if isolation is Isolation.PIDNS and in_docker:
        raise ConfigError(
            f"{variable} must not be {isolation} with CODEX_DOCKER_IMAGE: "
            "every container has a PID namespace of its own"
        )
    return isolation
