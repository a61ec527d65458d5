"""Ending a long command well: SIGTERM and SIGINT cancel it, so that it can put its things away."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine


async def run_until_terminated(work: Coroutine[object, object, None]) -> None:
    """Run to the end, or until the process is asked to end."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
