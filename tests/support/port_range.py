"""Ranges of ports that nobody uses."""

import os
import socket

_STEP = 100
_FIRST, _END = 18000, 32768
"""Above them the kernel takes a port for any connection that goes out, a network's own while it is stopped, too."""


def find_free_base_port(count: int) -> int:
    """The first of a range of free ports; processes begin to look in different places."""
    start = _FIRST + _STEP * (os.getpid() % 100)
    for base in range(start, _END - count, _STEP):
        if all(_is_free(port) for port in range(base, base + count)):
            return base
    raise AssertionError("no free range of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
