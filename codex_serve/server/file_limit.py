"""Descriptors: enough for every connection that is let in, checked at start."""

import logging
import resource
from dataclasses import dataclass

from codex_serve.core.errors import ConfigError

logger = logging.getLogger(__name__)

DEFAULT_CONNECTIONS = 1000

PER_CONNECTION = 10
"""The most that a connection takes: its socket, and while its run is being
started six ends of pipes, a memfd and two ends of a lifeline."""

RESERVE = 100
"""For the listeners, the supervisors that wait, the log, connections that are
turned away, and Python."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """What the limit of open files comes to.

    Attributes:
      max_connections: how many connections may be let in.
      max_files: the soft limit as it was found, which is the one for commands:
        some programs do something to every possible descriptor, or ``select``.
    """

    max_connections: int
    max_files: int


def reserve_descriptors(max_connections: int | None) -> Reserve:
    """Raise this process's soft limit of open files to what connections may take.

    Args:
      max_connections: how many there may be; ``None`` for 1,000, or as many as
        the hard limit allows.

    Raises:
      ConfigError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DEFAULT_CONNECTIONS if max_connections is None else max_connections
    if hard != resource.RLIM_INFINITY and hard < _files(wanted):
        fits = (hard - RESERVE) // PER_CONNECTION
        if fits < 1:
            raise ConfigError(
                f"A process must be able to open at least {_files(1)} files here, "
                f"not {hard} (ulimit -Hn)"
            )
        if max_connections is not None:
            raise ConfigError(
                f"MAX_CONNECTIONS must be at most {fits}, not {max_connections}, where a process "
                f"may open {hard} files; or raise that limit to {_files(wanted)} (ulimit -Hn)"
            )
        logger.warning(
            "a process may open %d files here (ulimit -Hn): MAX_CONNECTIONS is %d", hard, fits
        )
        wanted = fits
    if soft != resource.RLIM_INFINITY and soft < _files(wanted):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_files(wanted), hard))
    return Reserve(wanted, soft)


def _files(connections: int) -> int:
    return RESERVE + PER_CONNECTION * connections
