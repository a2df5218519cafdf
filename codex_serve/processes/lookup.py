"""Where a command may be.

Standard library only: the supervisors load it.
"""

import os
from collections.abc import Mapping

NO_INTERPRETER = -1
"""In place of an ``errno``: the command is there, what it names to execute it is not.
The kernel says ``ENOENT`` for both."""


MANY = 64
"""How many places are looked at in one go; that many may hold one twice."""


def few_candidates(command: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the same as ``candidates`` where they are few; else nothing.

    For the server, which sends them along: the look-up of its own costs a supervisor
    40 KB. Many are left to the supervisor, because nothing else waits for that.
    """
    if "/" not in command and env.get("PATH", os.defpath).count(os.pathsep) >= MANY:
        return ()
    return tuple(candidates(command, env))


def candidates(command: str, env: Mapping[str, str]) -> list[str]:
    """Return where ``command`` may be, in the order in which ``execvp`` looks."""
    if "/" in command:
        return [command]
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    if len(folders) > MANY:
        folders = list(dict.fromkeys(folders))
    at = 0
    while at < len(folders):  # no comprehension: it costs a supervisor 50 KB
        folders[at] = f"{folders[at] or '.'}/{command}"
        at += 1
    return folders
