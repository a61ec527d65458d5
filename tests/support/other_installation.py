"""The same product with another contract: an interpreter whose `blockfl.contract` differs from this one's."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import venv
from pathlib import Path

from blockfl import contract

_MODULE = "credits.py"


def install_other(directory: Path, comment: str, *, version: str = "1") -> Path:
    """Make an installation whose contract has one more comment, and return its interpreter."""
    room = Path(next(iter(contract.__path__)))
    shutil.copytree(room, directory / "code" / "blockfl" / "contract", ignore=shutil.ignore_patterns("__pycache__"))
    changed = directory / "code" / "blockfl" / "contract"
    with (changed / _MODULE).open("a") as file:
        file.write(f"# {comment}\n")
    definition = changed / "definition.py"
    definition.write_text(definition.read_text().replace('VERSION: Final = "1"', f'VERSION: Final = "{version}"'))
    environment = directory / "environment"
    venv.create(environment, symlinks=True, with_pip=False)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    # Its own contract comes first; all else is what this interpreter has.
    lines = [str(directory / "code"), *(f"import site; site.addsitedir({one!r})" for one in site.getsitepackages())]
    (packages / "other.pth").write_text("\n".join(lines) + "\n")
    return environment / "bin" / "python"


def run_other(python: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the ``blockfl`` command of an installation, with nobody at a terminal."""
    return subprocess.run(
        [str(python), "-m", "blockfl.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **variables},
    )
