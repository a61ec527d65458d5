"""The interpreters of the frameworks that are not among BlockFL's own packages.

    python = find_flower()          # of an environment of its own, made by the first call

``FLOWER_PYTHON`` and ``TORCH_PYTHON`` name other ones.
"""

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path("build/examples/environments")
FLOWER_PACKAGES = Path(__file__).parent / "flower" / "requirements.txt"
_TIMEOUT_S = 600


class Unavailable(Exception):
    """A framework is not on this machine and cannot be had; the message says what to do."""


def find_flower() -> Path:
    """Return an interpreter that has Flower; installs its locked packages if there is none.

    Raises:
        Unavailable: They cannot be had.
    """
    home = ENVIRONMENTS.absolute() / "flower"
    found = find_with("flwr", os.environ.get("FLOWER_PYTHON"), home / "bin" / "python")
    return found or install_packages(home, FLOWER_PACKAGES, "flwr")


def install_packages(home: Path, packages: Path, module: str) -> Path:
    """Make an environment of locked packages, and return its interpreter.

    Args:
        home: Where it shall be.
        packages: The packages with their digests.
        module: What it must be able to import then.

    Raises:
        Unavailable: The packages cannot be had.
    """
    print(f"{module}: installing its packages into {home}", flush=True)
    installer = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--compile-bytecode"]
    installer += ["--python", str(home / "bin" / "python"), "--require-hashes", "-r", str(packages)]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", str(home)], installer):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise Unavailable(f"{module} cannot be installed here ({said[0] if said else 'no reason'})") from error
    found = find_with(module, home / "bin" / "python")
    if found is None:
        raise Unavailable(f"{home} has no {module} that can be imported")
    return found


def find_pytorch() -> Path:
    """Return an interpreter that has PyTorch: ``TORCH_PYTHON``, or the system's.

    Raises:
        Unavailable: There is none. It is not installed from here: with what it brings for GPUs it takes gigabytes.
    """
    found = find_with("torch", os.environ.get("TORCH_PYTHON"), sys.executable, "/usr/bin/python3")
    if found is None:
        raise Unavailable(
            "no interpreter has PyTorch: install it (apt-get install python3-torch, or pip install torch in an "
            "environment of its own), and name its interpreter: TORCH_PYTHON=…/bin/python"
        )
    return found


def find_with(module: str, *interpreters: str | Path | None) -> Path | None:
    """Return the first interpreter that can import a module."""
    for one in interpreters:
        if one is None or not os.access(one, os.X_OK):
            continue
        if subprocess.run([str(one), "-c", f"import {module}"], capture_output=True).returncode == 0:
            return Path(one)
    return None
