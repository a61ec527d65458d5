"""The contract services of many organisations in one process: ``python -m benchmarks.services service.json …``."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.one_process import serve_contracts


async def serve(settings: list[Path]) -> None:
    """Serve until the process is told to end."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with AsyncExitStack() as stack:
        await serve_contracts(settings, stack)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve([Path(one) for one in sys.argv[1:]]))
