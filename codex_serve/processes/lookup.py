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
