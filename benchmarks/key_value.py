"""A contract that writes one key, as a contract service: what transactions cost without any rule of ours."""

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from blockfl.contract.settings import ServiceSettings
from blockfl.fabric.shim import Context, ContractFault, ContractServer


async def write_key(context: Context) -> bytes:
    """Put the second argument under the first."""
    if context.function != "Put" or len(context.args) != 2:
        raise ContractFault("expected Put key value")
    await context.put_state(context.args[0].decode(), context.args[1])
    return b""


async def serve(settings: ServiceSettings, run: Callable[[Context], Awaitable[bytes]] = write_key) -> None:
    """Serve a contract until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = ContractServer(run, settings.package_id, settings.listen, settings.tls)
    await server.start()
    await stopping.wait()
    await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    asyncio.run(serve(ServiceSettings.load(parser.parse_args().config)))
