"""Ranges of ports that nobody uses."""

import os
import socket

_STEP = 100


def find_free_base_port(count: int, first: int = 40000) -> int:
    """The first of a range of free ports; processes begin to look in different places."""
    start = first + _STEP * (os.getpid() % 100)
    for base in range(start, 65000 - count, _STEP):
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
