"""Ports on this machine: whether they are free, who has them, and when they answer."""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address

import psutil

from blockfl.network.errors import NetworkError

_PAUSE_S = 0.05
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def normalise_host(host: str) -> str:
    """Return a host name as it is, or an IP address in its shortest form.

    Raises:
        NetworkError: It is neither.
    """
    try:
        return ip_address(host.removeprefix("[").removesuffix("]") if host.startswith("[") else host).compressed
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise NetworkError(f"expected a host name or an IP address, got {host[:300]!r}") from None
    return host


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[IPv6 address]:port``.

    Raises:
        NetworkError: It is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535 or not _is_whole(host):
        raise NetworkError(f"expected an address as host:port, or [IPv6 address]:port, got {address[:300]!r}")
    return normalise_host(host), int(port)


def _is_whole(host: str) -> bool:
    """Whether nothing of a host may belong to the port: colons stand in brackets only."""
    return host.startswith("[") == host.endswith("]") == (":" in host)


def require_free_ports(wanted: Iterable[tuple[str, str]]) -> None:
    """Check that nobody listens where our processes will.

    Args:
        wanted: Address and the name of the process that needs it.

    Raises:
        NetworkError: Naming each taken port, who has it, and what to do.
    """
    taken = []
    for address, name in wanted:
        host, port = parse_address(address)
        with socket.socket(_family(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                taken.append(f"{address} for {name} ({_owner(port) or error.strerror})")
    if taken:
        raise NetworkError(
            f"ports are in use: {'; '.join(taken)}. Stop what uses them, or name others: "
            "`--base-port`, or `ports` in your consortium.yaml"
        )


def wait_for_port(address: str, timeout_s: float, check: Callable[[], None]) -> None:
    """Wait until somebody listens.

    Args:
        address: ``host:port``.
        timeout_s: How long.
        check: Called between attempts; raises when waiting is in vain.

    Raises:
        NetworkError: Nobody does in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        check()
        with contextlib.suppress(OSError), socket.create_connection(parse_address(address), timeout=1):
            return
        if time.monotonic() > deadline:
            raise NetworkError(f"{address}: nobody listens after {timeout_s:.0f} s")
        time.sleep(_PAUSE_S)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _owner(port: int) -> str | None:
    """Return which process listens on a port, if this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:] == (port,) and connection.pid:
                return f"in use by {psutil.Process(connection.pid).name()}, pid {connection.pid}"
    except psutil.Error:
        return None
    return None
