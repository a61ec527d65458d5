"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Small pieces, every second one of which stays: glibc keeps the pages between them until it is asked.
PROGRAM = """
import ctypes, sys
from blockfl.fabric.heap import return_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
pieces = [libc.malloc(16384) for _ in range(4000)]
for piece in pieces:
    ctypes.memset(piece, 1, 16384)
for index, piece in enumerate(pieces):
    if index % 50:
        libc.free(piece)
before = resident_kb()
if sys.argv[1] == "return":
    return_freed_memory()
print(before - resident_kb())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
@pytest.mark.parametrize(("word", "least", "most"), [("return", 20_000, 10**9), ("keep", -(10**9), 5_000)])
def test_pages_between_what_stays_go_back_to_the_system(word: str, least: int, most: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True, timeout=60)
    assert least <= int(done.stdout) <= most
