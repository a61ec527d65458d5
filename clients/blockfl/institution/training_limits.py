"""What the training process may use of the machine, and the watch that ends it when it uses more.

The kernel's own limits count for a user or for one process. Here everything that training has started counts together.

Example:
    reason = await watch(pid, scratch, TrainingLimits(memory_bytes=4 << 30))
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import psutil

from blockfl.institution.scratch import measure_tree

_PERIOD_S = 1.0
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class TrainingLimits:
    """What training may use.

    Attributes:
        memory_bytes: Resident memory of all its processes together; None: as much as there is.
        scratch_bytes: Disk below its scratch directory.
        processes: How many processes it may run at once.
        gpu: Whether it may use this machine's NVIDIA GPUs.
        shared_memory: Whether it may use ``/dev/shm``.
    """

    memory_bytes: int | None = None
    scratch_bytes: int = 10 * _GIB
    processes: int = 256
    gpu: bool = False
    shared_memory: bool = False


async def watch(pid: int, scratch: Path, limits: TrainingLimits) -> str:
    """Wait until training uses more than it may.

    Args:
        pid: The process that the agent has started; all that it started counts, too.
        scratch: Its scratch directory.
        limits: What it may use.

    Returns:
        What it used too much of, in words. Never returns while it keeps to its limits.
    """
    while True:
        await asyncio.sleep(_PERIOD_S)
        if reason := await asyncio.to_thread(_find_excess, pid, scratch, limits):
            return reason


def _find_excess(pid: int, scratch: Path, limits: TrainingLimits) -> str | None:
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return None
    if len(family) > limits.processes:
        return f"ran {len(family)} processes, more than {limits.processes} (--training-processes)"
    if limits.memory_bytes is not None and (used := sum(map(_read_memory, family))) > limits.memory_bytes:
        return f"used {used / _GIB:.1f} GiB of memory, more than {limits.memory_bytes / _GIB:g} (--training-memory)"
    if (used := measure_tree(scratch)) > limits.scratch_bytes:
        written = f"{used / _GIB:.1f} GiB" if used < 1 << 60 else "endlessly many files"
        return f"wrote {written} into {scratch}, more than {limits.scratch_bytes / _GIB:g} GiB (--training-disk)"
    return None


def _read_memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
