"""How long the steps of removing something may take; see ``command.Removal``.

Standard library only: the supervisors load it.
"""

ENDING_S = 20.0
"""How long a command that waits for what is removed is left to end by that."""

ATTEMPT_S = 4.0
"""How long one attempt to remove something may take."""

WATCH_S = 10.0
"""How long after such a command was killed something may yet appear: an engine
was seen to create a container 2.3 s after its client was dead."""

GIVE_UP_S = 3.0
"""How long removing may get nowhere before the run ends without it, for then somebody
waits to hear what the failure is, such as an engine that cannot be reached."""

GOING_ON_S = 30.0
"""How much longer it may take where there is less each time, as in a folder of
very many files. It is bounded, because somebody else may go on writing there."""

LONGEST_REMOVAL_S = max(ENDING_S + WATCH_S, GOING_ON_S) + GIVE_UP_S + ATTEMPT_S
"""A container is watched for, a folder goes on getting less, and neither does both."""


def watch_s(returncode: int, *, awaited: bool) -> float | None:
    """Return how long to look for what a command that is gone may have left.

    ``None`` where nothing can be left. At least one look is needed otherwise.

    Args:
      returncode: the command's exit code, or ``-n`` when signal n ended it.
      awaited: whether it was to wait for what is removed.
    """
    if awaited and returncode == 0:
        return None
    return WATCH_S if awaited and returncode < 0 else 0.0


FIRST_INTERVAL_S = 0.005
LAST_INTERVAL_S = 0.2
"""How long between two attempts to kill or to remove: longer each time, for what
does not die (a process that the kernel holds, or that is another user's)."""
