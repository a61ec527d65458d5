"""The page, served on this machine alone until it is asked to end.

async with Ledger(profile) as ledger:
    await serve(Watch(LiveSource(ledger), anchor), 0, print)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from blockfl.ledger.errors import LedgerError
from blockfl.page.access import Access
from blockfl.page.application import make_application
from blockfl.page.watch import Watch

_ADDRESS: Final = "127.0.0.1"
_CLOSING_S: Final = 1


class _Server(uvicorn.Server):
    """A server that leaves signals to the command that runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(watch: Watch, port: int, announce: Callable[[str], None]) -> None:
    """Verify a chain and serve its page; returns when cancelled.

    Args:
        watch: The chain.
        port: Where to listen on 127.0.0.1; 0: any free port.
        announce: Told the address, the token in it, once the page answers.

    Raises:
        LedgerError: The port is in use.
    """
    access = Access.draw()
    listener = _listen(port)
    config = uvicorn.Config(
        make_application(watch, access),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSING_S,
    )
    server = _Server(config)
    verifying = asyncio.create_task(watch.run())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    announce(f"http://{_ADDRESS}:{listener.getsockname()[1]}/#{access.token}")
    try:
        await asyncio.wait({serving, verifying}, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        verifying.cancel()
        server.should_exit = True
        await asyncio.wait({serving, verifying})
        listener.close()
    for task in (serving, verifying):
        task.result()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_ADDRESS, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise LedgerError(f"cannot listen on {_ADDRESS}:{port}: {error.strerror}; name another --port") from error
    return listener
