"""The first process of a host: makes the host's view of the file system, then collects what ends.

When its input ends, because the harness is done or was killed, it ends too, and with it, by the kernel, every process
of the host. Run by `examples.hosts.host`: ``python -m examples.hosts.init SETTINGS``, as the first process of new
namespaces.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.hosts import kernel
from pydantic import BaseModel, ConfigDict

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
READY = b"ready\n"


class Settings(BaseModel):
    """What a host's first process is told.

    Attributes:
        name: The host's name.
        names: A file of names and addresses, in the form of ``/etc/hosts``.
        reachable: Paths that the host's user has to reach though a directory above them is closed to it.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    names: str
    reachable: list[str]


def main(arguments: Sequence[str]) -> None:
    """Be the first process of a host."""
    settings = Settings.model_validate_json(arguments[0])
    signal.signal(signal.SIGCHLD, _collect)
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS)
    socket.sethostname(settings.name)
    kernel.mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    kernel.mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    kernel.mount(settings.names, "/etc/hosts", "", _MS_BIND)
    for closed, paths in find_closed(settings.reachable).items():
        _open(closed, paths)
    os.write(1, READY)
    while os.read(0, 1):
        pass


def find_closed(paths: Sequence[str]) -> dict[Path, list[Path]]:
    """Return the directories on the way to paths that other users may not cross, and what has to be reached below."""
    closed: dict[Path, list[Path]] = {}
    for path in map(Path, paths):
        for above in reversed(path.parents):
            if not above.stat().st_mode & 0o001:
                closed.setdefault(above, []).append(path)
                break
    return closed


def _open(closed: Path, paths: Sequence[Path]) -> None:
    """Replace a closed directory by one that holds nothing but what has to be reached."""
    kept = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in paths]
    kernel.mount("tmpfs", str(closed), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=1m")
    for path, descriptor in kept:
        path.mkdir(parents=True, exist_ok=True)
        kernel.mount(f"/proc/self/fd/{descriptor}", str(path), "", _MS_BIND | _MS_REC)
        os.close(descriptor)


def _collect(_: int, __: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
