"""Packages from npm for tests: installed once for each lock file, in the build directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build" / "node"


def install_packages(sources: Path, purpose: str) -> Path:
    """Install the packages that a directory's lock file names; without Node.js the test is skipped, except in CI.

    Args:
        sources: Holds package.json and package-lock.json.
        purpose: What needs them, for the reason of a skip.

    Returns:
        The directory node_modules.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        _give_up(f"Node.js or npm is missing: {purpose}")
    assert npm is not None
    lock = (sources / "package-lock.json").read_bytes()
    home = BUILD / hashlib.sha256(lock).hexdigest()[:16]
    if not home.exists():
        _install(npm, sources, home)
    return home / "node_modules"


def _install(npm: str, sources: Path, home: Path) -> None:
    partial = home.with_name(f"{home.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(sources / name, partial)
        command = [npm, "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=partial, capture_output=True, text=True)
        if done.returncode != 0:
            _give_up(f"npm cannot install the packages of {sources.name}: {done.stderr.strip()}")
        try:
            partial.rename(home)
        except OSError:
            # Another worker was faster.
            if not home.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _give_up(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
