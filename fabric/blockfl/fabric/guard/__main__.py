"""Runs a guard: `python -m blockfl.fabric.guard --config guard.json`, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

from blockfl.fabric.daemon import begin
from blockfl.fabric.errors import FabricError
from blockfl.fabric.guard.guard import Guard
from blockfl.fabric.guard.settings import GuardSettings

_LOG = logging.getLogger("blockfl.fabric.guard")


def main(arguments: list[str] | None = None) -> int:
    """Runs the guard until SIGTERM or SIGINT.

    Args:
        arguments: Command line; the process's own by default.

    Returns:
        Exit status.
    """
    description = "Stands before an ordering node, and refuses what would stop or stall peers."
    config = begin("blockfl.fabric.guard", description, "the guard's settings (guard.json)", arguments)
    try:
        asyncio.run(_run(config))
    except FabricError as error:
        _LOG.error("%s", error)
        return 1
    return 0


async def _run(config: Path) -> None:
    guard = Guard(GuardSettings.load(config))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await guard.start()
    _LOG.info("ready")
    await stop.wait()
    _LOG.info("stopping")
    await guard.stop()


if __name__ == "__main__":
    sys.exit(main())
