"""Processes that look for ports at the same time get different ones."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import port_range
from examples.port_range import reserve_ports

ROOT = Path(__file__).parents[2]
HOLDER = """
import os, sys
from examples import port_range
os.getpid = lambda: 1
print(port_range.reserve_ports(int(sys.argv[1])), flush=True)
sys.stdin.read()
"""
"""It begins to look where all of them do, and holds what it found until it is told to end."""


def hold(count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(count)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def read_range(holder: subprocess.Popen[str], count: int) -> range:
    assert holder.stdout is not None
    base = int(holder.stdout.readline())
    return range(base, base + count)


@pytest.fixture
def holders() -> Iterator[list[tuple[subprocess.Popen[str], int]]]:
    started = [(hold(count), count) for count in (70, 1, 65, 120)]
    yield started
    for holder, _ in started:
        holder.communicate()


def test_ranges_of_processes_that_begin_together_share_no_port(
    holders: list[tuple[subprocess.Popen[str], int]],
) -> None:
    # All of them look in the same places, and nobody listens: only the reservations keep them apart.
    ports = [port for holder, count in holders for port in read_range(holder, count)]
    assert len(ports) == len(set(ports)) == 256


def test_ranges_of_one_process_share_no_port() -> None:
    first, second = reserve_ports(70), reserve_ports(70)
    assert abs(first - second) >= 70


def test_a_range_has_no_port_on_which_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    # One block in a place where nobody else looks.
    monkeypatch.setattr(port_range, "_FIRST", 16_000)
    monkeypatch.setattr(port_range, "_END", 16_010)
    with socket.create_server(("127.0.0.1", 16_009)), pytest.raises(SystemExit, match="no 10 ports in a row are free"):
        reserve_ports(10)
    assert reserve_ports(10) == 16_000
    with pytest.raises(SystemExit, match="no 10 ports in a row are free"):
        reserve_ports(10)


def test_what_is_too_much_is_an_error() -> None:
    with pytest.raises(SystemExit, match="error: no 20000 ports in a row are free"):
        reserve_ports(20_000)
