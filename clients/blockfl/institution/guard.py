"""The guard of the training process: it ends everything that training has started when the agent ends, however it ends.

A process can ask the kernel to end it with its parent, but what it starts cannot be made to. So the process that the
agent starts splits in two before anything else: the guard, which runs no code of the user, and its child, which trains.
Nothing leaves the guard's process group, because the filter refuses that; orphans become the guard's children.

Example:
    stand_guard(agent_pid)  # only the child, which trains, returns from here
"""

import ctypes
import os
import resource
import signal
import sys
from types import FrameType

_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36


def stand_guard(agent: int) -> None:
    """Split this process; the child returns, and the parent stays to guard it. Call it while there is one thread only.

    Args:
        agent: The agent's process id: with it everything ends.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guard = os.getpid()
    training = os.fork()
    if training == 0:
        die_with_parent(guard)
    else:
        _guard(training, agent)


def die_with_parent(parent: int) -> None:
    """End this process when its parent ends, however that happens."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            raise SystemExit(1)


def _guard(training: int, agent: int) -> None:
    """Wait until the training process ends, and end as it did; when the agent ends first, end the whole group."""
    signal.signal(signal.SIGTERM, _end_group)
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        library.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        library.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != agent:
        _end_group()
    # The pipes are the training process's: the agent must see them close with it.
    os.closerange(0, 3)
    while True:
        ended, status = os.wait()
        if ended == training:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                signal.signal(-code, signal.SIG_DFL)
                os.kill(os.getpid(), -code)
            os._exit(code & 0xFF)


def _end_group(_number: int = 0, _frame: FrameType | None = None) -> None:
    os.killpg(0, signal.SIGKILL)
