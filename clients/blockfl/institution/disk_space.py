"""Whether there is room on the disk of the agent's directory."""

import errno
import os
from pathlib import Path

_LEAST_BYTES = 1 << 20


def find_lack_of_room(directory: Path) -> str | None:
    """Return what is wrong when the disk of a directory is full, None when there is room."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None  # the user of the directory says what is wrong with it
    if found.f_bavail * found.f_frsize >= _LEAST_BYTES:
        return None
    return f"the disk is full: no room in {directory} ({os.strerror(errno.ENOSPC)}); free space, then start again"
