"""The kernel's namespaces and TUN devices, in the few calls that the harness needs.

A thread may be in other namespaces than the rest of its process, and what it starts is there, too. So everything that
concerns a host is done in a thread that ends right after.
"""

import ctypes
import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
_CLONE_FS: Final = 0x00000200
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_DEVICE = "lan0"
_QUEUE_PACKETS = 2000
_T = TypeVar("_T")

_libc = ctypes.CDLL(None, use_errno=True)


class KernelError(Exception):
    """The kernel refused what the harness needs."""


def apart(work: Callable[[], _T], namespaces: Sequence[int] = ()) -> _T:
    """Do something in a thread of its own that has entered namespaces.

    Args:
        work: What to do; it may enter others.
        namespaces: Open descriptors of namespaces.

    Returns:
        What ``work`` returned; what it raised is raised.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            # A mount namespace can be entered only by what shares no working directory with other threads.
            unshare(_CLONE_FS)
            for descriptor in namespaces:
                _check(_libc.setns(descriptor, 0), "enter a namespace")
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


def unshare(flags: int) -> None:
    """Put this thread, or what it starts, into new namespaces.

    Raises:
        KernelError: The kernel does not allow it.
    """
    _check(_libc.unshare(flags), "make a namespace")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system in this mount namespace.

    Raises:
        KernelError: The kernel does not allow it.
    """
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(result, f"mount {kind or source} on {target}")


def make_network(addresses: Sequence[str], mtu: int) -> tuple[int, int]:
    """Make a network namespace whose only way out is one device.

    Args:
        addresses: The device's addresses, with the length of the network's prefix.
        mtu: Size of the largest packet in bytes.

    Returns:
        Open descriptors of the namespace and of the device's other end.

    Raises:
        KernelError: The kernel, or iproute2, refuses.
    """

    def make() -> tuple[int, int]:
        unshare(CLONE_NEWNET)
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError as error:
            raise KernelError(f"no TUN device can be made ({error.strerror})") from error
        _ip("link", "set", "lo", "up")
        _ip("link", "set", _DEVICE, "mtu", str(mtu), "txqueuelen", str(_QUEUE_PACKETS), "up")
        for address in addresses:
            _ip("address", "add", address, "dev", _DEVICE, *(["nodad"] if ":" in address else []))
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return namespace, device

    return apart(make)


def open_namespace(pid: int, kind: str) -> int:
    """Return an open descriptor of a process's namespace (``mnt``, ``pid``, ``net``)."""
    return os.open(Path("/proc") / str(pid) / "ns" / kind, os.O_RDONLY | os.O_CLOEXEC)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _check(result: int, what: str) -> None:
    if result:
        raise KernelError(f"the kernel does not let this process {what} ({os.strerror(ctypes.get_errno())})")
