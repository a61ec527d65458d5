"""Confinement of the training process: what it may read, where it may write, and that it reaches nothing else.

``confine`` is called in the training process itself, before any code of the user and before any library that starts
threads. From then on, for this process and all that it starts:

* it reads the interpreter, the libraries, and the files that the user named; nothing else of the disk;
* it writes its scratch directory only;
* it opens no socket, unix sockets included, and signals, traces, slows or inspects no process outside;
* it opens no device but harmless ones, unless the institution has chosen GPUs (``Reach.gpu``);
* it has no capability but those that override file permissions, and gains no new privilege.

What is *not* kept from it: names and sizes of files (``stat`` is not restricted), and processor time.

Example:
    confine(Reach(readable=(Path("data.npz"),), scratch=Path("scratch"), private=(Path("agent/key.pem"),)))
"""

import ctypes
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from blockfl.institution import landlock, seccomp
from blockfl.institution.errors import ConfinementError
from blockfl.institution.landlock import Grant

_SYSTEM_DIRECTORIES = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/alternatives", "/nix/store")
_SYSTEM_FILES = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/localtime", "/etc/timezone", "/etc/mime.types", "/etc/passwd",
    "/etc/group", "/etc/nsswitch.conf", "/etc/os-release",
)  # fmt: skip
_KERNEL_FILES = (
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems", "/proc/self",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/osrelease", "/sys/devices/system", "/sys/kernel/mm",
)  # fmt: skip
_READ_DEVICES = ("/dev/random", "/dev/urandom")
_WRITE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")

_DEVICES = Path("/dev")
_GPU_FILES = ("/proc/driver/nvidia", "/proc/driver/nvidia-uvm", "/proc/devices", "/proc/modules", "/sys/module/nvidia",
    "/sys/module/nvidia_uvm", "/sys/bus/pci/devices", "/sys/devices")  # fmt: skip
"""What NVIDIA's libraries read to find a GPU."""

_DROP_BOUNDING, _AMBIENT, _AMBIENT_CLEAR_ALL = 24, 47, 4
_CAPABILITY_VERSION = 0x20080522
_OVERRIDE_PERMISSIONS = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: a container's root still reads the data mounted into it."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What the training process may reach.

    Attributes:
        readable: The user's files, or directories with all beneath them.
        scratch: The one directory that it may write; also its home and temporary directory.
        private: What must stay out of reach; a grant that covers one of these is refused.
        gpu: Whether it may use this machine's NVIDIA GPUs.
        shared_memory: Whether it may use ``/dev/shm``, which every process of the same user can.
    """

    readable: tuple[Path, ...]
    scratch: Path
    private: tuple[Path, ...]
    gpu: bool = False
    shared_memory: bool = False


def list_devices(reach: Reach, devices: Path = _DEVICES) -> tuple[Grant, ...]:
    """Return the grants of devices that the institution has chosen.

    Args:
        reach: With the choice.
        devices: The directory of devices.

    Raises:
        ConfinementError: There is no NVIDIA GPU, or no shared memory.
    """
    grants = []
    if reach.gpu:
        # Control, memory (nvidia-uvm), each GPU (nvidia0, ...), and nvidia-caps with the parts of a divided one.
        found = sorted(devices.glob("nvidia*"))
        if not found:
            raise ConfinementError(f"no {devices}/nvidia* is there: install NVIDIA's driver, or leave --gpu out")
        access = landlock.READ | landlock.WRITE_FILE | landlock.IOCTL_DEVICE
        grants += [Grant(path=path, access=access) for path in found]
        grants += [Grant(path=Path(name), access=landlock.READ_FILE | landlock.READ_DIR) for name in _GPU_FILES]
    if reach.shared_memory:
        path = devices / "shm"
        if not path.is_dir():
            raise ConfinementError(f"no {path} is there: mount it, or leave --shared-memory out")
        grants.append(Grant(path=path, access=landlock.WRITE))
    return tuple(grants)


def list_libraries() -> tuple[Path, ...]:
    """Return the directories of the interpreter and of the installed packages."""
    named = [*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    named += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return tuple(sorted({Path(name).resolve() for name in named if name and Path(name).is_absolute()}))


def list_grants(reach: Reach) -> tuple[Grant, ...]:
    """Return every grant, after checking that none covers what is private.

    Raises:
        ConfinementError: A private path lies within a grant, or a readable path lies within a private one; or a
            device that the institution has chosen is not there.
    """
    read = [*map(Path, _SYSTEM_DIRECTORIES), *list_libraries(), *reach.readable]
    _check_private(read, reach)
    files = [Path(name) for name in (*_SYSTEM_FILES, *_KERNEL_FILES, *_READ_DEVICES)]
    return (
        *(Grant(path=path, access=landlock.READ) for path in (*read, *files)),
        *(Grant(path=Path(name), access=landlock.READ_FILE | landlock.WRITE_FILE) for name in _WRITE_DEVICES),
        Grant(path=reach.scratch, access=landlock.WRITE),
        *list_devices(reach),
    )


def _check_private(read: Iterable[Path], reach: Reach) -> None:
    private = [path.resolve() for path in reach.private]
    scratch = reach.scratch.resolve()
    for grant in {path.resolve() for path in (*read, scratch)}:
        for secret in private:
            if secret.is_relative_to(grant):
                raise ConfinementError(
                    f"{secret} must stay out of reach of the training code, but lies in {grant}, which it may read: "
                    "move one of them"
                )
    for grant in {path.resolve() for path in reach.readable}:
        for secret in private:
            if grant.is_relative_to(secret):
                raise ConfinementError(
                    f"the training code would read {grant}, which lies in {secret}, the agent's own: move it elsewhere"
                )


def confine(reach: Reach) -> None:
    """Confine this process for ever. Call it while there is one thread only.

    Raises:
        ConfinementError: The kernel cannot do it, or a private path would be in reach.
    """
    if not sys.platform.startswith("linux"):
        raise ConfinementError(f"confinement needs Linux, this is {sys.platform}")
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names only
    if threads != 1:
        raise ConfinementError(f"{threads} threads run already: only what starts afterwards would be confined")
    grants = list_grants(reach)
    drop_capabilities()
    landlock.set_no_new_privileges()
    landlock.restrict(grants)
    seccomp.install(signals_scoped=landlock.read_version() >= landlock.SIGNAL_SCOPE_VERSION, gpu=reach.gpu)


def drop_capabilities() -> None:
    """Give up every capability but those that override file permissions. Without capabilities: nothing to do.

    Raises:
        ConfinementError: The kernel refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        if not _OVERRIDE_PERMISSIONS >> capability & 1:
            library.prctl(_DROP_BOUNDING, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()
    if library.capget(header, data) != 0:
        raise ConfinementError(f"the kernel refuses capget: {os.strerror(ctypes.get_errno())}")
    for index, value in enumerate(data):
        keep = _OVERRIDE_PERMISSIONS if index in (0, 1) else 0
        data[index] = value & keep
    if library.capset(header, data) != 0:
        raise ConfinementError(f"the kernel refuses capset: {os.strerror(ctypes.get_errno())}")
