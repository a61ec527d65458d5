"""How a process that stays begins: its command line, its log, its open files."""

from __future__ import annotations

import argparse
from pathlib import Path

from blockfl.fabric.log import configure_log
from blockfl.fabric.reception import raise_file_limit


def begin(program: str, description: str, settings: str, arguments: list[str] | None) -> Path:
    """Reads the command line, sets up the log and raises the limit of open files.

    Args:
        program: Name of the package that is run.
        description: What the process does.
        settings: What the file of settings is called in the help.
        arguments: Command line; the process's own by default.

    Returns:
        The file of settings.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--config", type=Path, required=True, help=settings)
    parser.add_argument("--log-format", choices=("text", "json"), help="default: BLOCKFL_LOG_FORMAT, else text")
    parsed = parser.parse_args(arguments)
    configure_log(parsed.log_format)
    raise_file_limit()
    config: Path = parsed.config
    return config
