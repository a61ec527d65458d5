"""Ranges of ports on 127.0.0.1 that nobody uses, and that nobody else here is given meanwhile.

    base_port = reserve_ports(70)

Seconds pass from the choice of a range to the moment when a network listens there, and others that look for ports at
the same time must not come to the same. So a range is reserved: the process holds the UDP ports of the same numbers,
which no network of ours uses and which the system frees when the process ends.
"""

import atexit
import contextlib
import os
import socket
from collections import deque

_FIRST, _END = 17050, 32760
"""Above them the kernel takes a port for any connection that goes out, a network's own while it is stopped, too."""
_BLOCK = 10
"""An organisation's ports."""
_STRIDE = 13
"""Blocks between the places where processes of two neighbouring numbers begin to look."""
_KEPT_BLOCKS = 100
"""How many a process holds; of more, those that it reserved first are free again, or their networks listen by now."""

_Reservation = list[socket.socket]
_held: deque[_Reservation] = deque()


def reserve_ports(count: int = 1) -> int:
    """Reserve a range of ports for this process.

    Args:
        count: How many; whole blocks of ten are taken.

    Returns:
        The first of them. Processes begin to look in different places.

    Raises:
        SystemExit: No range is free.
    """
    blocks = -(-count // _BLOCK)
    places = (_END - _FIRST) // _BLOCK - blocks + 1
    start = os.getpid() * _STRIDE
    for place in range(places):
        base = _FIRST + (start + place) % places * _BLOCK
        if reservation := _reserve(base, blocks):
            _hold(reservation)
            return base
    raise SystemExit(f"error: no {count} ports in a row are free on 127.0.0.1, from {_FIRST} to {_END}")


def _reserve(base: int, blocks: int) -> _Reservation | None:
    with contextlib.ExitStack() as stack:
        reservation = []
        for port in range(base, base + blocks * _BLOCK, _BLOCK):
            reservation.append(stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)))
            if not _bind(reservation[-1], port) or not all(map(_is_free, range(port, port + _BLOCK))):
                return None
        stack.pop_all()
        return reservation


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _bind(probe, port)


def _bind(one: socket.socket, port: int) -> bool:
    try:
        one.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _hold(reservation: _Reservation) -> None:
    _held.append(reservation)
    while len(_held) > 1 and sum(map(len, _held)) > _KEPT_BLOCKS:
        _release(_held.popleft())


def _release(reservation: _Reservation) -> None:
    for one in reservation:
        one.close()


@atexit.register
def _release_all() -> None:
    while _held:
        _release(_held.popleft())
