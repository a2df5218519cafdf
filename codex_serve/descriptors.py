"""Descriptors: enough for every connection that is let in, checked at start."""

import resource

from codex_serve.errors import ConfigError

PER_CONNECTION = 10
"""The most that a connection takes: its socket, and while its run is being
started six ends of pipes, a memfd and two ends of a lifeline."""

RESERVE = 100
"""For the listeners, the supervisors that wait, the log, connections that are
turned away, and Python."""


def reserve_descriptors(max_connections: int) -> int:
    """Raise this process's soft limit of open files to what the connections may take.

    Returns:
      The soft limit as it was, which is the one for commands: some programs
      do something to every possible descriptor, or use ``select``.

    Raises:
      ConfigError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = RESERVE + PER_CONNECTION * max_connections
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return soft
    if hard != resource.RLIM_INFINITY and hard < needed:
        fits = max(0, (hard - RESERVE) // PER_CONNECTION)
        raise ConfigError(
            f"MAX_CONNECTIONS must be at most {fits}, not {max_connections}, where a process "
            f"may open {hard} files; or raise that limit to {needed} (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return soft
