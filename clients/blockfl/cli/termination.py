"""Long commands: log with times, are ended well by SIGTERM and SIGINT, and show the watcher that they are alive."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path

from blockfl.fabric.log import LogFormat, configure_log

HEARTBEAT_VARIABLE = "BLOCKFL_HEARTBEAT"
"""Names a file that is touched as long as the process answers; a container's health check looks at its age."""
_HEARTBEAT_S = 5.0


def make_reporter(name: str, log_format: LogFormat | None) -> Callable[[str], None]:
    """Configure the log of a long command; return what logs one line of its work, with its time."""
    configure_log(log_format, level=logging.WARNING)
    logger = logging.getLogger(f"blockfl.{name}")
    logger.setLevel(logging.INFO)
    return logger.info


async def run_until_terminated(work: Coroutine[object, object, None]) -> None:
    """Run to the end, or until the process is asked to end."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    named = os.environ.get(HEARTBEAT_VARIABLE)
    heartbeat = asyncio.create_task(_beat(Path(named))) if named else None
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        if heartbeat is not None:
            heartbeat.cancel()


async def _beat(path: Path) -> None:
    while True:
        with contextlib.suppress(OSError):
            path.touch()
        await asyncio.sleep(_HEARTBEAT_S)
