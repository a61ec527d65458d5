"""A file system of a chosen size, which a test can fill."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[None]:
    """A file system of this size at this path; the test is skipped where none can be mounted."""
    if reason := mount_small(path, size_bytes):
        pytest.skip(reason)
    try:
        yield
    finally:
        unmount(path)


def mount_small(path: Path, size_bytes: int) -> str:
    """Make a directory with a file system of this size; return why that cannot be, "" if it was done."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    return f"cannot mount a small file system: {mounted.stderr.decode().strip()}" if mounted.returncode else ""


def unmount(path: Path) -> None:
    """Take a file system away, though processes still use it."""
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(directory: Path) -> Path:
    """Fill the file system of a directory; return the file that does, to be removed again."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast
