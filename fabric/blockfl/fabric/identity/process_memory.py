"""Keys in memory: kept from other processes of the same user."""

import ctypes
import resource
import sys
from typing import Final

_SET_DUMPABLE: Final = 4  # linux/prctl.h, PR_SET_DUMPABLE


def hide_memory() -> None:
    """Keep this process's memory and environment from other processes of the same user, and out of core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
