"""The heap of a process that runs for months: what it has freed goes back to the system.

Every round allocates and frees megabytes of messages. What stays between them lies scattered, and glibc keeps the pages
around it: a process grows by some kilobytes a round although it holds nothing more (docs/soak.md).
"""

import ctypes
import sys


def return_freed_memory() -> None:
    """Give free pages of the heap back to the system; does nothing where the C library cannot (macOS, musl)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
