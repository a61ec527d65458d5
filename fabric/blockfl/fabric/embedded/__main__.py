"""Runs the embedded node: `python -m blockfl.fabric.embedded --config node.json`.

SIGTERM and SIGINT stop it; on SIGHUP it reads node.json again and takes up organisations that were added.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

from blockfl.fabric.daemon import begin
from blockfl.fabric.embedded.node import BANNER, EmbeddedNode
from blockfl.fabric.embedded.settings import NodeSettings
from blockfl.fabric.errors import FabricError

_LOG = logging.getLogger("blockfl.fabric.embedded")


def main(arguments: list[str] | None = None) -> int:
    """Runs the node until SIGTERM or SIGINT; SIGHUP makes it take up new organisations.

    Args:
        arguments: Command line; the process's own by default.

    Returns:
        Exit status.
    """
    config = begin("blockfl.fabric.embedded", BANNER, "the node's settings (node.json)", arguments)
    try:
        return asyncio.run(_run(config))
    except FabricError as error:
        _LOG.error("%s", error)
        return 1


async def _run(config: Path) -> int:
    _LOG.warning(BANNER)
    node = EmbeddedNode(NodeSettings.load(config))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    started = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    async def reload_when_started() -> None:
        await started.wait()
        await _reload(node, config)

    def reload() -> None:
        task = asyncio.create_task(reload_when_started())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    # Before anybody can know that it runs: without a handler the signal would end it.
    loop.add_signal_handler(signal.SIGHUP, reload)
    await node.start()
    started.set()
    _LOG.info("ready")
    asked, ended = asyncio.create_task(stop.wait()), asyncio.create_task(node.wait())
    await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
    _LOG.info("stopping")
    await node.stop()
    asked.cancel()
    await ended  # a ledger that stopped accepting ends the process: what has ended is started again
    return 0


async def _reload(node: EmbeddedNode, config: Path) -> None:
    try:
        await node.reload(NodeSettings.load(config))
    except FabricError as error:
        _LOG.error("the settings were not taken up: %s", error)


if __name__ == "__main__":
    sys.exit(main())
