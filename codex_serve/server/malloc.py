"""How the C library deals with memory that is free again."""

import ctypes

LARGE_BYTES = 1_048_576
"""From here on a block goes back to the system as soon as it is free."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def give_back_large_blocks() -> None:
    """Have the system get large blocks back, such as long prompts, for this whole process.

    glibc takes a large block that is freed for a sign that more will be wanted,
    and keeps up to 64 MB from then on. Smaller blocks, which every read makes, are
    kept as they would be. Source: mallopt(3). Other C libraries have no such call.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BYTES)
